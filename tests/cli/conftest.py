"""The fixture that runs commands."""

from pathlib import Path

import pytest

from tests.cli.commands import Commands


@pytest.fixture
def dsocr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    """Return a runner of commands, whose temporary files go to a folder that tests can look into."""
    temporary = tmp_path.parent / f"{tmp_path.name}-temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return Commands(monkeypatch, capsys)
