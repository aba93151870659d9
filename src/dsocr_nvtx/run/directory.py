"""The run directory: written under a temporary name and moved into place whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attrs import asdict

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema.files import write_json
from dsocr_nvtx.schema.records import RunManifest

MANIFEST: Final = "run.json"


def default_directory() -> Path:
    """Return where a run goes that was not told: a name made of the time in UTC."""
    return Path("runs") / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a directory that holds something; with ``force``, only one that is not a run's."""
    if not target.exists():
        return
    if not target.is_dir():
        raise Refused(target, "a file", "name a directory")
    if not any(target.iterdir()):
        return
    if not force:
        raise Refused(target, "a directory that is not empty", "name another, or replace it with --force")
    if not (target / MANIFEST).is_file():
        raise Refused(target, f"a directory without {MANIFEST}, so not a run's", "name another; it is not deleted")


@contextmanager
def replacing_directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside ``target``; move it into place when the block ends well, remove it when not."""
    check_target(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_manifest(directory: Path, manifest: RunManifest) -> None:
    """Write ``run.json``."""
    write_json(asdict(manifest), directory / MANIFEST)


def write_output(directory: Path, tokens: list[list[int]], text: list[str] | None) -> None:
    """Write ``output.json``: the new tokens of each page, and their text where there is a tokenizer."""
    write_json({"tokens": tokens, "text": text}, directory / "output.json")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
