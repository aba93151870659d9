"""Every test here must leave the stage as it found it."""

from collections.abc import Iterator

import pytest

from dsocr_nvtx.hooks import current_stage
from dsocr_nvtx.schema.records import Stage


@pytest.fixture(autouse=True)
def _stage_is_put_back() -> Iterator[None]:
    assert current_stage() is Stage.UNKNOWN
    yield
    assert current_stage() is Stage.UNKNOWN
