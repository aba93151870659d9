"""`mcp`: the answers of `dsocr_nvtx.report.answers` as read-only tools for coding assistants, over standard input."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from dsocr_nvtx.errors import DsocrError, Unavailable
from dsocr_nvtx.report.answers import ANSWERS, Answer


def server() -> Any:
    """Return the server with every tool; `Unavailable` where the SDK is not installed."""
    try:
        found: Any = import_module("mcp.server").MCPServer("dsocr-nvtx")
        annotations = import_module("mcp.types").ToolAnnotations(read_only_hint=True)
    except (ImportError, AttributeError) as error:
        raise Unavailable("mcp needs the Model Context Protocol's SDK; pip install 'dsocr-nvtx[mcp]'") from error
    for name, answer in ANSWERS.items():
        found.tool(name=name, description=answer.__doc__, annotations=annotations)(told(answer))
    return found


def told(answer: Callable[..., Answer]) -> Callable[..., Answer]:
    """Return an answer that tells a refusal as one, in our words: what, where, what to do."""

    @wraps(answer)
    def tell(*args: Any, **options: Any) -> Answer:
        try:
            return answer(*args, **options)
        except DsocrError as error:
            return {"refused": str(error)}

    return tell


def serve() -> None:
    """Answer until standard input ends."""
    server().run(transport="stdio")
