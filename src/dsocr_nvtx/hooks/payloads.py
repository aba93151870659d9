"""Payload tables: the NVTX records of all sites of a forward, bound once and edited in place.

A record is read by NVTX at the moment of the push, so one table serves every forward of a kind on one thread: between
two forwards the step changes, and the costs by what a longer KV cache adds, which is one vector addition.
"""

from typing import Any

import numpy as np

from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.prices import ForwardCosts, Regime, Words
from dsocr_nvtx.schema.payload import FIELD_INDEX, PAYLOAD_FIELDS, announcement, growth_announcement
from dsocr_nvtx.schema.records import DTYPE_BYTES, Stage, code_of

WIDTH = len(PAYLOAD_FIELDS)
_EVENT, _STEP, _PRICED = (FIELD_INDEX[name] for name in ("event_id", "step", "flags"))


class PayloadTable:
    """The records of one kind of forward in one stage, for one thread.

    ``attributes`` has an item for every site of the session: what a recorder pushes, or None where the site is not part
    of this forward or its first call is yet to be checked. ``words`` is a flat view of the records, in which that of
    site n begins at n * WIDTH - ``base``. ``told`` is what must not change if what `announce` said is still to hold:
    the way in which costs grow, else the KV length.
    """

    kv_len: int
    told: object
    _version: int
    _regime: Regime
    _growth: Words | None

    def __init__(self, costs: ForwardCosts, stage: Stage, kv_len: int, emitter: Emitter, sites: int) -> None:
        self.costs, self.stage, self.emitter = costs, stage, emitter
        self.stage_code, self.key = code_of(stage), (stage, costs.root.entry.number)
        self.first, self.base, self.in_use = costs.root.number, costs.root.number * WIDTH, False
        self.records = np.zeros((len(costs.sites), WIDTH), "<i8")
        for record, site in zip(self.records, costs.sites, strict=True):
            header = (code_of(site.kind), code_of(site.level), list(DTYPE_BYTES).index(site.dtype))
            record[:_PRICED] = (0, self.stage_code, 0, -1 if site.layer is None else site.layer, *header)
        self._steps, self._priced = self.records[:, _STEP], self.records[:, _PRICED:]
        self.refresh(kv_len)
        self.words: Any = self.records.reshape(-1).data  # writing an element takes a third of what numpy's own takes
        self._bound = [
            emitter.prepare(site.path, self.stage_code, record)
            for site, record in zip(costs.sites, self.records, strict=True)
        ]
        self.attributes: list[object] = [None] * sites
        for number in costs.checked:
            self.admit(number)

    def holds(self, number: int) -> bool:
        """Say whether a site is part of this forward."""
        return 0 <= number - self.first < len(self._bound)

    def admit(self, number: int) -> None:
        """Let calls of a site push its record from now on."""
        self.attributes[number] = self._bound[number - self.first]

    def update(self, step: int, kv_len: int) -> None:
        """Bring all records up to date for a forward with so many keys in the cache of every sequence."""
        self._steps.fill(step)
        costs, grown = self.costs, kv_len - self.kv_len
        if not grown and self._version == costs.version:
            return
        if self._growth is None or self._version != costs.version or costs.regime(kv_len) != self._regime:
            self.refresh(kv_len)
            return
        self._priced += self._growth if grown == 1 else self._growth * grown
        self.kv_len = kv_len

    def refresh(self, kv_len: int) -> None:
        """Write all prices anew."""
        costs, heard = self.costs, self.emitter.active or self.emitter.announces
        self._priced[:] = costs.words(kv_len)
        self.kv_len, self._version, self._regime = kv_len, costs.version, costs.regime(kv_len)
        self._growth = costs.growth(kv_len) if kv_len and heard else None
        how = self._regime, self._version
        self.told = how if self._growth is not None else (how, kv_len)

    def announce(self, next_id: int, *, growing: bool = False) -> None:
        """Say every site's cost in plain text, and of costs that grow by how much a key in each sequence adds.

        The entry's own cost is said at every forward, so it needs no growth: it says the length that others grow by.
        With ``growing`` only the costs that grow are said, and the entry's: the others were said before.
        """
        self.records[:, _EVENT] = next_id
        growth = self._growth
        for index, (site, record) in enumerate(zip(self.costs.sites, self.records, strict=True)):
            if index == 0 or growth is None or not growth[index].any():
                if not growing or index == 0:
                    self.emitter.mark(announcement(site.path, record.tolist()))
            else:
                increments = [0] * _PRICED + (growth[index] * self.costs.together).tolist()
                self.emitter.mark(growth_announcement(site.path, record.tolist(), increments))

    def announce_site(self, number: int, next_id: int) -> None:
        """Say one site's cost in plain text. ``next_id`` is the event id of the next range, whichever that is."""
        index = number - self.first
        at = index * WIDTH
        self.words[at + _EVENT] = next_id
        self.emitter.mark(announcement(self.costs.sites[index].path, self.words[at : at + WIDTH].tolist()))

    def announce_root(self, next_id: int) -> None:
        """Say the entry's cost, and with it the length of the cache, for costs that were announced as growing."""
        self.announce_site(self.first, next_id)

    def told_beyond(self) -> int:
        """Return the keys beyond as many for each sequence: what grows was told for so many."""
        return self.kv_len % self.costs.together
