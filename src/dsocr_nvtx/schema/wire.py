"""A version of the wire: which whole numbers a payload has, and how a mark says them in plain text."""

import re
from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt
from attrs import frozen

from dsocr_nvtx.schema.records import Stage

Ints = npt.NDArray[np.int64]

_WORD = range(-(2**63), 2**63)


@frozen(kw_only=True, slots=False)
class Wire:
    """The ``fields`` of a payload in order, what its announcements begin with, and how readers take it.

    ``read`` turns payloads, [rows, fields], into [rows, `dsocr_nvtx.schema.payload.READ_FIELDS`], and
    ``read_increments`` what is added to payloads, given beside them, likewise.
    """

    fields: tuple[str, ...]
    prefix: str
    read: Callable[[Ints], Ints]
    read_increments: Callable[[Ints, Ints], Ints]

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The record's type: little-endian words."""
        return np.dtype([(name, "<i8") for name in self.fields])

    @property
    def announced(self) -> str:
        """What an announcement begins with."""
        return f"{self.prefix} "

    @property
    def growing(self) -> str:
        """What an announcement begins with that also says by how much each key in the KV cache adds to every field."""
        return f"{self.prefix}k "

    def announcement(self, path: str, values: list[int]) -> str:
        """Return the plain-text form of a payload."""
        return f"{self.announced}{path} {' '.join(map(str, values))}"

    def growth_announcement(self, path: str, values: list[int], increments: list[int]) -> str:
        """Return an announcement that holds while the cache grows."""
        return f"{self.growing}{path} {' '.join(map(str, values))} {' '.join(map(str, increments))}"

    def parse(self, text: str) -> tuple[str, list[int]] | None:
        """Return (path, values) of an announcement, or None for any other text.

        A damaged announcement is other text: a number that no payload could hold, or a stage that does not exist.
        """
        found = self._line.fullmatch(text)
        values = self._values(found[2]) if found is not None else None
        return (found[1], values) if found is not None and values is not None else None

    def parse_growth(self, text: str) -> tuple[str, list[int], list[int]] | None:
        """Return (path, values, increments) of an announcement that says how it grows, or None for any other text."""
        found = self._growth_line.fullmatch(text)
        values = self._values(found[2]) if found is not None else None
        if found is None or values is None:
            return None
        increments = [int(word) for word in found[3].split()]
        return (found[1], values, increments) if all(value in _WORD for value in increments) else None

    @cached_property
    def _line(self) -> re.Pattern[str]:
        return re.compile(f"{re.escape(self.announced)}([^ ]+){self._numbers}")

    @cached_property
    def _growth_line(self) -> re.Pattern[str]:
        return re.compile(f"{re.escape(self.growing)}([^ ]+){self._numbers}{self._numbers}")

    @property
    def _numbers(self) -> str:
        return f"((?: -?[0-9]{{1,19}}){{{len(self.fields)}}})"

    def _values(self, words: str) -> list[int] | None:
        values = [int(word) for word in words.split()]
        whole = all(value in _WORD for value in values) and values[self.fields.index("stage")] in range(len(Stage))
        return values if whole else None
