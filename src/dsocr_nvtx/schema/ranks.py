"""Which rank of a fleet a process is: a record, and the mark that carries it in a report.

The mark is plain text (``dsocr/1r RANK WORLD HOST GPU``), so that a default export has it. A damaged one is other text.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from attrs import asdict, frozen

RANK_PREFIX = "dsocr/1r "
"""Starts the marks that say which rank a process is."""

MOST_RANKS = 10**9 - 1
"""A mark has so many digits for a rank, and tables four bytes."""

_LINE = re.compile(re.escape(RANK_PREFIX) + r"([0-9]{1,9}) ([0-9]{1,9}) ([!-~]{1,255}) ([!-~]{1,80})")
_NONE = "-"


@frozen(kw_only=True)
class Rank:
    """A process of a fleet: its number, how many there are, its host's name, and its GPU; empty text where unknown."""

    rank: int = 0
    world_size: int = 1
    host: str = ""
    gpu_uuid: str = ""

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size} on {self.host or 'a nameless host'}"


def gpu_identity(uuid: str) -> str:
    """Return one spelling of a GPU's UUID: tools write it with or without ``GPU-``, in either case; MIG's stays."""
    bare = uuid.strip().lower().removeprefix("gpu-")
    return uuid.strip() if not bare or bare.startswith("mig-") else f"GPU-{bare}"


def rank_mark(rank: Rank) -> str:
    """Return the plain-text form of a rank."""
    host, gpu = (quote(text, safe="")[:limit] or _NONE for text, limit in ((rank.host, 255), (rank.gpu_uuid, 80)))
    return f"{RANK_PREFIX}{rank.rank} {rank.world_size} {host} {gpu}"


def parse_rank_mark(text: str) -> Rank | None:
    """Return what a mark says of its process, or None for any other text, damaged marks included."""
    found = _LINE.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]):
        return None
    host, gpu = ("" if word == _NONE else unquote(word) for word in found.groups()[2:])
    return Rank(rank=int(found[1]), world_size=int(found[2]), host=host, gpu_uuid=gpu_identity(gpu))


def ranks_text(ranks: Mapping[int, Rank]) -> str:
    """Return ranks by process id as the JSON text that tables carry in metadata ``ranks``."""
    return json.dumps([{"pid": pid, **asdict(rank)} for pid, rank in sorted(ranks.items())])


def rank_directory(parent: Path, rank: int) -> Path:
    """Return where a rank's run goes: a directory of its own inside the one that was named."""
    return parent / f"rank-{rank}"
