"""Records that cannot be weigh on the verdict: a few leave it as it is, many leave none."""

from pathlib import Path

import pytest

from dsocr_nvtx.report.caveats import caveats
from dsocr_nvtx.roofline.joined import joined_report
from tests.ingest.test_ingest_records import KERNEL, STEPS, forty_steps


@pytest.mark.parametrize(("broken", "judged"), [(0, True), (2, True), (3, False), (20, False)])
def test_a_verdict_stands_with_few_impossible_records_and_falls_with_many(
    tmp_path: Path, broken: int, judged: bool
) -> None:
    """Of 40 operations up to 2, which is one in twenty, may be set apart."""
    file = forty_steps()
    for row in file.rows[KERNEL][:broken]:
        row |= {"start": 0, "end": 0}
    whole = joined_report(file.write(tmp_path / "r.sqlite"))
    found = whole.judge()
    assert whole.joined.accounting.operations == STEPS - broken
    assert [bound is not None for bound in found.stages["bound"].to_pylist()] == [judged]
    texts = [one.text for one in caveats(found, whole.joined.accounting)]
    assert any("set apart, as it cannot be" in text for text in texts) == (broken > 0)
    assert any("no stage is judged" in text for text in texts) == (not judged)
