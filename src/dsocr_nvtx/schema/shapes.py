"""The shape of one module call, of sequences that are alike or not: what every cost is a function of."""

from collections.abc import Iterable
from typing import Any, Self

from attrs import evolve, frozen

DTYPE_BYTES: dict[str, int] = {
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "tfloat32": 4,
    "float8_e4m3fn": 1,
}
"""Element types by name and size in bytes; their order is their code on the wire: append only."""


SERVED = "paged"
"""The attention of a serving engine. Where it is named, ``op_bytes`` are those of its fused kernels throughout."""


def causal_pairs(rows: int, keys: int) -> int:
    """Return the (query, key) pairs of a sequence under a causal mask: each row sees all keys up to its own."""
    return rows * (keys - rows) + rows * (rows + 1) // 2


@frozen(kw_only=True)
class Ragged:
    """Sums over the sequences of a call that are not alike, in place of ``batch`` times what each of them has.

    ``rows``: their query rows. ``keys``: the keys that each can attend to once the call's own are in the cache; 0
    without a cache. ``pairs``: the (query, key) pairs that the mask leaves; ``rectangle``: the masked ones too.
    ``slots``: the places in the cache that the kernel reads, whole blocks of a paged one.
    """

    rows: int
    keys: int
    pairs: int
    rectangle: int
    slots: int


@frozen(kw_only=True)
class CallShape:
    """The shape of one module call: everything its cost depends on besides the module's own dimensions.

    ``batch`` sequences (or images, or tiles) of ``tokens`` rows each. ``height`` x ``width`` is the grid that the rows
    form where the module is two-dimensional (pixels for a patch embedding, patches inside SAM), else 0. ``kv_len`` is
    the number of keys a query can attend to once this call's own are appended (0 without a cache: then ``tokens``);
    ``kv_slots`` the length of the key tensor the kernel gets (more than ``kv_len`` for a static cache; 0: the same).
    ``prompt``: how many leading keys of each sequence a sliding window never drops; only layers with a window ask, and
    only once something lies in the cache. ``logits``: the rows that the head computes, over all sequences (0: the last
    of each).

    Sequences that are not alike are told by their sums, ``ragged``: `of_sequences` and `of_sums` make such shapes, in
    which ``tokens`` and ``kv_len`` are rounded means, for show. `sequences`, `rows`, `keys`, `pairs` and `slots` hold
    for both: they are what the wire carries, and what every cost of the decoder follows from.
    """

    batch: int = 1
    tokens: int = 1
    height: int = 0
    width: int = 0
    kv_len: int = 0
    kv_slots: int = 0
    dtype: str = "bfloat16"
    attention: str = "sdpa"
    experts: str = "grouped_mm"
    prompt: int = 0
    logits: int = 0
    ragged: Ragged | None = None

    @classmethod
    def of_sequences(cls, sequences: Iterable[tuple[int, int]], *, block: int = 1, **others: Any) -> Self:
        """Return the shape of sequences given as (query rows, keys once they are appended).

        ``block`` is the number of keys in a block of a paged cache. ``others`` are fields such as ``dtype``.
        """
        each = tuple(sequences)
        if not each or any(not 1 <= rows <= keys for rows, keys in each) or block < 1:
            raise ValueError(f"a sequence has at least one row and no fewer keys than rows, a block one key: {each!r}")
        return cls.of_sums(
            sequences=len(each),
            rows=sum(rows for rows, _ in each),
            keys=sum(keys for _, keys in each),
            pairs=sum(causal_pairs(rows, keys) for rows, keys in each),
            rectangle=sum(rows * keys for rows, keys in each),
            slots=sum(-(-keys // block) * block for _, keys in each),
            **others,
        )

    @classmethod
    def of_sums(
        cls, *, sequences: int, rows: int, keys: int, pairs: int, rectangle: int, slots: int = 0, **others: Any
    ) -> Self:  # fmt: skip
        """Return the shape of sequences of which the sums are known (`Ragged`); ``slots`` 0: as many as ``keys``.

        ``attention`` is `SERVED` if nothing else is said.
        """
        others.setdefault("attention", SERVED)
        if not 1 <= sequences <= rows or not (rows <= pairs <= rectangle) or 0 < keys < rows or 0 < slots < keys:
            found = f"{sequences=} {rows=} {keys=} {pairs=} {rectangle=} {slots=}"
            raise ValueError(f"each sequence has rows, each row keys, and each key a place: {found}")
        ragged = Ragged(rows=rows, keys=keys, pairs=pairs, rectangle=rectangle, slots=slots or keys or rows)
        return cls(batch=sequences, tokens=rows // sequences, kv_len=keys // sequences, ragged=ragged, **others)

    def with_length(self, kv_len: int) -> Self:
        """Return the shape with so many keys in each sequence's cache.

        Of sequences that are not alike it is the keys of all together, and each has one row, which sees every key.
        """
        if self.ragged is None:
            return evolve(self, kv_len=kv_len)
        sums = Ragged(rows=self.batch, keys=kv_len, pairs=kv_len, rectangle=kv_len, slots=kv_len)
        return evolve(self, kv_len=kv_len // self.batch, ragged=sums)

    @property
    def sequences(self) -> int:
        """How many sequences, images or tiles."""
        return self.batch

    @property
    def rows(self) -> int:
        """Rows of the hidden state, over all sequences."""
        return self.ragged.rows if self.ragged else self.batch * self.tokens

    @property
    def cached_keys(self) -> int:
        """Keys in the cache once this call's own are there, over all sequences; 0 without a cache."""
        return self.ragged.keys if self.ragged else self.batch * self.kv_len

    @property
    def keys(self) -> int:
        """Keys that the sequences attend to, over all of them; without a cache their own rows."""
        return self.cached_keys or self.rows

    @property
    def pairs(self) -> int:
        """The (query, key) pairs that a causal mask leaves, over all sequences."""
        return self.ragged.pairs if self.ragged else self.batch * causal_pairs(self.tokens, self.kv_len or self.tokens)

    @property
    def slots(self) -> int:
        """Places of keys that the attention kernel gets, over all sequences."""
        return self.ragged.slots if self.ragged else self.batch * self.kv_slots or self.keys

    @property
    def positions(self) -> int:
        """Rows of the table of rotary positions: sequences that are alike share one."""
        return self.ragged.rows if self.ragged else self.tokens

    @property
    def logit_rows(self) -> int:
        """Rows that the head computes."""
        return self.logits or self.batch

    @property
    def is_served(self) -> bool:
        """Whether a serving engine's kernels do the work: paged attention, fused norms, activations and experts."""
        return self.attention == SERVED

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPE_BYTES[self.dtype]
