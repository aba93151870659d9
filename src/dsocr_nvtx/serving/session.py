"""The hooks of one served model: its layers through the same recorders and markers as ever, its steps said by a runner.

A serving engine's forward has no arguments that tell its costs, so a step begins them: its sequences are known on the
host before anything is launched, and so is what every layer of it costs, whether layers are then called one by one, in
compiled code, or stand in a CUDA graph that is launched.
"""

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

from attrs import define
from torch import nn

from dsocr_nvtx.hooks.bindings import HookedNetwork
from dsocr_nvtx.hooks.caches import Caches
from dsocr_nvtx.hooks.compiled import CompiledCalls
from dsocr_nvtx.hooks.emit import Emitter
from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.marking import Markers, put_token
from dsocr_nvtx.hooks.patches import PATCHING, Patch, Patches
from dsocr_nvtx.hooks.prices import ForwardCosts
from dsocr_nvtx.hooks.readers import readers_of
from dsocr_nvtx.hooks.recorder import NativeRecorder, PythonRecorder
from dsocr_nvtx.hooks.standins import StandIns
from dsocr_nvtx.hooks.threads import Frame
from dsocr_nvtx.hooks.tracing import traced_as
from dsocr_nvtx.schema.records import STEP_PREFIX, CallShape, Stage
from dsocr_nvtx.schema.served import ServedSequence, served_mark
from dsocr_nvtx.serving.idle import IdleRanges, idle_sites
from dsocr_nvtx.serving.scheduled import shape_of, stage_of

Method = Callable[..., Any]

_log = logging.getLogger(__name__)


@define(eq=False)
class OpenStep:
    """A step under way: its range's event id, its sequences (None: not read), and whether these were told."""

    path: str
    event_id: int | None
    sequences: Sequence[ServedSequence] | None
    told: bool = False


class ServedSession:
    """The hooks of one model in a serving engine, until `detach`.

    ``errors`` lists what went wrong inside hooks and which costs are unknown, once per place. ``idle`` are the ranges
    of host work, ``at_end`` what takes hooks away
    that are not the model's own. Outside of steps nothing is emitted: an engine runs its model to measure memory, too.
    """

    def __init__(self, emitter: Emitter, found: HookedNetwork, *, on_gpu: bool, native: ModuleType | None) -> None:
        self.errors: list[str] = []
        sites = found.sites
        idle = idle_sites(len(sites))
        self.forwards = Forwards([*sites, *idle], emitter, record=False, on_gpu=on_gpu, native=native)
        self.forwards.muted = True
        self.idle = IdleRanges.on(self.forwards, idle, self.fail)
        self.network = found.network
        self._found, self._native = found, native
        self._model = next(site for site in sites if site.path == "model")
        self._varying: dict[Stage, ForwardCosts] = {}
        self._decoding: dict[int, ForwardCosts] = {}
        self._patches = Patches()
        self._markers: Markers | None = None
        self._make: StandIns | None = None
        self.at_end: list[Callable[[], None]] = []
        self._step: OpenStep | None = None
        self._around: list[tuple[Frame | None, bool]] = []

    @property
    def stepping(self) -> bool:
        """Whether a step is under way."""
        return self._step is not None

    def attach(self, model: nn.Module, forward: Method) -> Method:
        """Put stand-ins into the place of all methods of the model; return ``forward``, a whole forward, in its range.

        ``forward`` is what the engine's runner calls for each step.
        """
        found, shared = self._found, (self.forwards.threads, self.forwards.emitter, self.fail)
        recorder = PythonRecorder(*shared) if self._native is None else NativeRecorder(self._native, *shared)
        attention = found.network.layers[0].attention
        caches = Caches(attention.kv_heads, attention.head_dim)
        make = StandIns(self.forwards, recorder, caches, None, False, self.fail)
        readers = readers_of(found, caches)
        for device in {parameter.device for parameter in model.parameters()}:
            put_token(device)
        markers = self._markers = Markers(CompiledCalls(self.forwards, make, found.sites, readers))
        with PATCHING:
            for binding in found.bindings:
                site, plain = binding.site, getattr(binding.owner, binding.method)
                if site is self._model:
                    continue
                stand_in = (
                    make.of_entry(plain, site, readers[site.path]) if site.is_entry else make.of_site(plain, site)
                )
                traced = markers.traced(plain, site.number, begins=site.is_entry)
                self._patches.replace(binding.owner, binding.method, traced_as(stand_in, traced, begins=site.is_entry))
        self._make = make
        return self.whole(forward)

    def whole(self, forward: Method) -> Method:
        """Return what runs or launches a whole forward in the range of one, while a step is under way."""
        assert self._make is not None  # noqa: S101 - the model was hooked before
        ranged = self._make.of_site(forward, self._model)

        @wraps(forward)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            inside = self._step is not None and not self._around
            return ranged(*args, **kwargs) if inside else forward(*args, **kwargs)

        return hooked

    def replace(self, owner: Any, name: str, function: Method) -> None:
        """Let an attribute of an object of the engine's be ``function`` until `detach`."""
        self.at_end.append(Patch(owner, name, function).undo)

    def detach(self) -> None:
        """Take every range away; what was there before is there again."""
        self.forwards.closed = True
        if self._markers is not None:
            self._markers.leave()
        while self.at_end:
            self.at_end.pop()()
        self._patches.undo()

    def fail(self, where: str, error: Exception) -> None:
        """Note what went wrong, once per place."""
        if not any(known.startswith(f"{where}: ") for known in self.errors):
            self.errors.append(f"{where}: {type(error).__name__}: {error}")
            _log.warning("dsocr-nvtx: %s", self.errors[-1])

    def begin(self, read: Callable[[], list[ServedSequence]]) -> None:
        """Begin a step: its costs are known and announced, and its range is open. A step of no rows is none.

        ``read`` returns its sequences. Where it cannot, the step's stage and costs are unknown.
        """
        self.end()  # an engine that failed in a step begins another
        if self.idle.paused:
            return
        sequences: list[ServedSequence] | None = None
        try:
            sequences = read()
        except Exception as error:  # noqa: BLE001 - whatever it is, the engine must go on
            self.fail("a step: its cost is unknown", error)
        if sequences == []:
            return
        try:
            self._open(sequences)
        except Exception as error:  # noqa: BLE001 - as above
            self.fail("a step", error)
            self.end()

    def _open(self, sequences: list[ServedSequence] | None) -> None:
        forwards, state = self.forwards, self.forwards.threads.state
        forwards.muted = False
        stage = Stage.UNKNOWN if sequences is None else stage_of(sequences)
        costs, kv_len = self._costs(stage, sequences)
        forwards.open(state, costs, stage, kv_len, said=sequences is not None)
        path = f"{STEP_PREFIX}{stage}"
        self._step = OpenStep(path, self.idle.push(path), sequences)

    def _costs(self, stage: Stage, sequences: list[ServedSequence] | None) -> tuple[ForwardCosts, int]:
        """Return the kind of a step's forward and its KV length, 0 where its shape says all.

        Steps that decode one row of each sequence are of one kind for each number of them, in which only the keys grow;
        any other step is the one kind of its stage, with a shape of its own: a server's steps have no end.
        """
        prices = self.forwards.prices
        if sequences is None:
            return prices.of(self._model, None, CallShape()), 0
        count = len(sequences)
        if stage is Stage.DECODE and sum(sequence.rows for sequence in sequences) == count:
            if count not in self._decoding:
                one = CallShape.of_sequences([(1, 1)] * count)
                self._decoding[count] = prices.varying(self._model, self.network, one)
            return self._decoding[count], sum(sequence.keys for sequence in sequences)
        shape, costs = shape_of(sequences), self._varying.get(stage)
        if costs is None:
            costs = self._varying[stage] = prices.varying(self._model, self.network, shape)
        costs.reshape(shape)
        return costs, 0

    def tell(self, padded_rows: int) -> None:
        """Say in plain text which sequences the step under way has, and how many rows its forward is run with."""
        step = self._step
        if step is None or step.told or step.event_id is None or step.sequences is None:
            return
        step.told = True
        frame = self.forwards.threads.state.frame
        if frame is not None:
            frame.padded_rows = padded_rows
        if self.forwards.emitter.announces:
            try:
                self.forwards.emitter.mark(served_mark(step.event_id, padded_rows, step.sequences))
            except Exception as error:  # noqa: BLE001 - as above
                self.fail("a step", error)

    def end(self) -> None:
        """End the step under way, if there is one."""
        step = self._step
        if step is None:
            return
        self.tell(0)
        self._step = None
        self.idle.pop(step.path, step.event_id)
        try:
            self.forwards.close(self.forwards.threads.state, None)
        except Exception as error:  # noqa: BLE001 - as above
            self.fail("a step", error)
        self.forwards.muted = True

    def begin_capture(self) -> None:
        """Note that a CUDA graph begins to be captured: what goes into it has ranges, by which its nodes are known.

        Their costs are unknown, as they run nothing; the step that launches the graph says what it costs.
        """
        try:
            state = self.forwards.threads.state
            self._around.append((state.frame, self.forwards.muted))
            self.forwards.muted = False
            self.forwards.open(
                state, self.forwards.prices.of(self._model, None, CallShape()), Stage.UNKNOWN, 0, said=True
            )
        except Exception as error:  # noqa: BLE001 - as above
            self.fail("a capture", error)

    def end_capture(self) -> None:
        """Note that the capture is about to end: ranges that are open lie within it."""
        if not self._around:
            return
        outer, self.forwards.muted = self._around.pop()
        try:
            self.forwards.close(self.forwards.threads.state, outer)
            self.forwards.announce_all()  # a launch takes the costs that were announced since its capture
        except Exception as error:  # noqa: BLE001 - as above
            self.fail("a capture", error)
