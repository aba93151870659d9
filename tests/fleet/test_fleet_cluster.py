"""A Dask cluster: what its workers send is never opened, and what is no scheduler is told in one line."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsocr_nvtx.errors import DsocrError, Refused, Unavailable, UsageError
from dsocr_nvtx.fleet.cluster import Tls, cluster
from dsocr_nvtx.fleet.task import Task

pytest.importorskip("distributed")


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://host", "tcp://host:port", "tcp://host:99999999", "http://host:1", "tls://host:1", ""]
)
def test_what_is_no_address_is_wrong_usage(address: str) -> None:
    with pytest.raises(UsageError, match="--scheduler"):
        cluster(address)


def test_the_files_of_tls_are_all_there_or_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tls-key is missing"):
        cluster("tls://host:1", Tls(ca=Path(__file__), cert=Path(__file__)))
    with pytest.raises(UsageError, match="has to be tls://"):
        cluster("tcp://host:1", Tls(ca=Path(__file__), cert=Path(__file__), key=Path(__file__)))
    with pytest.raises(Refused, match="ca: no such file"):
        cluster("tls://host:1", Tls(ca=tmp_path / "ca", cert=Path(__file__), key=Path(__file__)))


@contextmanager
def listener(says: bytes) -> Iterator[str]:
    """Yield the address of something that greets with these bytes and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def greet() -> None:
            try:
                kept.append(server.accept()[0])
                kept[-1].sendall(says)
            except OSError:
                pass

        import threading

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)
        for one in kept:
            one.close()


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 8, b"\xff" * 64])
def test_what_does_not_speak_dask_is_no_scheduler(says: bytes) -> None:
    """Its own client would ask for as much memory as the greeting's first bytes say, or wait for long."""
    with listener(says) as address, pytest.raises(Unavailable, match=f"{address}: no Dask scheduler answers"):
        cluster(address)


class Opened(Exception):
    """Leaves a trace, named by the process, wherever its pickle is opened."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return leave_trace, (self.folder,)


def leave_trace(folder: str) -> Exception:
    """Leave a file that is named by the process."""
    (Path(folder) / str(os.getpid())).touch()
    return RuntimeError("opened")


def dishonest(task: Task) -> object:
    """Raise what runs code where it is opened."""
    raise Opened(task.path)


def test_a_dishonest_worker_runs_nothing_here(tmp_path: Path) -> None:
    from importlib import import_module
    from typing import Any

    distributed: Any = import_module("distributed")
    traces = tmp_path / "traces"
    traces.mkdir()
    task = Task(name="rank-0", path=str(traces), out=str(tmp_path / "out"), settings="")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as workers,
        cluster(workers.scheduler_address)() as pool,
    ):
        error = pool.submit(dishonest, task).exception(timeout=60)
    assert isinstance(error, DsocrError)
    assert str(os.getpid()) not in os.listdir(traces)
