"""What every reader returns: one profiled run as tables, whatever tool recorded it."""

from collections.abc import Mapping

import pyarrow as pa
from attrs import frozen


@frozen(kw_only=True)
class Device:
    """A GPU as the report describes it; zeros and empty text where it does not."""

    ordinal: int
    name: str
    sm_count: int = 0
    clock_hz: int = 0
    l2_bytes: int = 0
    uuid: str = ""


@frozen(kw_only=True)
class Trace:
    """A profiled run. Tables follow the schemas of the same names in `dsocr_nvtx.schema.tables`.

    ``devices`` is keyed by (process id, CUDA ordinal): a process numbers the devices that it can see. ``source`` says
    what the tables were read from: tool, versions, file hash.
    """

    nvtx: pa.Table
    announcements: pa.Table
    launches: pa.Table
    operations: pa.Table
    graph_nodes: pa.Table
    devices: Mapping[tuple[int, int], Device]
    source: Mapping[str, str]


@frozen(kw_only=True)
class Projectable:
    """What projecting NVTX ranges needs of a run: EVERY_RANGE, LAUNCHES and OPERATIONS tables."""

    ranges: pa.Table
    launches: pa.Table
    operations: pa.Table
    source: Mapping[str, str]
