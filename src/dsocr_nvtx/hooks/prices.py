"""What every call of a forward costs: worked out for all sites at once, from the signature that the entry read.

Costs are exclusive: a site's own work, and that of the parts inside it that are not hooked at this level.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from attrs import define, evolve, field, frozen

from dsocr_nvtx.analytic.layer import Layer, total
from dsocr_nvtx.hooks.sites import Site
from dsocr_nvtx.schema.payload import EXTENT_FIELDS, Flag
from dsocr_nvtx.schema.records import COST_FIELDS, CallShape, Cost

Words = npt.NDArray[np.int64]
_FINE = Flag(0)


@frozen
class Priced:
    """A call's shape and its exclusive cost; ``flags`` say what the cost is worth."""

    shape: CallShape
    cost: Cost
    flags: Flag = _FINE

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Sequences, and over all of them: query rows, keys, and the pairs of both that a causal mask leaves."""
        shape = self.shape
        if self.flags & Flag.UNKNOWN:
            return 0, 0, 0, 0
        return shape.sequences, shape.rows, shape.cached_keys, shape.pairs if shape.cached_keys else 0

    @property
    def words(self) -> list[int]:
        """The call's part of a payload: flags, extent, cost."""
        return [int(self.flags), *self.extent, *(getattr(self.cost, name) for name in COST_FIELDS)]


PRICED_WORDS = 1 + len(EXTENT_FIELDS) + len(COST_FIELDS)
NOT_KNOWN = Priced(CallShape(), Cost(), Flag.UNKNOWN)
NOTHING = Priced(CallShape(), Cost())


class CostCache:
    """Inclusive costs by description and shape: layers of one kind share theirs.

    Descriptions are known by identity, which is much cheaper than comparing them, and kept, so that it stays theirs.
    """

    MOST = 16_384

    def __init__(self) -> None:
        self._costs: dict[tuple[int, CallShape], Cost] = {}
        self._kept: dict[int, Layer] = {}

    def __call__(self, description: Layer, shape: CallShape) -> Cost:
        """Return the cost of a call, everything inside included."""
        found = self._costs.get((id(description), shape))
        if found is None:
            if len(self._costs) >= self.MOST:
                self._costs.clear()
                self._kept.clear()
            self._kept[id(description)] = description
            found = self._costs[id(description), shape] = description.cost(shape, price=self)
        return found


Regime = tuple[bool, bool]


@define(eq=False)
class ForwardCosts:
    """The costs of one kind of forward, of which only the KV length varies: a list by KV length, a price a site.

    Of sequences that are not alike, as a serving engine has, the KV length is that of all together; where it is 0 the
    shape says all, and `reshape` gives the kind another one. ``version`` counts those, and what was contradicted: costs
    read before are not those read after.

    ``root`` is the site whose call began the forward, ``sites`` are it and all below, in the order of their numbers.
    ``description`` is None where the entry could not be read: then no cost is known. ``flags`` hold for all sites,
    ``contradicted`` are the numbers of those whose first call had tensors that do not fit; ``checked`` of those that
    were looked at.
    """

    root: Site
    description: Layer | None
    shape: CallShape
    costs: CostCache
    number: int
    flags: Flag = _FINE
    checked: set[int] = field(factory=set)
    contradicted: set[int] = field(factory=set)
    version: int = 0
    sites: list[Site] = field(init=False)
    _last: tuple[int, list[Priced]] | None = None
    _growth: dict[Regime, Words | None] = field(factory=dict)

    @sites.default
    def _sites(self) -> list[Site]:
        return list(self.root.family())

    def at(self, kv_len: int) -> list[Priced]:
        """Return the price of every site at a KV length, in the order of ``sites``."""
        if self.description is None:
            return [NOT_KNOWN] * len(self.sites)
        if self._last is None or self._last[0] != kv_len:
            shape = self.root.shape(self.shape)
            if kv_len or not shape.ragged:
                shape = shape.with_length(kv_len)
            found = dict(self._priced(self.root, self.description, shape))
            prices = [self._flagged(site.number, found.get(site.number, NOTHING)) for site in self.sites]
            self._last = (kv_len, prices)
        return self._last[1]

    def price(self, number: int, kv_len: int) -> Priced:
        """Return the price of one site, by its number."""
        return self.at(kv_len)[number - self.root.number]

    def words(self, kv_len: int) -> Words:
        """Return the prices as parts of payloads, [sites, PRICED_WORDS]."""
        return np.array([price.words for price in self.at(kv_len)], np.int64)

    def regime(self, kv_len: int) -> Regime:
        """Return what the way in which costs grow depends on: a prompt alone or more, a static cache that is full."""
        if self.shape.ragged:
            return False, True
        return kv_len == self.shape.tokens, kv_len >= self.shape.kv_slots

    @property
    def together(self) -> int:
        """Return by how much the KV length grows with one more key in every sequence."""
        return self.shape.batch if self.shape.ragged else 1

    def reshape(self, shape: CallShape) -> None:
        """Let this kind of forward have another shape from now on."""
        if shape != self.shape:
            self.shape, self.version, self._last = shape, self.version + 1, None
            self._growth.clear()

    def growth(self, kv_len: int) -> Words | None:
        """Return what one more of the KV length adds to `words` while the regime lasts; None where that varies."""
        if self.shape.ragged and not kv_len:
            return None
        regime = self.regime(kv_len)
        if regime not in self._growth and regime != self.regime(kv_len + 2):
            return None
        if regime not in self._growth:
            one, two, three = (self.words(kv_len + more) for more in range(3))
            self._growth[regime] = two - one if (three - two == two - one).all() else None
        return self._growth[regime]

    def contradict(self, number: int | None = None) -> None:
        """Note that a call of a site had tensors that its derived cost does not fit: that cost is unknown now.

        Without a number it is the forward as a whole that was contradicted: costs stay, and say so.
        """
        if number is None:
            self.flags |= Flag.CONTRADICTED
        else:
            self.contradicted.add(number)
        self.version += 1
        self._growth.clear()
        self._last = None

    def _flagged(self, number: int, price: Priced) -> Priced:
        if number in self.contradicted:
            return Priced(price.shape, Cost(), Flag.UNKNOWN | Flag.CONTRADICTED)
        return evolve(price, flags=self.flags) if self.flags else price

    def _priced(self, site: Site, description: Layer, shape: CallShape) -> Iterator[tuple[int, Priced]]:
        parts = description.children(shape)
        hooked = [part for part in parts if part.name in site.children]
        if not hooked:
            yield site.number, Priced(shape, self.costs(description, shape))
            return
        rest = (self.costs(part.description, part.shape) for part in parts if part.name not in site.children)
        yield site.number, Priced(shape, total([description.own(shape), *rest]))
        for part in hooked:
            below = site.children[part.name]
            if not below.is_entry:
                yield from self._priced(below, part.description, part.shape)


class NoWork(Layer):
    """What a step's own range is priced by: it computes nothing itself."""

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - there is none
        """Return nothing."""
        return Cost()


class Prices:
    """The forwards of a session by their kind, each priced once."""

    def __init__(self) -> None:
        self._cache = CostCache()
        self._kinds: dict[tuple[int, int, CallShape], ForwardCosts] = {}
        self._known: dict[tuple[int, int, int], ForwardCosts] = {}
        self.forwards: list[ForwardCosts] = []

    def varying(self, root: Site, description: Layer, shape: CallShape) -> ForwardCosts:
        """Return a kind of forward of its own, to be given other shapes (`ForwardCosts.reshape`)."""
        made = ForwardCosts(root, description, shape, self._cache, len(self.forwards))
        self.forwards.append(made)
        return made

    def of(self, root: Site, description: Layer | None, shape: CallShape) -> ForwardCosts:
        """Return the costs of forwards that begin with a call of this shape, which has no KV length: it may be any.

        Shapes are looked for by identity first: readers give the same one again, and comparing takes much longer.
        """
        known = self._known.get((root.number, id(description), id(shape)))
        if known is not None:
            return known
        found = self._kinds.get((root.number, id(description), shape))
        if found is None:
            found = ForwardCosts(root, description, shape, self._cache, len(self.forwards))
            self._kinds[root.number, id(description), shape] = found
            self._known[root.number, id(description), id(shape)] = found  # which keeps both alive
            self.forwards.append(found)
        return found
