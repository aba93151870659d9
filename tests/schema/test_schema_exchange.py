"""A directory takes another's place in one step, or everything stays as it was."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dsocr_nvtx.errors import Refused
from dsocr_nvtx.schema import exchange
from dsocr_nvtx.schema.exchange import check_removable, put_in_place
from dsocr_nvtx.schema.files import check_directory, replacing_directory


def made(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "join.json").write_text(text)
    return folder


def test_the_two_exchange_their_names(tmp_path: Path) -> None:
    new, old = made(tmp_path / "new", "new"), made(tmp_path / "old", "old")
    put_in_place(new, old)
    assert ((old / "join.json").read_text(), (new / "join.json").read_text()) == ("new", "old")
    put_in_place(old, tmp_path / "absent")
    assert (tmp_path / "absent" / "join.json").read_text() == "new"


def test_a_file_system_without_exchange_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(one: Path, other: Path) -> None:
        raise OSError(errno.EINVAL, "no such flag")

    monkeypatch.setattr(exchange, "_exchange", unknown)
    new, old = made(tmp_path / "new", "new"), made(tmp_path / "old", "old")
    put_in_place(new, old)
    assert ((old / "join.json").read_text(), (new / "join.json").read_text()) == ("new", "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EPERM, errno.EXDEV, errno.EIO])
def test_what_cannot_be_exchanged_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(one: Path, other: Path) -> None:
        raise OSError(code, os.strerror(code), str(one), None, str(other))

    monkeypatch.setattr(exchange, "_exchange", refuse)
    old = made(tmp_path / "old", "old")
    with pytest.raises(Refused, match=f"old: cannot be written: {os.strerror(code)}"):  # noqa: SIM117
        with replacing_directory(old, "join.json", force=True) as folder:
            (folder / "join.json").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (old / "join.json").read_text() == "old"


def test_a_directory_stands_there_at_every_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed while the old one is removed leaves the new one in place."""
    old = made(tmp_path / "old", "old")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with replacing_directory(old, "join.json", force=True) as folder:
            (folder / "join.json").write_text("new")
    assert (old / "join.json").read_text() == "new"


def test_an_immutable_file_is_refused_before_anything_is_removed(tmp_path: Path) -> None:
    old = made(tmp_path / "old", "old")
    if shutil.which("chattr") is None:
        pytest.skip("no chattr here")
    if subprocess.run(["chattr", "+i", old / "join.json"], capture_output=True, check=False).returncode:
        pytest.skip("this file system, or this user, has no immutable files")
    try:
        with pytest.raises(Refused, match=r"join\.json: an immutable file"):
            check_directory(old, "join.json", force=True)
    finally:
        subprocess.run(["chattr", "-i", old / "join.json"], check=True)
    check_directory(old, "join.json", force=True)


def test_a_file_that_is_only_protected_against_writing_can_be_removed(tmp_path: Path) -> None:
    old = made(tmp_path / "old", "old")
    (old / "join.json").chmod(0o444)
    os.mkfifo(old / "pipe")
    (old / "link").symlink_to("/nowhere")
    check_removable(old)


def test_a_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = made(tmp_path / "old", "old")
    (old / "volume").mkdir()
    for mounted, found in ((old, "a mount point, which cannot be replaced"), (old / "volume", "volume: a mount point")):
        monkeypatch.setattr(os.path, "ismount", lambda path, mounted=mounted: Path(path) == mounted)
        with pytest.raises(Refused, match=found):
            check_directory(old, "join.json", force=True)
