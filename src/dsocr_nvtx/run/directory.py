"""What a run directory holds besides the hooks' own tables, and where it goes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attrs import asdict

from dsocr_nvtx.schema.directories import RUN, read_manifest
from dsocr_nvtx.schema.files import write_json
from dsocr_nvtx.schema.records import RunManifest
from dsocr_nvtx.schema.seal import FILES, digests

MANIFEST: Final = RUN


def default_directory() -> Path:
    """Return where a run goes that was not told: a name made of the time in UTC."""
    return Path("runs") / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def write_manifest(directory: Path, manifest: RunManifest) -> None:
    """Write ``run.json``."""
    write_json(asdict(manifest), directory / MANIFEST)


def note_hashes(directory: Path) -> None:
    """Note in ``run.json`` the hash of every table: the last thing that is written of a run."""
    files = digests(directory, sorted(directory.rglob("*.arrow")))
    write_json({**read_manifest(directory), FILES: files}, directory / MANIFEST)


def write_output(directory: Path, tokens: Sequence[list[int] | None], text: Sequence[str | None] | None) -> None:
    """Write ``output.json``: the new tokens of each page (null: failed), and their text where there is a tokenizer."""
    write_json({"tokens": tokens, "text": text}, directory / "output.json")
