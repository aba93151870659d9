"""Hashes by which damage shows: of each file of a directory in the JSON file that tells it, and of that file itself.

What was written before there were hashes, and what others write, has none and is not held to any.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.checking import digest, read_json

FILES = "files"
"""Key of the hashes, by path below the directory."""
_OWN = "seal"
"""Key of the hash of all the other keys."""
_DAMAGED = "damaged, or changed since it was written: its hash is not the one that was noted"
_AGAIN = "make it again with the command that wrote it"


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of some files of a directory, by their paths below it."""
    return {file.relative_to(folder).as_posix(): digest(file) for file in files}


def sealed(told: Mapping[str, object]) -> dict[str, object]:
    """Return what a JSON file is to tell, with the hash of it."""
    return {**told, _OWN: _hash(told)}


def _hash(told: Mapping[str, object]) -> str:
    # As JSON reads it again: a key is text there, a tuple a list.
    plain = json.loads(json.dumps(told))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_sealed(path: Path, found: str, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file as `read_json` does; refuse one whose own hash does not fit."""
    told = read_json(path, found, remedy)
    own = told.pop(_OWN, None)
    if own is not None and own != _hash(told):
        raise Refused(path, _DAMAGED, remedy)
    return told


def files_in(told: Mapping[str, object]) -> dict[str, str]:
    """Return the hashes of files in what a JSON file tells; none where it tells none."""
    found = told.get(FILES)
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def check_seal(path: Path, data: bytes, noted: str | None) -> None:
    """Refuse a file whose bytes have another hash than the one that was noted, if any was."""
    if noted is not None and hashlib.sha256(data).hexdigest() != noted:
        raise Refused(path, _DAMAGED, _AGAIN)
