"""A served run as nsys exports it: one process takes pages in, another runs the engine's steps. Times by hand."""

from collections.abc import Sequence

from attrs import define, field

from dsocr_nvtx.schema.payload import PAYLOAD_FIELDS
from dsocr_nvtx.schema.records import LayerKind, Level, Stage, code_of
from dsocr_nvtx.schema.served import RequestEvent, ServedSequence, request_mark, served_mark
from dsocr_nvtx.schema.shapes import causal_pairs
from tests.builders.nsys import NsysFile
from tests.builders.tables import payload

FRONT, ENGINE = 10, 20
"""Processes: the one that takes requests in, and the one that launches."""

Named = tuple[str, int, int, str]
"""A sequence of a step: request, rows, keys, p or d."""


@define
class ServedFile:
    """An export of a served run under construction; ``front`` is the process of what happens before the engine."""

    front: int = FRONT
    file: NsysFile = field(factory=NsysFile)
    events: int = 0
    steps: dict[str, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        """Describe the device, the domains and the payload."""
        self.file.device(pids=[ENGINE])
        self.file.schema()
        for pid in {self.front, ENGINE}:
            self.file.domain(pid)

    def range(
        self, path: str, start: int, end: int, *, pid: int = ENGINE, tid: int | None = None, **fields: int
    ) -> int:
        """Add a range with a payload; return its event id."""
        event = self.events
        self.events += 1
        values = payload(event_id=event, **{"sequences": 0, "rows": 0, "kind": code_of(LayerKind.REST), **fields})
        assert len(values) == len(PAYLOAD_FIELDS)
        self.file.push_pop(path, start, end, pid=pid, tid=tid, values=values)
        return event

    def host(
        self, what: str, start: int, end: int, *, pid: int = ENGINE, stage: Stage = Stage.HOST, **where: int
    ) -> None:
        """Add a range of host work."""
        self.range(
            f"host.{what}", start, end, pid=pid, tid=where.pop("tid", None), stage=code_of(stage),
            kind=code_of(LayerKind.HOST), level=code_of(Level.STAGE), **where,
        )  # fmt: skip

    def request(self, name: str, what: RequestEvent, time: int, number: int | None = None) -> None:
        """Say that something happens to a request."""
        self.file.mark(request_mark(name, what, number), time, pid=self.front)

    def step(
        self, start: int, end: int, stage: Stage, sequences: Sequence[Named], *, padded: int = 0,
        told: tuple[int, int] | None = None,
    ) -> int:  # fmt: skip
        """Add a step: 10 of preparing, the model with one layer, 10 of sampling; return its event id.

        The layer's kernel begins 20 after the step and ends 20 before it, sampling's is the last 10 but 5. ``told`` are
        the rows and keys that the model's own range tells, where they are not those of the sequences.
        """
        step, code = self.steps.get(stage, 0), code_of(stage)
        self.steps[stage] = step + 1
        each = [ServedSequence(name, rows, keys, kind == "d") for name, rows, keys, kind in sequences]
        rows, keys = told or (sum(one.rows for one in each), sum(one.keys for one in each))
        pairs = sum(causal_pairs(one.rows, one.keys) for one in each)
        extent = {"sequences": len(each), "rows": rows, "keys": keys, "pairs": pairs}
        event = self.range(f"step.{stage}", start, end, stage=code, step=step)
        self.file.mark(served_mark(event, padded, each), start + 1, pid=ENGINE)
        self.host("preparing", start + 1, start + 10, stage=stage, step=step)
        self.range("model", start + 10, end - 12, stage=code, step=step, **extent)
        self.range(
            "decoder.0.attention", start + 12, end - 14, stage=code, step=step, layer=0, level=code_of(Level.OP),
            kind=code_of(LayerKind.ATTENTION), tensor_flops=1000 * rows + 10 * pairs, weight_bytes=4096,
            kv_read_bytes=8 * keys, kv_write_bytes=8 * rows, **extent,
        )  # fmt: skip
        self.file.launch("flash_fwd_kernel", start + 13, start + 20, end - 20, pid=ENGINE)
        self.host("sampling", end - 12, end - 1, stage=stage, step=step)
        self.file.launch("_topk_topp_kernel", end - 11, end - 8, end - 5, pid=ENGINE)
        return event


def two_pages() -> ServedFile:
    """Return a server that gets two pages; the second's prefill meets the first's decode in one mixed step.

    ====== ======================================== =============================================================
    time   process 10                               process 20
    0      a arrives, preprocessing to 300
    300    preprocessed and queued; b arrives       scheduling 300..320; prefill of a (900 rows) 320..620
    400    preprocessing of b to 700                decode of a (901 keys) 630..730
    700    b preprocessed, queued                   mixed: a decodes (902 keys), b prefills (400 rows) 740..1040
    1040                                            decode of both (903 and 401 keys, padded to 4) 1050..1150
    1160   a finished 4 tokens, b 2; detokenizing to 1200
    ====== ======================================== =============================================================
    """
    made = ServedFile()
    made.request("a", RequestEvent.ARRIVED, 0)
    made.host("preprocessing", 0, 300, pid=FRONT)
    made.request("a", RequestEvent.PREPROCESSED, 300)
    made.request("a", RequestEvent.QUEUED, 300)
    made.request("b", RequestEvent.ARRIVED, 300)
    made.host("scheduling", 300, 320)
    made.step(320, 620, Stage.PREFILL, [("a", 900, 900, "p")])
    made.host("preprocessing", 400, 700, pid=FRONT)
    made.step(630, 730, Stage.DECODE, [("a", 1, 901, "d")], padded=1)
    made.request("b", RequestEvent.PREPROCESSED, 700)
    made.request("b", RequestEvent.QUEUED, 700)
    made.step(740, 1040, Stage.MIXED, [("a", 1, 902, "d"), ("b", 400, 400, "p")], padded=408)
    made.step(1050, 1150, Stage.DECODE, [("a", 1, 903, "d"), ("b", 1, 401, "d")], padded=4)
    made.host("detokenizing", 1150, 1200, pid=FRONT)
    made.request("a", RequestEvent.FINISHED, 1160, 4)
    made.request("b", RequestEvent.FINISHED, 1160, 2)
    return made
