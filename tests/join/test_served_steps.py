"""Steps of a serving engine: what they worked on is what the scheduler said, exactly; contradictions are counted."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsocr_nvtx.ingest.nsys import read
from dsocr_nvtx.join.engine import Joined, join
from dsocr_nvtx.join.served_split import prefill_part
from dsocr_nvtx.schema.records import Stage
from dsocr_nvtx.schema.shapes import causal_pairs
from tests.builders.served import ENGINE, ServedFile, two_pages

Row = dict[str, object]


def joined(file: ServedFile, path: Path) -> Joined:
    found = join(read(file.file.write(path)), path.name)
    assert found.accounting.balances()
    return found


def steps_of(file: ServedFile, path: Path) -> list[Row]:
    found: list[Row] = joined(file, path).served["served_steps"].to_pylist()
    return found


def test_steps_by_hand(tmp_path: Path) -> None:
    prefill, decode, mixed, both = steps_of(two_pages(), tmp_path / "s.sqlite")
    names = (
        "stage",
        "step",
        "start_ns",
        "end_ns",
        "sequences_prefill",
        "sequences_decode",
        "rows",
        "keys",
        "padded_rows",
    )
    assert [tuple(step[name] for name in names) for step in (prefill, decode, mixed, both)] == [
        ("prefill", 0, 320, 620, 1, 0, 900, 900, None), ("decode", 0, 630, 730, 0, 1, 1, 901, 1),
        ("mixed", 0, 740, 1040, 1, 1, 401, 1302, 408), ("decode", 1, 1050, 1150, 0, 2, 2, 1304, 4),
    ]  # fmt: skip
    assert (mixed["rows_prefill"], mixed["keys_prefill"], mixed["pairs_prefill"]) == (400, 400, 400 * 401 // 2)
    assert mixed["pairs"] == 902 + 400 * 401 // 2
    assert (mixed["pid"], mixed["device"], mixed["requests"], mixed["agrees"]) == (ENGINE, 0, ["a", "b"], True)
    # Kernels 760..1020 and 1032..1035; all the rest of 740..1040 is idle and the step's.
    assert (mixed["busy_owned_ns"], mixed["idle_owned_ns"], mixed["wall_ns"]) == (263, 37, 300)


def test_costs_of_a_mixed_step_are_split_exactly_by_sequence(tmp_path: Path) -> None:
    prefill, decode, mixed, both = steps_of(two_pages(), tmp_path / "s.sqlite")
    # The layer costs 1000 a row and 10 a pair; four steps tell of two unknowns, and agree.
    assert mixed["tensor_flops"] == 1000 * 401 + 10 * (902 + 80_200)
    assert mixed["tensor_flops_prefill"] == 1000 * 400 + 10 * 80_200
    assert (mixed["kv_read_bytes"], mixed["kv_read_bytes_prefill"]) == (8 * 1302, 8 * 400)
    assert (mixed["kv_write_bytes"], mixed["kv_write_bytes_prefill"]) == (8 * 401, 8 * 400)
    for step, whole in ((prefill, True), (decode, False), (both, False)):
        assert step["tensor_flops_prefill"] == (step["tensor_flops"] if whole else 0)


def test_what_ranges_tell_otherwise_is_counted_and_shown(tmp_path: Path) -> None:
    """A step whose model range has other rows or keys than the scheduler's sequences contradicts its mark."""
    file = two_pages()
    file.step(2000, 2200, Stage.DECODE, [("a", 1, 904, "d")], told=(1, 903))
    file.step(2300, 2500, Stage.DECODE, [("a", 1, 905, "d"), ("b", 7, 30, "p")])
    found = joined(file, tmp_path / "s.sqlite")
    assert [step["agrees"] for step in found.served["served_steps"].to_pylist()] == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    served = found.accounting.served
    assert (served.steps, served.contradicted, served.without_range, served.damaged) == (6, 2, 0, 0)
    assert served.contradiction.endswith("its ranges tell 903 keys, not 904")


def test_marks_of_no_step_and_damaged_ones_are_counted(tmp_path: Path) -> None:
    file = two_pages()
    file.file.mark("dsocr/2s 999 0 a:1:2:d", 5000, pid=ENGINE)
    file.file.mark("dsocr/2s 0 0 a:1:2:d", 5001, pid=ENGINE)  # the event of a range that is no step
    file.file.mark("dsocr/2s 3 0 a:1", 5002, pid=ENGINE)
    file.file.mark("dsocr/2r a vanished", 5003, pid=ENGINE)
    served = joined(file, tmp_path / "s.sqlite").accounting.served
    assert (served.steps, served.without_range, served.damaged, served.requests) == (4, 2, 2, 2)


def test_a_step_that_is_told_twice_counts_once(tmp_path: Path) -> None:
    file = two_pages()
    again = [dict(row) for row in file.file.rows["NVTX_EVENTS"] if str(row.get("text", "")).startswith("dsocr/2s ")]
    file.file.rows["NVTX_EVENTS"] += [{**row, "start": int(str(row["start"])) + 1} for row in again]
    assert len(steps_of(file, tmp_path / "s.sqlite")) == 4


def test_a_run_that_is_not_served_has_no_steps(tmp_path: Path) -> None:
    file = ServedFile()
    file.range("model", 0, 100, stage=2, rows=1, sequences=1, tensor_flops=1)
    file.file.launch("gemm", 10, 20, 30, pid=ENGINE)
    found = joined(file, tmp_path / "s.sqlite")
    assert found.served == {}
    assert found.accounting.served.steps == 0


sequences = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50), st.booleans()), min_size=1, max_size=4)


@given(st.lists(sequences, min_size=1, max_size=8), st.tuples(*[st.integers(0, 1000)] * 4))
def test_splits_of_costs_that_are_sums_over_sequences_are_exact_or_not_told(
    steps: list[list[tuple[int, int, bool]]], price: tuple[int, int, int, int]
) -> None:
    def features(some: list[tuple[int, int, bool]]) -> tuple[int, ...]:
        each = [(rows, rows + more, causal_pairs(rows, rows + more), 1) for rows, more, _ in some]
        return tuple(np.array(each, np.int64).reshape(-1, 4).sum(axis=0).tolist())

    def cost(some: tuple[int, ...]) -> int:
        return sum(one * each for one, each in zip(some, price, strict=True))

    every, prefill = [features(one) for one in steps], [features([s for s in one if s[2]]) for one in steps]
    found = prefill_part([cost(one) for one in every], every, prefill)
    for part, told, whole in zip(prefill, found, every, strict=True):
        assert told in (None, cost(part))
        assert told is not None or (any(part) and part != whole)
    # Steps of one sequence each of the features tell all four prices.
    single = [(1, 1, 1, 1), (2, 2, 3, 1), (2, 3, 5, 1), (1, 5, 5, 1), (1, 1, 1, 2)]
    more = prefill_part([cost(one) for one in (*every, *single)], [*every, *single], [*prefill, *single])
    assert more[: len(every)] == [cost(part) for part in prefill]


def test_a_cost_that_does_not_follow_from_the_sequences_is_not_split() -> None:
    """7 and 16 for one and two alike: what a mixed step's prefill costs cannot be told; pure steps can."""
    every, prefill = [(1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 2)], [(1, 1, 1, 1), (0, 0, 0, 0), (2, 2, 2, 1)]
    assert prefill_part([7, 16, 20], every, prefill) == [7, 0, None]
    # Without the first step the others agree: three more of rows, keys and pairs cost 4, a sequence 4 more.
    assert prefill_part([None, 16, 20], every, prefill) == [None, 0, 12]


def test_without_marks_of_requests_there_are_steps_all_the_same(tmp_path: Path) -> None:
    file = ServedFile()
    file.step(0, 200, Stage.DECODE, [("a", 1, 5, "d")])
    (step,) = steps_of(file, tmp_path / "s.sqlite")
    assert (step["rows"], step["keys"], step["agrees"]) == (1, 5, True)


def test_whatever_depth_a_range_has_it_is_in_its_step(tmp_path: Path) -> None:
    """Five ranges inside each other below the layer: a kernel of the innermost is the step's."""
    file = two_pages()
    file.step(2000, 2400, Stage.PREFILL, [("c", 100, 100, "p")])
    for depth in range(5):
        file.range(f"decoder.0.x{depth}", 2100 + depth, 2200 - depth, stage=1, step=1, level=2, tensor_flops=1)
    file.file.launch("gemm", 2110, 2382, 2386, pid=ENGINE)
    *_, last = steps_of(file, tmp_path / "s.sqlite")
    assert (last["busy_owned_ns"], last["wall_ns"]) == (360 + 4 + 3, 400)
    assert last["tensor_flops"] == 1000 * 100 + 10 * 5050 + 5


def test_the_own_work_of_an_operation_is_a_leafs_whatever_it_calls(tmp_path: Path) -> None:
    """An engine's experts call their gate inside: the kernels of both are leaves', those of a layer around are not."""
    file = ServedFile()
    file.range("decoder.1", 0, 100, stage=2, kind=13, level=1, layer=1, rows=1, sequences=1)
    file.range("decoder.1.experts", 10, 60, stage=2, kind=5, level=2, layer=1, rows=1, sequences=1, tensor_flops=1)
    file.range("decoder.1.gate", 20, 30, stage=2, kind=7, level=2, layer=1, rows=1, sequences=1, tensor_flops=1)
    for called, start, end in ((12, 14, 20), (22, 24, 30), (70, 72, 90)):  # experts 6, gate 6, the layer itself 18
        file.file.launch("gemm", called, start, end, pid=ENGINE)
    accounting = joined(file, tmp_path / "s.sqlite").accounting
    assert (accounting.covered, accounting.covered_by_leaves) == (1.0, 12 / 30)
