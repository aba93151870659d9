"""Every kind of input that is fuzzed."""

from tests.fuzz.harness import Subject
from tests.fuzz.own import Configuration, Joined, JoinedOnPurpose, Run
from tests.fuzz.reports import FolderBits, FolderValues, SqliteBits, SqliteValues

SUBJECTS: tuple[Subject, ...] = (
    SqliteBits(),
    SqliteValues(),
    *(kind(suffix) for kind in (FolderBits, FolderValues) for suffix in (".parquet", ".arrow")),
    Joined(),
    JoinedOnPurpose(),
    Run("run-bits"),
    Run("run-values", on_purpose=True),
    Configuration(),
)
