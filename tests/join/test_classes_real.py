"""Kernel classes on the names of real reports: arithmetic is no copy because its template says ``nocast``."""

from pathlib import Path

import pytest

from dsocr_nvtx.ingest.report import read_projectable
from dsocr_nvtx.join.classes import classify
from dsocr_nvtx.join.columns import numbers

EXPORTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "nsys"
PYTORCH = ("0833976f", "2d2c1840", "6a707bc0", "7ae95da6", "ae393c7d", "cea71b17", "cfa580dc", "h200-graph-node")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("elementwise_kernel<128, 2, gpu_kernel_impl_nocast<BinaryFunctor<float, MulFunctor>>>", "norm_activation"),
        ("at::native::unrolled_elementwise_kernel<at::native::CUDAFunctor_add<float>>", "norm_activation"),
        ("elementwise_kernel<128, 2, gpu_kernel_impl_nocast<at::native::direct_copy_kernel_cuda>>", "data_movement"),
        ("void cudnn::fusion::lean_reduction_kernel<0, 0, 0>", "norm_activation"),
        ("void at::native::roll_cuda_kernel<float>", "data_movement"),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096>)", "other"),
    ],
)
def test_names_of_real_reports(name: str, kind: str) -> None:
    assert classify(name)[0] == kind


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="the public exports in ../shared/data/nsys are not here")
@pytest.mark.parametrize("identity", PYTORCH)
def test_nearly_all_time_of_a_pytorch_report_has_a_class(identity: str) -> None:
    operations = read_projectable(EXPORTS / f"{identity}.sqlite.xz").operations
    took = numbers(operations, "end_ns") - numbers(operations, "start_ns")
    strange = [classify(name)[0] == "other" for name in operations["name"].to_pylist()]
    assert took[strange].sum() < 0.02 * took.sum()
