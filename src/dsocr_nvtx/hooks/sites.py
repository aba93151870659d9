"""Sites: the methods of a model that are hooked, as a tree that follows the tree of analytic layer descriptions.

An entry is a site at which a forward begins: the whole model, the image features, SAM, CLIP, the projector. The shapes
of all calls below an entry follow from the shape of the entry's own call, so only entries read their arguments.
"""

from collections.abc import Iterator

from attrs import define, evolve, field, frozen
from torch import nn

from dsocr_nvtx.analytic.layer import Layer
from dsocr_nvtx.schema.records import CallShape, LayerKind, Level, Stage


@define(kw_only=True, eq=False)
class Site:
    """One hooked method: where it lies in the network, and what describes its cost.

    ``name`` is the site's name among the children of its ``parent``'s description; ``children`` are the hooked sites
    inside by that name. ``number`` counts a session's sites, those below an entry right behind it; ``description`` is
    that of the layer, ``None`` for an entry whose description depends on the call.
    """

    path: str
    name: str
    kind: LayerKind
    level: Level
    layer: int | None
    description: Layer | None
    dtype: str
    attention: str
    is_vision: bool
    is_entry: bool = False
    number: int = -1
    parent: "Site | None" = None
    children: dict[str, "Site"] = field(factory=dict)
    is_stage: bool = field(init=False)
    """Whether a call of the site is a step of a stage."""

    def __attrs_post_init__(self) -> None:
        self.is_stage = self.level is Level.STAGE

    @property
    def entry(self) -> "Site":
        """The entry that the site lies below; an entry is its own."""
        site = self
        while not site.is_entry and site.parent is not None:
            site = site.parent
        return site

    def family(self) -> Iterator["Site"]:
        """Yield the site and every site below it that is no entry of its own, containers first."""
        yield self
        for child in self.children.values():
            if not child.is_entry:
                yield from child.family()

    def shape(self, shape: CallShape) -> CallShape:
        """Return a call's shape with the element type and the attention implementation of this site's tower."""
        return evolve(shape, dtype=self.dtype, attention=self.attention)


@frozen(kw_only=True, eq=False)
class Binding:
    """A site and the method to hook: an attribute of one module's instance."""

    owner: nn.Module
    site: Site
    method: str = "forward"


def number_sites(roots: list[Site]) -> list[Site]:
    """Give every site its number, each entry's family in one piece, and return them in that order."""
    entries = [site for root in roots for site in _entries(root)]
    sites = [site for entry in entries for site in entry.family()]
    for number, site in enumerate(sites):
        site.number = number
    return sites


def _entries(site: Site) -> Iterator[Site]:
    if site.is_entry:
        yield site
    for child in site.children.values():
        yield from _entries(child)


def step_sites(first: int) -> list[Site]:
    """Return a site for the steps of each stage, in the order of `Stage`, numbered from ``first``."""
    return [idle_site(stage, LayerKind.REST, first + number) for number, stage in enumerate(Stage)]


def idle_site(path: str, kind: LayerKind, number: int) -> Site:
    """Return the site of a range that is no call and has no cost of its own: a step, or the host's own work."""
    return Site(
        path=path, name=path, kind=kind, level=Level.STAGE, layer=None, description=None,
        dtype="bfloat16", attention="", is_vision=False, is_entry=True, number=number,
    )  # fmt: skip
