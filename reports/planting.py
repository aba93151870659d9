"""Runs made from a recorded one: with the noise that two runs of one code show, and with differences planted in them.

A timeline is cut at the begin and end of every GPU operation; each piece, busy or idle, is made longer or shorter, and
everything after it moves along. Noise is as measured on an H200 (`reports/diff_check.md`): a kernel's time drifts with
the addresses of its operands, alike wherever it runs in rows of a kind, a little by itself in each row, and scatters
from launch to launch; idle time follows the host. Clocks can drift: slowly through the run, and from run to run.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
from attrs import evolve, fields, frozen

from dsocr_nvtx.ingest.trace import Trace
from dsocr_nvtx.join.columns import Ints, coded, groups, known, numbers
from dsocr_nvtx.join.engine import Joined
from dsocr_nvtx.join.events import rows_of_events
from dsocr_nvtx.roofline.least import Floats

TIMES = ("start_ns", "end_ns", "time_ns")
ADDRESS_NS, ROW, LAUNCH, HOST, STEP, WAIT = 35.0, 0.004, 0.012, 0.12, 0.1, 0.2
"""Standard deviations: ns a launch of a kernel in rows of a kind; then shares: of a row, launch, host, step, wait."""


@frozen(eq=False)
class Timeline:
    """A trace cut into pieces: busy piece i is that of operation ``order[i]``, with the call that owns it (-1)."""

    trace: Trace
    begin: Ints
    end: Ints
    name: list[str]
    stage: list[str]
    path: list[str]
    step: Ints
    row: Ints

    @classmethod
    def of(cls, trace: Trace, joined: Joined) -> "Timeline":
        """Cut a trace of one GPU."""
        kernels, ranges = joined.kernels, joined.ranges
        start, end = numbers(kernels, "start_ns"), np.maximum.accumulate(numbers(kernels, "end_ns"))
        begin = np.maximum(start, np.concatenate([start[:1], end[:-1]]))  # what overlaps is one piece
        call = rows_of_events(ranges, numbers(kernels, "pid"), numbers(kernels, "event_id"))
        call = np.where(known(kernels, "event_id"), call, -1)
        (name, names), (stage, stages), (path, paths) = (coded(kernels, one) for one in ("name", "stage", "path"))
        row, _ = groups(stage, path, name)
        return cls(
            trace, begin, np.maximum(end, begin), [names[at] for at in name],
            [stages[at] if owner >= 0 else "" for at, owner in zip(stage, call, strict=True)],
            [paths[at] if owner >= 0 else "" for at, owner in zip(path, call, strict=True)],
            np.where(call >= 0, numbers(ranges, "step")[call], -1), row,
        )  # fmt: skip

    def warped(self, busy: Floats, idle: Floats) -> Trace:
        """Return the trace with each busy piece, and the idle one before it, as many ns long."""
        gap = np.concatenate([[0], self.begin[1:] - self.end[:-1]])
        before = np.stack([self.begin, self.end], axis=1).reshape(-1).astype(np.float64)
        lengths = np.stack([np.where(gap > 0, idle, 0.0), busy], axis=1).reshape(-1)
        lengths[0] = 0.0
        after = before[0] + np.cumsum(lengths)
        edge = 1e15
        before = np.concatenate([[before[0] - edge], before, [before[-1] + edge]])
        after = np.concatenate([[after[0] - edge], after, [after[-1] + edge]])
        every = {one.name: getattr(self.trace, one.name) for one in fields(Trace)}
        moved = {name: _moved(one, before, after) for name, one in every.items() if isinstance(one, pa.Table)}
        return evolve(self.trace, **moved)

    @property
    def busy(self) -> Floats:
        """How long the busy pieces are."""
        return (self.end - self.begin).astype(np.float64)

    @property
    def idle(self) -> Floats:
        """How long the idle pieces before them are."""
        return np.concatenate([[0], self.begin[1:] - self.end[:-1]]).astype(np.float64)

    def where(self, test: Callable[[str, str, str, int], bool]) -> np.ndarray:
        """Return which pieces pass a test of (name, stage, path, step)."""
        told = zip(self.name, self.stage, self.path, self.step.tolist(), strict=True)
        return np.array([test(*one) for one in told], bool)


def noisy(line: Timeline, seed: int, clocks: float = 0.0) -> tuple[Floats, Floats]:
    """Return the lengths of busy and idle pieces in another run of the same code; ``clocks`` is how far they drift."""
    random = np.random.default_rng(seed)
    kinds = [path.rpartition(".")[2] for path in line.path]
    kind, kind_first = groups(*(np.unique(words, return_inverse=True)[1] for words in (line.name, kinds)))
    drift = random.normal(0, ADDRESS_NS, len(kind_first))[kind]
    own = random.normal(0, ROW, int(line.row.max()) + 1)[line.row]
    each = random.normal(0, LAUNCH, len(own))
    place = np.linspace(0, 1, len(own))
    wave = np.sin(2 * np.pi * (place * random.uniform(0.5, 2) + random.random()))
    clock = clocks / 4 * (random.uniform(-1, 1) + wave)  # two runs differ by ``clocks`` at most
    busy = np.maximum((line.busy + drift) * (1 + own) * (1 + each) * (1 + clock), 32.0)
    busy = np.where(line.busy > 0, np.rint(busy / 32) * 32, 0.0)
    mood = random.normal(0, STEP, int(line.step.max()) + 2)[line.step]
    idle = line.idle * np.exp(random.normal(0, HOST) + mood + random.normal(0, WAIT, len(own)))
    return busy, idle


def _moved(table: pa.Table, before: Floats, after: Floats) -> pa.Table:
    for name in TIMES:
        if name in table.column_names:
            column = table[name].combine_chunks()
            values: Ints = np.rint(np.interp(numbers(table, name), before, after)).astype(np.int64)
            at = table.schema.get_field_index(name)
            moved = pa.array(values, mask=np.asarray(column.is_null().to_numpy(zero_copy_only=False)))
            table = table.set_column(at, table.schema.field(at).with_type(pa.int64()), moved)
    return table


def renamed(trace: Trace, which: np.ndarray, name: str) -> Trace:
    """Return a trace in which some operations, in order of their start, have another name."""
    order = np.argsort(numbers(trace.operations, "start_ns"), kind="stable")
    names = np.array(trace.operations["name"].to_pylist(), object)
    names[order[which]] = name
    at = trace.operations.schema.get_field_index("name")
    column = pa.array(names.tolist(), pa.string()).dictionary_encode()
    return evolve(trace, operations=trace.operations.set_column(at, "name", column))


def with_new_kernel(trace: Trace, which: np.ndarray, name: str, length: int) -> Trace:
    """Return a trace in which some operations are followed by another one; their gaps must have room for it."""
    table = trace.operations.take(np.argsort(numbers(trace.operations, "start_ns"), kind="stable"))
    more = table.filter(pa.array(which))
    begin = numbers(more, "end_ns")
    for column, values in (("start_ns", begin), ("end_ns", begin + length)):
        at = more.schema.get_field_index(column)
        more = more.set_column(at, more.schema.field(at), pa.array(values))
    at = more.schema.get_field_index("name")
    words = pa.array([name] * len(more), pa.string()).dictionary_encode()
    more = more.set_column(at, more.schema.field(at), words)
    return evolve(trace, operations=pa.concat_tables([table, more]).unify_dictionaries())


@frozen(kw_only=True)
class Plant:
    """A difference: of the lengths of pieces, or of the trace; and the names of the causes that should come first."""

    lengths: Callable[[Timeline, Floats, Floats], tuple[Floats, Floats]] = lambda _, busy, idle: (busy, idle)
    trace: Callable[[Timeline, Trace], Trace] = lambda _, trace: trace
    expected: tuple[str, ...] = ()


def _factors(rules: Mapping[str, float]) -> Callable[[Timeline, Floats, Floats], tuple[Floats, Floats]]:
    def lengths(line: Timeline, busy: Floats, idle: Floats) -> tuple[Floats, Floats]:
        for part, factor in rules.items():
            busy = np.where([part in name for name in line.name], busy * factor, busy)
        return busy, idle

    return lengths


def three_kernels(_: int) -> Plant:
    """Plant three kernels of decode: one twice as slow, one five times as fast, one 1.6 times as slow."""
    rules = {"nvjet_sm90_tst_16x64_64x16_4x1_v_bz_TNN": 2.0, "vectorized_gather_kernel": 0.2, "sdpa_sm80_flash": 1.6}
    return Plant(lengths=_factors(rules), expected=("nvjet", "gather", "flash"))


def slow_layer(seed: int) -> Plant:
    """Plant one decoder layer whose every kernel takes 5 % longer."""
    layer = seed % 12

    def lengths(line: Timeline, busy: Floats, idle: Floats) -> tuple[Floats, Floats]:
        mine = line.where(lambda _, __, path, ___: f"{path}.".startswith(f"decoder.{layer}."))
        return np.where(mine, busy * 1.05, busy), idle

    return Plant(lengths=lengths, expected=(f"decoder.{layer}",))


def stall(seed: int) -> Plant:
    """Plant one wait of 40 ms in some step and layer of decode."""
    step, layer = 3 + seed % 25, 1 + seed % 11

    def lengths(line: Timeline, busy: Floats, idle: Floats) -> tuple[Floats, Floats]:
        wanted = line.where(
            lambda _, stage, path, at: (stage, path, at) == ("decode", f"decoder.{layer}.attention", step)
        )
        idle = idle.copy()
        idle[np.flatnonzero(wanted)[3]] += 40e6
        return busy, idle

    return Plant(lengths=lengths, expected=(f"decoder.{layer} attention: stall in step {step}",))


def new_kernel(_: int) -> Plant:
    """Plant a kernel of 4 us after the gathers of decode."""

    def chosen(line: Timeline) -> np.ndarray:
        return line.where(lambda name, stage, _, __: stage == "decode" and "vectorized_gather_kernel" in name)

    def lengths(line: Timeline, busy: Floats, idle: Floats) -> tuple[Floats, Floats]:
        return busy, idle + 6000.0 * np.concatenate([[False], chosen(line)[:-1]])

    def trace(line: Timeline, made: Trace) -> Trace:
        return with_new_kernel(made, chosen(line), "void somebody::planted_kernel<float>(float *)", 4000)

    return Plant(lengths=lengths, trace=trace, expected=("planted_kernel",))


def slower_decode(_: int) -> Plant:
    """Plant 5 % on every kernel of decode."""

    def lengths(line: Timeline, busy: Floats, idle: Floats) -> tuple[Floats, Floats]:
        return np.where([stage == "decode" for stage in line.stage], busy * 1.05, busy), idle

    return Plant(lengths=lengths, expected=("every kernel",))


PLANTS: dict[str, Callable[[int], Plant]] = {
    "nothing": lambda _: Plant(), "three kernels": three_kernels, "a layer by 5 %": slow_layer, "a stall": stall,
    "a new kernel": new_kernel, "decode by 5 %": slower_decode,
}  # fmt: skip
