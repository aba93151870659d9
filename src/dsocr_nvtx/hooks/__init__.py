"""Ranges around a running model: what `dsocr_nvtx.run` uses, and anyone's script can.

with hook(model) as session:
    model.generate(**inputs)
"""

from dsocr_nvtx.hooks.attach import hook
from dsocr_nvtx.hooks.session import HookSession
from dsocr_nvtx.hooks.stage import analytic_stage, current_stage
from dsocr_nvtx.hooks.stats import (
    AnalyticRunStats,
    get_analytic_run_stats,
    reset_analytic_run_stats,
    write_analytic_run_stats,
)

__all__ = [
    "AnalyticRunStats",
    "HookSession",
    "analytic_stage",
    "current_stage",
    "get_analytic_run_stats",
    "hook",
    "reset_analytic_run_stats",
    "write_analytic_run_stats",
]
