"""DeepSeek-OCR inside a serving engine: steps, layers, host work and requests, as ranges and marks."""

import os

SWITCH = "DSOCR_NVTX"
"""The environment's variable that asks for hooks in every process of an engine, by 1."""


def register() -> None:
    """Patch this process of a serving engine, if the environment asks for it: vLLM's entry point for plugins."""
    if os.environ.get(SWITCH) != "1":
        return
    from dsocr_nvtx.serving.plugin import register as hook_process

    hook_process()
