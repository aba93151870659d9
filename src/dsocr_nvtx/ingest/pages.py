"""SQLite table pages, read with numpy: whole columns at once, without a call per row.

The file format is fixed for good by its makers (https://sqlite.org/fileformat2.html). Contract: what this module
returns is what SQLite would; wherever a file is not the plain case (a journal beside it, another encoding, a value of
an unexpected type, a page that does not look as it should) it raises `NotPlain`, and the caller asks SQLite itself.
Pages are read in chunks that fit a processor's cache. One thread does it: what is done to a chunk is short, and two
threads spent as much time waiting for the GIL as they saved (measured on two cores).
"""

import os
from collections.abc import Callable, Iterator
from itertools import accumulate, compress
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from attrs import frozen

from dsocr_nvtx.ingest.cells import PADDING, Bytes, Chunk, Ints, NotPlain, varint
from dsocr_nvtx.ingest.source import Mask

_LEAF, _INTERIOR = 0x0D, 0x05
_CHUNK_BYTES = 1 << 20
_DEEPEST = 20


@frozen(eq=False)
class PageFile:
    """An open SQLite file as pages. ``usable`` is a page's size less the bytes reserved at its end."""

    descriptor: int
    page_size: int
    usable: int
    count: int

    @classmethod
    def open(cls, path: Path) -> "PageFile":
        """Open a file, beside which no journal lies, whose header promises the plain case: UTF-8, its length there."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return cls._from_header(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def _from_header(cls, descriptor: int) -> "PageFile":
        head = os.pread(descriptor, 100, 0)
        if len(head) < 100 or head[18:20] not in (b"\x01\x01", b"\x02\x02") or int.from_bytes(head[56:60]) != 1:
            raise NotPlain("another version or encoding")
        size = int.from_bytes(head[16:18])
        size = 65536 if size == 1 else size
        count = int.from_bytes(head[28:32])
        fresh = head[24:28] == head[92:96]  # else the count in the header is not maintained
        if size < 512 or not fresh or os.fstat(descriptor).st_size != size * count:
            raise NotPlain("not as long as it says")
        return cls(descriptor, size, size - head[20], count)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, numbers: Ints) -> Bytes:
        """Return pages by number as one flat array, padded."""
        flat = np.empty(len(numbers) * self.page_size + PADDING, np.uint8)
        flat[-PADDING:] = 0
        if ((numbers < 1) | (numbers > self.count)).any():
            raise NotPlain("a page number that the file does not have")
        runs = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 2) != 1)
        for begin, end in zip(runs, np.append(runs[1:], len(numbers)), strict=True):
            part = flat[begin * self.page_size : end * self.page_size]
            if os.preadv(self.descriptor, [part.data], (int(numbers[begin]) - 1) * self.page_size) != len(part):
                raise NotPlain("cut short")
        return flat

    def leaves(self, root: int) -> Ints:
        """Return the leaf pages of a table in row order."""
        level = np.array([root], np.int64)
        for _ in range(_DEEPEST):
            kinds = self._kinds(level)
            if (kinds == _LEAF).all():
                return level
            if not (kinds == _INTERIOR).all():
                break
            level = np.concatenate([self._children(int(page)) for page in level])
            if len(level) > self.count:
                break
        raise NotPlain("not a table's tree")

    def _kinds(self, numbers: Ints) -> Bytes:
        if numbers[0] == 1:
            raise NotPlain("the first page holds a header")
        # The children of one page are of one kind; the leaves themselves are checked again when they are read.
        some = numbers[:: max(1, len(numbers) // 8)]
        return np.concatenate([self.read(some[i : i + 1])[:1] for i in range(len(some))])

    def _children(self, number: int) -> Ints:
        page = self.read(np.array([number]))
        count = int(page[3]) << 8 | int(page[4])
        pointers = page[12 : 12 + 2 * count].astype(np.int64)
        cells = pointers[0::2] << 8 | pointers[1::2]
        if page[0] != _INTERIOR or count == 0 or (cells > self.usable - 4).any():
            raise NotPlain("an interior page that is not one")
        places = np.append(cells, 8)
        quads = page[places[:, None] + np.arange(4)]
        return np.ascontiguousarray(quads).view(">u4")[:, 0].astype(np.int64)


T = TypeVar("T")


@frozen(eq=False)
class Parts:
    """A table's leaf pages in parts that fit a cache, how many rows come before each, and how many there are."""

    pages: list[Ints]
    firsts: list[int]
    rows: int

    def holding(self, wanted: Mask) -> "Parts":
        """Return the parts in which some row is wanted."""
        ends = [*self.firsts[1:], self.rows]
        some = [bool(wanted[first:end].any()) for first, end in zip(self.firsts, ends, strict=True)]
        return Parts(list(compress(self.pages, some)), list(compress(self.firsts, some)), self.rows)


def parts_of(file: PageFile, root: int) -> Parts:
    """Return the parts of the table whose tree begins at a page."""
    leaves = file.leaves(root)
    step = max(1, _CHUNK_BYTES // file.page_size)
    pages = [leaves[at : at + step] for at in range(0, len(leaves), step)]
    *firsts, rows = accumulate((_count(file, part) for part in pages), initial=0)
    return Parts(pages, firsts, rows)


def chunks(file: PageFile, parts: Parts, parse: Callable[[Chunk, int], T]) -> Iterator[T]:
    """Return ``parse`` of each chunk of a table and the number of rows before it."""
    return (parse(_chunk(file, part), first) for part, first in zip(parts.pages, parts.firsts, strict=True))


def _count(file: PageFile, numbers: Ints) -> int:
    return int(_cells(file.read(numbers), np.arange(len(numbers)) * file.page_size).sum())


def _cells(flat: Bytes, base: Ints) -> Ints:
    return flat[base + 3].astype(np.int64) << 8 | flat[base + 4]


def _chunk(file: PageFile, numbers: Ints) -> Chunk:
    flat = file.read(numbers)
    base = np.arange(len(numbers)) * file.page_size
    if (flat[base] != _LEAF).any():
        raise NotPlain("a leaf page that is not one")
    count = _cells(flat, base)
    if (count * 2 + 8 > file.usable).any():
        raise NotPlain("more cells than a page holds")
    page = np.repeat(base, count)
    # A page begins with 8 bytes of its own and then where its cells are.
    pointers = flat[:-PADDING].reshape(len(numbers), -1)[:, 8 : 8 + 2 * int(count.max())].view(">u2")
    cell = page + pointers[np.arange(pointers.shape[1]) < count[:, None]]
    payload, at = varint(flat, cell)
    rowid, at = varint(flat, at)
    local = _local(payload, file.usable)
    if ((at + local > page + file.usable) | (payload < 1)).any():
        raise NotPlain("a cell outside its page")
    length, first = varint(flat, at)
    if (length > local).any():
        raise NotPlain("a header longer than the page")
    words = flat[: len(flat) // 8 * 8].view(">u8").astype(np.uint64)
    return Chunk(flat, words, rowid, first, at + length, at + local)


def _local(payload: Ints, usable: int) -> Ints:
    """Return how many bytes of each payload are on the page; the rest is on overflow pages."""
    most = usable - 35
    if payload.size == 0 or payload.max() <= most:
        return payload
    least = (usable - 12) * 32 // 255 - 23
    surplus = least + (payload - least) % (usable - 4)
    return np.where(payload <= most, payload, np.where(surplus <= most, surplus, least))
