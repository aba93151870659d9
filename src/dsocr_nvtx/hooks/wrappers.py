"""The functions that stand in for a module's methods: what runs at every call, so as little as can be.

Inside a forward that is known a call is only timed (`timed`), or pushes the record that waits for it (`scripted`). Any
other call goes to ``read``, which reads and prices it. What goes wrong in here goes to ``fail``, never to the model.
Under torch.compile's tracing the hooks step aside (`unseen`).
"""

from collections.abc import Callable, Iterator
from functools import wraps
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from attrs import frozen
from torch.compiler import is_compiling

from dsocr_nvtx.hooks.places import State, Threads
from dsocr_nvtx.hooks.scripts import Plan

if TYPE_CHECKING:
    from dsocr_nvtx.hooks.forwards import Forwards

Method = Callable[..., Any]
Reading = Callable[[State, tuple[Any, ...], dict[str, Any]], Any]


@frozen(eq=False)
class Watch:
    """A method of routed experts, called with (rows, indices, ...), and the number by which notes call its layer."""

    number: int
    inner: Method


def unseen(hooked: Method, inner: Method) -> Method:
    """Return ``hooked``, which torch.compile's tracer takes for ``inner``.

    Asking at every call whether it is traced took a tenth of what a hook costs. The names are those by which
    torch.compile's own wrappers tell the tracer what they stand for; one that did not know them would trace the hook
    itself, and find no forward that is known.
    """

    def plain(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    told = {"_torchdynamo_inline": plain, "_torchdynamo_orig_callable": plain, "_torchdynamo_wrapper_id": id(hooked)}
    hooked.__dict__ = _Attributes(hooked.__dict__ | told)
    return hooked


class _Attributes(dict[str, Any]):
    """A function's attributes, of which `functools.wraps` copies none that torch.compile's tracer is told.

    The tracer would take the function that they were copied to for the hooked method as well, and leave out its work.
    """

    def __iter__(self) -> Iterator[str]:
        return (name for name in super().__iter__() if not name.startswith("_torchdynamo_"))

    def keys(self) -> Any:
        return list(self)


def timed(inner: Method, read: Reading, threads: Threads, codes: dict[int | None, int]) -> Method:
    """Return ``inner``, timed where ``codes`` knows the forward around it."""

    @wraps(inner)  # generate() asks for the signature of forward
    def hooked(*args: Any, **kwargs: Any) -> Any:
        state = threads.state
        code = codes.get(state.token)
        if code is None:
            return inner(*args, **kwargs) if is_compiling() else read(state, args, kwargs)
        log, start_ns = state.log, perf_counter_ns()
        try:
            return inner(*args, **kwargs)
        finally:
            log += (code, start_ns, perf_counter_ns())

    return unseen(hooked, inner)


def timed_and_more(
    inner: Method, read: Reading, threads: Threads, codes: dict[int | None, int], watch: Watch | None,
    edge: Callable[[], object] | None, fail: Callable[[Exception], None],
) -> Method:  # fmt: skip
    """Return ``inner``, timed as `timed` does: for ``watch`` its indices are noted, ``edge`` is called at both ends."""
    bare, number = (inner, -1) if watch is None else (watch.inner, watch.number)

    @wraps(inner)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        state = threads.state
        code = codes.get(state.token)
        if code is None:
            return inner(*args, **kwargs) if is_compiling() else read(state, args, kwargs)
        log = state.log
        if number >= 0 and state.notes is not None:
            try:
                state.notes += (number, len(log), args[1] if len(args) > 1 else kwargs["top_k_index"])
            except Exception as error:  # noqa: BLE001 - whatever it is, the model must go on
                fail(error)
        if edge is not None:
            try:
                edge()
            except Exception as error:  # noqa: BLE001 - as above
                fail(error)
        start_ns = perf_counter_ns()
        try:
            return bare(*args, **kwargs)
        finally:
            log += (code, start_ns, perf_counter_ns())
            if edge is not None:
                try:
                    edge()
                except Exception as error:  # noqa: BLE001 - as above
                    fail(error)

    return unseen(hooked, inner)


def scripted(  # noqa: C901 - one function: a call of another would cost more than what it does
    inner: Method, read: Reading, threads: Threads, plans: dict[int | None, Plan], watch: Watch | None,
    emit: tuple[Callable[[object], object], Callable[[], object]], forwards: "Forwards",
    fail: Callable[[Exception], None],
) -> Method:  # fmt: skip
    """Return ``inner`` in a range whose record waits in ``plans``; a call out of turn ends the script."""
    push, pop = emit
    stray, close_rest, close_script_rest = forwards.stray, forwards.close_rest, forwards.close_script_rest
    strayed_rest = forwards.begin_strayed_rest
    bare, number = (inner, -1) if watch is None else (watch.inner, watch.number)

    @wraps(inner)
    def hooked(*args: Any, **kwargs: Any) -> Any:  # noqa: C901, PLR0912 - as above
        state = threads.state
        plan = plans.get(state.token)
        if plan is None or plan[0] != state.at:
            if is_compiling():
                return inner(*args, **kwargs)
            if state.token is not None:
                stray(state)
            return read(state, args, kwargs)
        at, attributes, rest_at, rest_attributes = plan
        log = state.log
        try:
            if state.script_rest is not None:
                close_script_rest(state)
            push(attributes)
        except Exception as error:  # noqa: BLE001 - as above
            fail(error)
            return inner(*args, **kwargs)
        state.at = at + 1
        if number >= 0 and state.notes is not None:
            try:
                state.notes += (number, len(log), args[1] if len(args) > 1 else kwargs["top_k_index"])
            except Exception as error:  # noqa: BLE001 - as above
                fail(error)
        start_ns = perf_counter_ns()
        try:
            return bare(*args, **kwargs)
        finally:
            try:
                if state.script_rest is not None:
                    close_script_rest(state)
                elif state.rest is not None:  # of a call inside that came out of turn
                    close_rest(state)
                end_ns = perf_counter_ns()
                pop()
                log += (at, start_ns, end_ns)
                if state.token is None:  # a call inside came out of turn
                    state.open.pop()
                    if rest_at >= 0:
                        strayed_rest(state, rest_at)
                elif rest_at == state.at:
                    push(rest_attributes)
                    state.at, state.script_rest = rest_at + 1, (rest_at, end_ns)
            except Exception as error:  # noqa: BLE001 - as above
                fail(error)

    return unseen(hooked, inner)
