"""Ranges around the steps of a stage."""

from collections.abc import Callable
from time import perf_counter_ns

from dsocr_nvtx.hooks.forwards import Forwards
from dsocr_nvtx.hooks.prices import ForwardCosts
from dsocr_nvtx.hooks.stage import begin_stage, end_stage
from dsocr_nvtx.schema.records import Stage


class Step:
    """One step of a stage, as `HookSession.step` returns it. It is no generator, which would cost more than the range.

    Where a session is muted or off, the stage is said all the same.
    """

    __slots__ = ("_costs", "_fail", "_forwards", "_outer", "_pushed", "_stage", "_start_ns", "_token")

    def __init__(
        self, forwards: Forwards, costs: ForwardCosts, stage: Stage, fail: Callable[[str, Exception], None]
    ) -> None:
        self._forwards, self._costs, self._stage, self._fail = forwards, costs, stage, fail

    def __enter__(self) -> None:
        self._token, self._pushed = begin_stage(self._stage), False
        forwards = self._forwards
        if forwards.muted or forwards.closed:
            return
        state = forwards.threads.state
        self._outer = state.frame
        try:
            frame = forwards.open(state, self._costs, self._stage, 0, said=self._stage is not Stage.UNKNOWN)
            state.next_id += 1
            frame.table.words[0] = frame.event_id
            if forwards.emitter.active:
                forwards.emitter.push(frame.table.attributes[self._costs.root.number])
            self._pushed = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
            forwards.close(state, self._outer)
            self._fail(str(self._stage), error)
        self._start_ns = perf_counter_ns()

    def __exit__(self, *_error: object) -> None:
        if self._pushed:
            end_ns, forwards = perf_counter_ns(), self._forwards
            state = forwards.threads.state
            try:
                try:
                    if forwards.emitter.active:
                        forwards.emitter.pop()
                finally:
                    frame = state.frame
                    if frame is not None:
                        frame.log += (self._costs.root.number, frame.event_id, self._start_ns, end_ns)
                    forwards.close(state, self._outer)
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(str(self._stage), error)
        end_stage(self._token)
