"""Reading a configuration: Hugging Face objects and plain dictionaries alike, refusing what cannot be a dimension."""

from collections.abc import Mapping
from typing import Any, Self

from attrs import frozen

from dsocr_nvtx.errors import Refused

_MISSING = object()
_MOST, _MOST_LAYERS = (1 << 31) - 1, 1 << 12
"""A dimension fits 32 bits in every framework; layers, and entries of a list, are gone through one by one."""


@frozen
class Section:
    """One level of a configuration and the path to it, which every refusal names."""

    source: Any
    path: str = "config"

    def has(self, name: str) -> bool:
        """Say whether the field is there and not None."""
        return self._raw(name) not in (_MISSING, None)

    def section(self, name: str) -> Self:
        """Return a nested configuration."""
        value = self._raw(name)
        if value is _MISSING or value is None:
            raise self._refused(name, "is missing")
        if isinstance(value, (int, float, str, bool, list, tuple)):
            raise self._refused(name, f"is {value!r}, not a configuration")
        return type(self)(value, f"{self.path}.{name}")

    def count(self, name: str, default: int | None = None) -> int:
        """Return a whole number of at least one."""
        return self._whole(name, default, least=1)

    def layers(self, name: str) -> int:
        """Return a number of layers: at least one, and no more than any network has."""
        count = self.count(name)
        if count > _MOST_LAYERS:
            raise self._refused(name, f"is {count}, more than {_MOST_LAYERS:,}")
        return count

    def index(self, name: str, default: int | None = None) -> int:
        """Return a whole number of at least zero."""
        return self._whole(name, default, least=0)

    def side(self, name: str, default: int | None = None) -> int:
        """Return the side of a square, given as one number or as two equal ones."""
        value = self._raw(name)
        if isinstance(value, (list, tuple)):
            if len(value) != 2 or value[0] != value[1]:
                raise self._refused(name, f"is {list(value)!r}; only squares are modelled")
            return type(self)({name: value[0]}, self.path).count(name)
        return self.count(name, default)

    def counts(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return a list of at least one whole number, each at least one."""
        values = self._listed(name, default)
        if not values or not all(_is_whole(value) and 1 <= value <= _MOST for value in values):
            raise self._refused(name, f"is {list(values)!r}, not a list of positive whole numbers")
        return values

    def indices(self, name: str, below: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return a list of whole numbers, each from zero up to but not ``below``; it may be empty."""
        values = self._listed(name, default)
        if not all(_is_whole(value) and 0 <= value < below for value in values):
            raise self._refused(name, f"is {list(values)!r}; every entry must be a layer from 0 to {below - 1}")
        return values

    def words(self, name: str, count: int, allowed: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return a list of ``count`` of the allowed words, or None where the field is absent."""
        if not self.has(name):
            return None
        values = tuple(self._raw(name))
        if len(values) != count or not set(values) <= set(allowed):
            raise self._refused(name, f"is {list(values)!r}, not {count} of {', '.join(allowed)}")
        return values

    def word(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """Return one of the allowed words."""
        value = self._raw(name) if self.has(name) else default
        if value not in allowed:
            raise self._refused(name, f"is {value!r}, not one of {', '.join(allowed)}")
        return str(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return a truth value."""
        value = self._raw(name) if self.has(name) else default
        if not isinstance(value, bool):
            raise self._refused(name, f"is {value!r}, neither true nor false")
        return value

    def divides(self, part: str, whole: str) -> int:
        """Return ``whole`` / ``part``, two fields of which one must divide the other."""
        divisor, dividend = self.count(part), self.count(whole)
        if dividend % divisor:
            raise self._refused(part, f"is {divisor}, which does not divide {whole} = {dividend}")
        return dividend // divisor

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of the fields that are there, as they are."""
        return {name: self._raw(name) for name in names if self.has(name)}

    def at_most(self, name: str, limit: str) -> int:
        """Return a count that must not exceed another field."""
        value, most = self.count(name), self.count(limit)
        if value > most:
            raise self._refused(name, f"is {value}, more than {limit} = {most}")
        return value

    def refuse(self, name: str, found: str) -> Refused:
        """Return the refusal of a field for a reason of the caller's."""
        return self._refused(name, found)

    def _whole(self, name: str, default: int | None, least: int) -> int:
        value = self._raw(name)
        if value is _MISSING or value is None:
            if default is None:
                raise self._refused(name, "is missing")
            return default
        if not _is_whole(value):
            raise self._refused(name, f"is {value!r}, not a whole number")
        if value < least:
            raise self._refused(name, f"is {value}, less than {least}")
        if value > _MOST:
            raise self._refused(name, f"is {_shown(value)}, more than {_MOST:,}")
        return int(value)

    def _listed(self, name: str, default: tuple[int, ...] | None) -> tuple[int, ...]:
        if not self.has(name):
            if default is None:
                raise self._refused(name, "is missing")
            return default
        value = self._raw(name)
        if not isinstance(value, (list, tuple)):
            raise self._refused(name, f"is {value!r}, not a list")
        if len(value) > _MOST_LAYERS:
            raise self._refused(name, f"has {len(value):,} entries, more than {_MOST_LAYERS:,}")
        return tuple(value)

    def _raw(self, name: str) -> Any:
        if isinstance(self.source, Mapping):
            return self.source.get(name, _MISSING)
        return getattr(self.source, name, _MISSING)

    def _refused(self, name: str, found: str) -> Refused:
        return Refused(f"{self.path}.{name}", found, "pass the configuration the model was built from")


def _shown(value: int) -> str:
    """Return a number in few characters: JSON's may have thousands of digits."""
    return str(value) if value < 1 << 64 else f"a number of {value.bit_length():,} bits"


def _is_whole(value: object) -> bool:
    """Say whether a value is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)
