"""The few functions of NVIDIA's libcupti that a capture needs, called where PyTorch or cupti-python has loaded it.

cupti-python says how records are laid out; its own callbacks make an object of every record while the model runs, which
a buffer handed over whole does not.
"""

import ctypes
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from dsocr_nvtx.errors import Unavailable

REQUESTED = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
)
COMPLETED = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


class ResourceData(ctypes.Structure):
    """CUPTI's ``CUpti_ResourceData``: what a callback of the resource domain is given."""

    _fields_ = (("context", ctypes.c_void_p), ("stream", ctypes.c_void_p), ("descriptor", ctypes.c_void_p))


class GraphData(ctypes.Structure):
    """CUPTI's ``CUpti_GraphData``: what ``descriptor`` points to where the callback tells of a graph."""

    _fields_ = (
        ("graph", ctypes.c_void_p), ("original_graph", ctypes.c_void_p), ("node", ctypes.c_void_p),
        ("original_node", ctypes.c_void_p), ("node_type", ctypes.c_int), ("dependency", ctypes.c_void_p),
        ("executable", ctypes.c_void_p),
    )  # fmt: skip


NODE_EVENT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ResourceData))
NODE_CREATED, NODE_CLONED = 13, 20
_RESOURCES = 3
"""Callbacks of graphs' nodes, and the domain that they belong to."""

_MEMCPY, _MEMSET, _DRIVER, _RUNTIME, _KERNEL, _MEMCPY2 = 1, 2, 4, 5, 10, 22
OPERATIONS: Mapping[int, str] = {_KERNEL: "kernel", _MEMCPY: "memcpy", _MEMCPY2: "memcpy", _MEMSET: "memset"}
CALLS: Mapping[int, int] = {_DRIVER: 1, _RUNTIME: 2}
"""Kinds of records of API calls, and the callback domain that knows their functions' names."""
_LAYOUTS = {
    _KERNEL: ("activity_kernel", "10"), _MEMCPY: ("activity_memcpy", "6"), _MEMCPY2: ("activity_memcpy_pto_p", "4"),
    _MEMSET: ("activity_memset", "4"), _DRIVER: ("activity_api", ""), _RUNTIME: ("activity_api", ""),
}  # fmt: skip
_WANTED = re.compile(
    r"cuda(Launch|GraphLaunch|Mem(cpy|set)|Malloc|Free|Host(Alloc|Register)|(Device|Stream|Event)Synchronize"
    r"|Stream(Begin|End)Capture)|cu(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)"
)
"""Calls that make GPU work, wait for it, or manage memory: the others are many, and no time is spent in them."""
_SYSTEM_THREAD_IDS = 1
_END_OF_BUFFER = 12


@frozen
class Cupti:
    """An open libcupti. Every function raises `Unavailable` with CUPTI's own reason where it fails."""

    library: Any
    layouts: Mapping[int, np.dtype[Any]]
    unwanted: Mapping[int, tuple[int, ...]] = field(factory=dict)
    """By kind of record of API calls, the numbers of the functions that are not to be recorded."""
    calls: tuple[int, ...] = tuple(CALLS)
    """The kinds of records of API calls that are recorded at all; a join needs both, measuring their cost does not."""

    def call(self, name: str, *arguments: object) -> None:
        """Call ``cupti<name>``."""
        status = getattr(self.library, f"cupti{name}")(*arguments)
        if status:
            raise Unavailable(f"CUPTI: {name} failed: {self._reason(status)}")

    def _reason(self, status: int) -> str:
        text = ctypes.c_char_p()
        self.library.cuptiGetResultString(status, ctypes.byref(text))
        reason = (text.value or b"").decode() or f"error {status}"
        return f"{reason}; another tool holds it" if "SUBSCRIBER" in reason else reason

    def enable(self, requested: object, completed: object) -> None:
        """Let records of GPU work and of the API calls that matter be written into the callbacks' buffers.

        A kind of call is enabled as a whole and some functions are left out again: enabled one by one, without their
        kind, they left no record (CUPTI 13.0, tried on an H200).
        """
        self.call("SetThreadIdType", _SYSTEM_THREAD_IDS)
        self.call("ActivityRegisterCallbacks", requested, completed)
        for kind in (*OPERATIONS, *self.calls):
            self.call("ActivityEnable", kind)
        for kind in self.calls:
            leave_out = getattr(self.library, f"cuptiActivityEnable{'Driver' if kind == _DRIVER else 'Runtime'}Api")
            for one in self.unwanted.get(kind, ()):
                # Where CUPTI will not leave a function out, its records come too: more of them, none wrong.
                leave_out(ctypes.c_uint32(one), ctypes.c_uint8(0))

    def disable(self) -> None:
        """Write no more records; those written are handed over before this returns."""
        for kind in (*OPERATIONS, *self.calls):
            self.call("ActivityDisable", kind)
        self.call("ActivityFlushAll", 1)

    def listen(self, callback: object) -> ctypes.c_void_p:
        """Let a `NODE_EVENT` hear of every node of a CUDA graph made or cloned; return what ends it with `unlisten`."""
        subscriber = ctypes.c_void_p()
        self.call("Subscribe", ctypes.byref(subscriber), callback, None)
        try:
            for event in (NODE_CREATED, NODE_CLONED):
                self.call("EnableCallback", 1, subscriber, _RESOURCES, event)
        except Unavailable:
            self.unlisten(subscriber)
            raise
        return subscriber

    def unlisten(self, subscriber: ctypes.c_void_p) -> None:
        """Call its callback no more."""
        self.call("Unsubscribe", subscriber)

    def node_id(self, node: int | None) -> int:
        """Return the number by which records call a node of a CUDA graph."""
        number = ctypes.c_int64()
        self.call("GetGraphNodeId", ctypes.c_void_p(node), ctypes.byref(number))
        return number.value

    def clock(self) -> int:
        """Return CUPTI's time now, the clock of its records."""
        now = ctypes.c_uint64()
        self.call("GetTimestamp", ctypes.byref(now))
        return now.value

    def dropped(self, context: int | None, stream: int) -> int:
        """Return how many records found no room since this was last asked."""
        count = ctypes.c_size_t()
        self.call(
            "ActivityGetNumDroppedRecords", ctypes.c_void_p(context), ctypes.c_uint32(stream), ctypes.byref(count)
        )
        return count.value

    def offsets(self, block: np.ndarray, length: int) -> np.ndarray:
        """Return where in a block, filled up to ``length``, each record begins."""
        start, record = ctypes.c_void_p(block.ctypes.data), ctypes.c_void_p()
        following, reference = self.library.cuptiActivityGetNextRecord, ctypes.byref(record)
        size, found = ctypes.c_size_t(length), []
        while (status := following(start, size, reference)) == 0:
            found.append(record.value)
        if status != _END_OF_BUFFER:
            raise Unavailable(f"CUPTI: a buffer cannot be read: {self._reason(status)}")
        return np.array(found, np.int64) - block.ctypes.data

    def function_name(self, kind: int, number: int) -> str:
        """Return the name of an API function."""
        text = ctypes.c_char_p()
        self.call("GetCallbackName", CALLS[kind], ctypes.c_uint32(number), ctypes.byref(text))
        return (text.value or b"").decode()


def open_cupti() -> Cupti:
    """Return libcupti, loaded; `Unavailable` says what is missing."""
    try:
        from cupti import cupti
    except ImportError as error:
        raise Unavailable(f"--timing cupti needs cupti-python ({error}); pip install 'dsocr-nvtx[cupti]'") from error
    try:
        cupti.get_timestamp()
    except Exception as error:
        raise Unavailable(f"CUPTI cannot be loaded: {error}") from error
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libcupti.so" in line}
    library = ctypes.CDLL(min(loaded) if loaded else "libcupti.so")
    unwanted = {
        _DRIVER: _unwanted(getattr(cupti, "driver_api_trace_cbid", ())),
        _RUNTIME: _unwanted(getattr(cupti, "runtime_api_trace_cbid", ())),
    }
    return Cupti(library, {kind: _layout(cupti, *name) for kind, name in _LAYOUTS.items()}, unwanted)


def _unwanted(known: Any) -> tuple[int, ...]:
    """Return the numbers of the functions whose records nobody reads."""
    return tuple(int(one) for one in known if one.name.startswith("cu") and not _WANTED.match(one.name))


def _layout(module: Any, stem: str, version: str) -> np.dtype[Any]:
    """Return a record's layout: that of the version known to hold, else the newest; later ones only append."""
    exact = getattr(module, f"{stem}{version}_dtype", None)
    if exact is None:
        pattern = re.compile(rf"{stem}(\d*)_dtype")
        names = [name for name in dir(module) if pattern.fullmatch(name)]
        if not names:
            raise Unavailable(f"this cupti-python has no layout for {stem}; install a version from 13.0 on")
        exact = getattr(module, max(names, key=lambda name: int(pattern.fullmatch(name)[1] or 0)))  # type: ignore[index]
    layout: np.dtype[Any] = np.dtype(exact)
    return layout


def demangler() -> Callable[[bytes], str]:
    """Return what turns a compiler's name of a kernel into the one in its source."""
    try:
        demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except OSError:
        return lambda name: name.decode(errors="replace")
    demangle.restype = ctypes.c_void_p
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]

    def readable(name: bytes) -> str:
        status = ctypes.c_int()
        found = demangle(name, None, None, ctypes.byref(status))
        if status.value or not found:
            return name.decode(errors="replace")
        try:
            return ctypes.string_at(found).decode(errors="replace")
        finally:
            free(found)

    return readable
