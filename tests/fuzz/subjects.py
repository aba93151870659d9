"""Every kind of input that is fuzzed."""

from tests.fuzz.harness import Subject
from tests.fuzz.own import Configuration, Joined, JoinedOnPurpose, Run
from tests.fuzz.reports import FolderBits, FolderValues, SqliteBits, SqliteValues, recorded, small

SUBJECTS: tuple[Subject, ...] = (
    SqliteBits("sqlite-bits", small, 0.3),
    SqliteBits("demo-bits", recorded, 0.0),
    SqliteValues(),
    *(kind(suffix) for kind in (FolderBits, FolderValues) for suffix in (".parquet", ".arrow")),
    Joined(),
    JoinedOnPurpose(),
    Run("run-bits"),
    Run("run-values", on_purpose=True),
    Configuration(),
)
