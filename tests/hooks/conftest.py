"""Every test here must leave the stage as it found it."""

from collections.abc import Iterator

import pytest

from dsocr_nvtx.hooks import current_stage
from dsocr_nvtx.hooks.recorder import CHOICE, NATIVE, PYTHON, native_recorder
from dsocr_nvtx.schema.records import Stage


@pytest.fixture(autouse=True)
def _stage_is_put_back() -> Iterator[None]:
    assert current_stage() is Stage.UNKNOWN
    yield
    assert current_stage() is Stage.UNKNOWN


@pytest.fixture(params=[PYTHON, NATIVE], scope="module")
def recorder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module's tests with each recorder; modules ask for it whose tests depend on what records."""
    if request.param == NATIVE and native_recorder("") is None:
        pytest.skip("the native recorder was not built: no C compiler, or no headers of NVTX")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHOICE, request.param)
        yield
