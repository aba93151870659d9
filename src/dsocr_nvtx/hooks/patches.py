"""Putting functions into the place of modules' methods, on the instance alone, and taking them out again.

A hooked module says how it is copied and pickled, so that a copy is a bare module: without that, the copy would call
the original's method, with the original's weights.
"""

import copyreg
from collections.abc import Callable
from threading import RLock
from typing import Any

from attrs import define, field
from torch import nn

Method = Callable[..., Any]

_ABSENT = object()
PATCHING = RLock()
"""Held while a method is read and replaced, or put back: sessions of several threads may hook one model."""
_MARK = "_dsocr_patch"


@define(eq=False)
class Patch:
    """One attribute of one instance, replaced by ``function``. ``is_open`` until the session that made it has left."""

    owner: Any
    name: str
    function: Method
    before: Any = field(init=False)
    is_open: bool = True

    def __attrs_post_init__(self) -> None:
        with PATCHING:
            self.before = self.owner.__dict__.get(self.name, _ABSENT)
            setattr(self.function, _MARK, self)
            self.owner.__dict__[self.name] = self.function

    def undo(self) -> None:
        """Put back what was there before, unless somebody has put something else into its place since.

        What was there may be a function of a session that has left meanwhile: then what that one found goes back.
        """
        with PATCHING:
            self.is_open = False
            if self.owner.__dict__.get(self.name) is not self.function:
                return
            before = self.before
            while (patch := _patch_of(before)) is not None and not patch.is_open:
                before = patch.before
            if before is _ABSENT:
                self.owner.__dict__.pop(self.name, None)
            else:
                self.owner.__dict__[self.name] = before


def _patch_of(value: Any) -> Patch | None:
    """Return the patch that put a function into its place; a function that was wrapped around it is not it."""
    patch = getattr(value, _MARK, None)
    return patch if isinstance(patch, Patch) and patch.function is value else None


class Patches:
    """The patches of one session."""

    def __init__(self) -> None:
        self._patches: list[Patch] = []

    @property
    def methods(self) -> list[tuple[nn.Module, str]]:
        """The methods that were replaced: module and name, in the order in which they were."""
        return [(patch.owner, patch.name) for patch in self._patches if patch.name not in _COPIES]

    def replace(self, owner: nn.Module, name: str, function: Method) -> None:
        """Let ``owner.name`` be ``function`` until `undo`."""
        known = {(id(patch.owner), patch.name) for patch in self._patches}
        for way, make in _COPIES.items():
            if (id(owner), way) not in known:
                self._patches.append(Patch(owner, way, make(owner)))
        self._patches.append(Patch(owner, name, function))

    def undo(self) -> None:
        """Take every function away, newest first, and keep no module of the model alive."""
        while self._patches:
            self._patches.pop().undo()


def _reduced(owner: nn.Module) -> Method:
    """Return how copy.deepcopy and pickle take a hooked module apart: as its class and its attributes, less ours."""

    def reduce_ex(_protocol: object) -> Any:
        return copyreg.__newobj__, (type(owner),), _bare(owner.__dict__)  # type: ignore[attr-defined]

    return reduce_ex


def _replicated(owner: nn.Module) -> Method:
    """Return how data parallelism copies a hooked module to another device: without our functions."""

    def replicate() -> Any:
        replica = type(owner)._replicate_for_data_parallel(owner)  # type: ignore[no-untyped-call]
        replica.__dict__ = _bare(replica.__dict__)
        return replica

    return replicate


def _bare(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return an instance's attributes as they were before any session patched them."""
    bare = {}
    for name, value in attributes.items():
        while (patch := _patch_of(value)) is not None:
            value = patch.before  # noqa: PLW2901 - what it was before, and before that
        if value is not _ABSENT:
            bare[name] = value
    return bare


_COPIES: dict[str, Callable[[nn.Module], Method]] = {
    "__reduce_ex__": _reduced,
    "_replicate_for_data_parallel": _replicated,
}
