"""Errors that users meet: what they say, and the exit code that they end a command with."""

from pathlib import Path

import pytest

from dsocr_nvtx.errors import DsocrError, Partial, Refused, Unavailable, UsageError


def test_exit_codes_are_those_of_the_design() -> None:
    # 2: wrong usage; 3: input refused, or something needed is not here.
    assert UsageError.exit_code == 2
    assert Partial.exit_code == 1  # of many, some
    assert {kind.exit_code for kind in (DsocrError, Refused, Unavailable)} == {3}
    assert len({kind.slug for kind in (DsocrError, Partial, UsageError, Refused, Unavailable)}) == 5


def test_a_refusal_says_which_file_what_was_found_and_what_to_do() -> None:
    refused = Refused(Path("run.sqlite"), "an empty file", "export it again")
    assert str(refused) == "run.sqlite: an empty file; export it again"
    assert (refused.where, refused.found, refused.remedy) == (Path("run.sqlite"), "an empty file", "export it again")


def test_every_error_is_caught_as_one() -> None:
    for error in (Partial("a"), UsageError("a"), Refused("a", "b", "c"), Unavailable("a")):
        with pytest.raises(DsocrError):
            raise error
