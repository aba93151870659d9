"""Reports joined on a Dask cluster. What a worker has found is read from the fleet's directory, as JSON and tables.

A worker's result or exception is a pickle, and to open one is to run what a dishonest worker put into it: so this side
learns of a task only whether it has ended. Whoever runs the scheduler is trusted all the same, by TLS or not at all.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from attrs import asdict, define, field, frozen

from dsocr_nvtx.errors import DsocrError, Refused, Unavailable, UsageError
from dsocr_nvtx.fleet.state import Folders, ReportState, read_state
from dsocr_nvtx.fleet.task import Task

_CONNECT_S = 2.0
"""Waited for an address to answer, and again for a scheduler to."""
_VISIBLE_S = 10.0
"""Waited for what a worker wrote to be seen here: file systems of networks take a moment."""


@frozen(kw_only=True)
class Tls:
    """Files in PEM that prove each side to the other: the authority, this side's certificate and its key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def cluster(address: str, tls: Tls | None = None) -> Callable[[], AbstractContextManager[Executor]]:
    """Return what opens the cluster behind a Dask scheduler, for work on a `Task`.

    With ``tls`` nothing goes over the network that is not encrypted, and only what the authority signed is spoken to.
    `Unavailable`, at once or when it is opened: nothing answers there, or Dask is not installed.
    """
    secured = tls if tls is not None and any(asdict(tls).values()) else None
    _check(address, secured)
    if not _is_installed():
        raise Unavailable("--scheduler needs dask.distributed; pip install 'dsocr-nvtx[scale]'")
    with _told(address):
        _reach(address, secured)

    @contextmanager
    def start() -> Iterator[Executor]:
        with _client(address, secured) as client:
            yield _Cluster(client)

    return start


def _check(address: str, tls: Tls | None) -> None:
    """Refuse what is no address, or does not go with TLS's files; those have to be there, all three."""
    try:
        parts = _parts(address)
        # Within one process, as in a notebook, there is neither a network nor a port.
        well = parts.scheme == "inproc" or (parts.scheme in ("tcp", "tls") and bool(parts.hostname and parts.port))
    except ValueError:
        well = False
    if not well:
        raise UsageError(f"--scheduler {address!r}: give tcp://HOST:PORT or tls://HOST:PORT")
    if tls is None:
        if parts.scheme == "tls":
            raise UsageError(f"--scheduler {address!r}: TLS needs --tls-ca, --tls-cert and --tls-key")
        return
    if parts.scheme != "tls":
        raise UsageError(f"--scheduler {address!r}: with --tls-ca, --tls-cert and --tls-key it has to be tls://")
    for name, path in asdict(tls, recurse=False).items():
        if path is None:
            raise UsageError(f"--tls-{name} is missing: TLS needs --tls-ca, --tls-cert and --tls-key")
        if not path.is_file():
            raise Refused(path, "no such file", f"give the PEM file of --tls-{name}")


def _is_installed() -> bool:
    try:
        return find_spec("distributed") is not None
    except ValueError:  # nothing but a name stands in its place
        return False


def _parts(address: str) -> SplitResult:
    return urlsplit(address if "://" in address else f"tcp://{address}")


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Tell in one line that no scheduler answers."""
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        line = str(error).split("\n", 1)[0] or type(error).__name__
        raise Unavailable(f"{address}: no Dask scheduler answers there ({line}); start one: dask scheduler") from error


@contextmanager
def _client(address: str, tls: Tls | None) -> Iterator[Any]:
    distributed: Any = import_module("distributed")
    options: dict[str, Any] = {"timeout": f"{_CONNECT_S}s", "set_as_default": False, "deserializers": ["msgpack"]}
    if tls is not None:
        options["security"] = distributed.Security(
            tls_ca_file=str(tls.ca), tls_client_cert=str(tls.cert), tls_client_key=str(tls.key), require_encryption=True
        )
    with _told(address), _quiet():
        client = _client_class(distributed)(address, **options)
    with client:
        yield client


def _client_class(distributed: Any) -> Any:
    """Return Dask's client, but one that does not open what a task raised: it opens that as soon as it hears of it."""

    class Unopened(distributed.Client):  # type: ignore[misc]
        def _handle_task_erred(self, key: Any = None, **_: object) -> None:
            super()._handle_task_erred(key=key, exception="it raised an error, or its worker was lost")

    return Unopened


def _reach(address: str, tls: Tls | None) -> None:
    """Connect and leave again; `OSError` where nothing answers as Dask does, or not in time.

    A name may take long to be resolved, so this is done aside. Dask's own client, given the address of something else,
    may ask for all memory there is, or wait for a multiple of its limit.
    """
    if _parts(address).scheme == "inproc":
        return
    failed: list[OSError] = [TimeoutError("timed out")]

    def connect() -> None:
        try:
            _greeted(address, tls)
            failed.clear()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT_S)
    if failed:
        raise failed[-1]


def _greeted(address: str, tls: Tls | None) -> None:
    parts = _parts(address)
    place = (parts.hostname or "", parts.port or 0)
    with socket.create_connection(place, _CONNECT_S) as plain, _secured(plain, tls) as stream:
        # Dask greets whoever connects: first comes the length of the greeting.
        head = stream.recv(8)
        if len(head) < 8 or not 0 < int.from_bytes(head, "little") < _LONGEST_GREETING:
            raise OSError("what answers is not Dask")


def _secured(plain: socket.socket, tls: Tls | None) -> socket.socket:
    if tls is None or tls.cert is None:
        return plain
    context = ssl.create_default_context(cafile=tls.ca)
    context.check_hostname = False  # as Dask does: the authority signs for the cluster, whatever its hosts' names
    context.load_cert_chain(tls.cert, tls.key)
    return context.wrap_socket(plain)


_LONGEST_GREETING = 1 << 20


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own report of a failed connection off the terminal: it is told in one line."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@define(eq=False)
class _Cluster(Executor):
    """Runs tasks on the cluster; each future's result is what the task left in the fleet's directory."""

    client: Any
    running: dict[str, Any] = field(factory=dict)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> "Future[Any]":
        """Start ``fn(task)`` on a worker."""
        (task,) = args
        # What is read afterwards is then of this attempt.
        Folders(Path(task.out)).state(task.name).unlink(missing_ok=True)
        found: Future[ReportState] = Future()
        # Every task writes files: none is the same as another, and a lost one has to be run again.
        remote = self.client.submit(_ended, fn, task, pure=False)
        self.running[remote.key] = remote
        remote.add_done_callback(lambda done: self._settle(done, task, found))
        return found

    def _settle(self, remote: Any, task: Task, found: "Future[ReportState]") -> None:
        self.running.pop(remote.key, None)
        try:
            if remote.status != "finished":
                raise DsocrError(f"its worker was lost ({remote.status})")
            found.set_result(_left_by(task))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the future
            found.set_exception(error)


def _ended(work: Callable[[Task], object], task: Task) -> None:
    """Do the work, on a worker; nothing is sent back."""
    work(task)


def _left_by(task: Task) -> ReportState:
    folders, begun = Folders(Path(task.out)), time.monotonic()
    while (state := read_state(folders, task.name)) is None:
        if time.monotonic() - begun > _VISIBLE_S:
            raise DsocrError(f"{folders.state(task.name)} was not written: do the workers see this directory?")
        time.sleep(0.1)
    return state
