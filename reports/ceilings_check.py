"""Whether `dsocr-nvtx ceilings` is right: its roofs beside those of other code, measured at once. Needs CuPy, a GPU.

    dsocr-nvtx ceilings -o DIR/ceilings.arrow           # about a minute; left out, a quick one is made here
    python3 reports/ceilings_check.py -o DIR --ceilings DIR/ceilings.arrow

bfloat16 products: cuBLASLt called directly (no torch), every algorithm that its heuristic offers, over shapes and
layouts. Memory: copy and read kernels in CUDA C, compiled by CuPy. Bursts are 0.1 s on a rested GPU, sustained runs as
long as ours were. Prints a Markdown table and writes ``ceilings_check.md``; exit code 1 where a roof of ours is more
than 5 % below the best of the others.
"""

import argparse
import ctypes
import glob
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

TOLERANCE = 0.05
BURST_S, PAUSE_S = 0.1, 0.15
SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 16384, 8192), (8448, 9216, 8192), (16896, 8192, 8192))
WORKSPACE, ALGORITHMS = 64 << 20, 8
BF16, FLOAT, COMPUTE_FLOAT = 14, 0, 68
TRANSPOSE_A, TRANSPOSE_B, MAX_WORKSPACE = 3, 4, 1

SOURCE = r"""
template <int N> __device__ void read_body(const float4* in, float* out, long long count) {
    long long stride = (long long)gridDim.x * blockDim.x, at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.f;
    for (; at + (N - 1) * stride < count; at += N * stride) {
        float4 v[N];
        #pragma unroll
        for (int i = 0; i < N; ++i) v[i] = __ldcs(in + at + i * stride);
        #pragma unroll
        for (int i = 0; i < N; ++i) sum += v[i].x + v[i].y + v[i].z + v[i].w;
    }
    if (sum == 12345.678f) out[0] = sum;
}
template <int N> __device__ void copy_body(const float4* in, float4* out, long long count) {
    long long stride = (long long)gridDim.x * blockDim.x, at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    for (; at + (N - 1) * stride < count; at += N * stride) {
        float4 v[N];
        #pragma unroll
        for (int i = 0; i < N; ++i) v[i] = __ldcs(in + at + i * stride);
        #pragma unroll
        for (int i = 0; i < N; ++i) __stcs(out + at + i * stride, v[i]);
    }
}
extern "C" {
__global__ void read4(const float4* in, float* out, long long n) { read_body<4>(in, out, n); }
__global__ void read8(const float4* in, float* out, long long n) { read_body<8>(in, out, n); }
__global__ void copy2(const float4* in, float4* out, long long n) { copy_body<2>(in, out, n); }
__global__ void copy4(const float4* in, float4* out, long long n) { copy_body<4>(in, out, n); }
}
"""


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


def times(cp: Any, call: Callable[[], object], seconds: float, *, pause: float) -> list[float]:
    """Return seconds per call in windows of about a millisecond, back to back, after a pause."""
    for _ in range(3):
        call()
    cp.cuda.runtime.deviceSynchronize()
    started = time.perf_counter()
    for _ in range(3):
        call()
    cp.cuda.runtime.deviceSynchronize()
    about = (time.perf_counter() - started) / 3
    each = max(1, round(1e-3 / about))
    events = [cp.cuda.Event() for _ in range(max(5, round(seconds / about / each)) + 1)]
    time.sleep(pause)
    events[0].record()
    for event in events[1:]:
        for _ in range(each):
            call()
        event.record()
    cp.cuda.runtime.deviceSynchronize()
    return [cp.cuda.get_elapsed_time(a, b) / 1e3 / each for a, b in pairwise(events)]


def burst(cp: Any, call: Callable[[], object], work: float, seconds: float = BURST_S) -> float:
    """Return the median rate of a burst."""
    return work / statistics.median(times(cp, call, seconds, pause=PAUSE_S))


def sustained(cp: Any, call: Callable[[], object], work: float, seconds: float) -> float:
    """Return the median rate of the later half of a long run."""
    found = times(cp, call, seconds, pause=PAUSE_S)
    return work / statistics.median(found[len(found) // 2 :])


class Lt:
    """As much of cuBLASLt as a plain product needs."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(_library())
        self.handle = ctypes.c_void_p()
        self.check("cublasLtCreate", ctypes.byref(self.handle))

    def check(self, name: str, *arguments: Any) -> None:
        """Call a function and raise where it fails."""
        status = getattr(self.library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} returned {status}")

    def layout(self, rows: int, columns: int) -> ctypes.c_void_p:
        """Return a column-major bfloat16 layout."""
        made = ctypes.c_void_p()
        self.check(
            "cublasLtMatrixLayoutCreate", ctypes.byref(made), BF16, ctypes.c_uint64(rows), ctypes.c_uint64(columns),
            ctypes.c_int64(rows),
        )  # fmt: skip
        return made

    def calls(
        self, cp: Any, shape: tuple[int, int, int], data: Any, *, transposed: bool
    ) -> Iterator[Callable[[], None]]:
        """Yield a call for each algorithm that the heuristic offers for a product; ``data`` holds random bfloat16."""
        m, n, k = shape
        description, preference = ctypes.c_void_p(), ctypes.c_void_p()
        self.check("cublasLtMatmulDescCreate", ctypes.byref(description), COMPUTE_FLOAT, FLOAT)
        for attribute, value in ((TRANSPOSE_A, int(transposed)), (TRANSPOSE_B, 0)):
            self.check(
                "cublasLtMatmulDescSetAttribute", description, attribute, ctypes.byref(ctypes.c_int32(value)),
                ctypes.c_size_t(4),
            )  # fmt: skip
        a_layout = self.layout(k, m) if transposed else self.layout(m, k)
        b_layout, d_layout = self.layout(k, n), self.layout(m, n)
        self.check("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        self.check(
            "cublasLtMatmulPreferenceSetAttribute", preference, MAX_WORKSPACE,
            ctypes.byref(ctypes.c_uint64(WORKSPACE)), ctypes.c_size_t(8),
        )  # fmt: skip
        found, count = (Heuristic * ALGORITHMS)(), ctypes.c_int()
        self.check(
            "cublasLtMatmulAlgoGetHeuristic", self.handle, description, a_layout, b_layout, d_layout, d_layout,
            preference, ALGORITHMS, found, ctypes.byref(count),
        )  # fmt: skip
        a, b = data[: m * k], data[m * k : m * k + k * n]
        out, space = cp.empty(m * n, cp.uint16), cp.empty(WORKSPACE, cp.uint8)
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        stream = ctypes.c_void_p(cp.cuda.get_current_stream().ptr)
        for algorithm in found[: count.value]:
            if algorithm.state:
                continue

            def call(chosen: Heuristic = algorithm) -> None:
                self.check(
                    "cublasLtMatmul", self.handle, description, ctypes.byref(one), _pointer(a), a_layout, _pointer(b),
                    b_layout, ctypes.byref(zero), _pointer(out), d_layout, _pointer(out), d_layout,
                    ctypes.byref(chosen.algorithm), _pointer(space), ctypes.c_size_t(WORKSPACE), stream,
                )  # fmt: skip

            yield call


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.data.ptr)


def _library() -> str:
    places = [f"{folder}/nvidia/*/lib/libcublasLt.so.1*" for folder in sys.path if folder]
    for place in [*places, "/usr/local/cuda*/lib64/libcublasLt.so*", "/usr/local/cuda*/targets/*/lib/libcublasLt.so*"]:
        if found := sorted(glob.glob(place)):
            return found[-1]
    return "libcublasLt.so"


def products(cp: Any, seconds: float) -> tuple[str, float, float]:
    """Return what was fastest, its burst rate and its sustained rate."""
    largest = max(m * k + k * n for m, n, k in SHAPES)
    bits = cp.random.standard_normal(largest, dtype=cp.float32).view(cp.uint32)
    data = ((bits + 0x8000) >> 16).astype(cp.uint16)
    del bits
    library, best = Lt(), (0.0, "", None, 0.0)
    for shape in SHAPES:
        for transposed in (True, False):
            for number, call in enumerate(library.calls(cp, shape, data, transposed=transposed)):
                work = 2.0 * shape[0] * shape[1] * shape[2]
                try:
                    rate = work / statistics.median(times(cp, call, 0.02, pause=0.02))
                except RuntimeError:
                    continue
                name = f"cublasLt {'x'.join(map(str, shape))} {'TN' if transposed else 'NN'} #{number}"
                if rate > best[0]:
                    best = (rate, name, call, work)
    _, name, call, work = best
    if call is None:
        raise RuntimeError("cuBLASLt offered no algorithm")
    return name, burst(cp, call, work), sustained(cp, call, work, seconds)


def memory(cp: Any, kind: str, seconds: float, l2_bytes: int) -> tuple[str, float, float]:
    """Return the fastest kernel of a kind, its burst rate and its sustained rate."""
    module = cp.RawModule(code=SOURCE)
    properties = cp.cuda.runtime.getDeviceProperties(cp.cuda.Device().id)
    best: tuple[float, str, Any, float] = (0.0, "", None, 0.0)
    for times_l2 in (32, 64):
        size = times_l2 * l2_bytes // (1 << 20) * (1 << 20)
        source = cp.random.random(size // 4, dtype=cp.float32)
        target = cp.empty(size // 4 if kind == "copy" else 1, cp.float32)
        for width in (2, 4) if kind == "copy" else (4, 8):
            kernel = module.get_function(f"{kind}{width}")
            for blocks in (8, 16, 64):
                # A whole number of rounds of the grid, so that the kernel has no remainder to leave out.
                grid = (properties["multiProcessorCount"] * blocks,)
                count = size // 16 // (grid[0] * 256 * width) * (grid[0] * 256 * width)
                moved = float(count * 16 * (2 if kind == "copy" else 1))
                data = (source, target, cp.int64(count))

                def call(kernel: Any = kernel, grid: Any = grid, data: Any = data) -> None:
                    kernel(grid, (256,), data)

                rate = burst(cp, call, moved, 0.05)
                name = f"CUDA C, {width} x float4, {blocks} blocks of 256 per SM, {size / 1e9:.1f} GB"
                if rate > best[0]:
                    best = (rate, name, call, moved)
    _, name, call, moved = best
    return name, burst(cp, call, moved), sustained(cp, call, moved, seconds)


def ours(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return, by quantity, the rows (burst, sustained) of our table, and its metadata."""
    from dsocr_nvtx.schema.files import read_table

    table = read_table(path)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    found: dict[str, Any] = {}
    for row in table.to_pylist():
        if row["quantity"] in ("read", "copy") or (row["quantity"] == "matmul" and row["dtype"] == "bfloat16"):
            regimes = found.setdefault(row["quantity"], {})
            if row["regime"] not in regimes or row["median"] > regimes[row["regime"]]["median"]:
                regimes[row["regime"]] = row
    return found, about


def main() -> int:
    """Measure, compare, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("."))
    parser.add_argument("--ceilings", type=Path, help="what dsocr-nvtx ceilings wrote on this GPU; else a quick one")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.ceilings
    if path is None:
        path = options.out / "ceilings_quick.arrow"
        command = [sys.executable, "-m", "dsocr_nvtx", "ceilings", "-o", str(path), "--quick", "--force"]
        subprocess.run(command, check=True)  # noqa: S603 - our own command
    mine, about = ours(path)
    import cupy as cp

    rows, low = [], 0
    for quantity, scale, unit in (("matmul", 1e12, "TFLOP/s"), ("read", 1e9, "GB/s"), ("copy", 1e9, "GB/s")):
        seconds = 2 * mine[quantity]["sustained"]["seconds"] if "sustained" in mine[quantity] else 0.5
        other = products(cp, seconds) if quantity == "matmul" else memory(cp, quantity, seconds, int(about["l2_bytes"]))
        for regime, rate in (("burst", other[1]), ("sustained", other[2])):
            row = mine[quantity].get(regime)
            if row is None:
                continue
            ratio = row["median"] / rate
            low += ratio < 1 - TOLERANCE
            said = "yes" if abs(ratio - 1) <= TOLERANCE else "ours is higher" if ratio > 1 else "NO"
            held = f"{row['sm_clock_mhz']:.0f} MHz, {row['power_w']:.0f} W" if row["power_w"] else "-"
            mean = f"{row['median'] / scale:,.1f} +- {row['spread'] / scale:,.1f}"
            cells = [
                f"{quantity} {row['dtype'] or ''}",
                regime,
                mean,
                f"{rate / scale:,.1f}",
                unit,
                f"{ratio:.3f}",
                said,
            ]
            cells += [held, f"{row['kernel']} {row['shape']}", other[0]]
            rows.append("| " + " | ".join(cells) + " |")
    machine = (
        f"{about['device']}, driver {about.get('driver', 'unknown')}, CUDA {about['cuda']}, torch {about['torch']}"
    )
    text = "\n".join(
        [
            f"{machine}; {datetime.now(UTC).isoformat(timespec='minutes')}; `python3 {' '.join(sys.argv)}`",
            "",
            "| quantity | regime | ours | independent | unit | ratio | within 5 % | ours held | our kernel | theirs |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )
    print(text)
    (options.out / "ceilings_check.md").write_text(text + "\n", encoding="utf-8")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
