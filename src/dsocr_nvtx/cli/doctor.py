"""`doctor`: prints what the machine has and lacks."""

import json

from attrs import asdict
from rich.console import Console
from rich.text import Text

from dsocr_nvtx.measure.doctor import Check, State, abilities, examine
from dsocr_nvtx.measure.machine import Machine
from dsocr_nvtx.schema.terminal import Terminal

_COLOURS = {State.OK: "green", State.MISSING: "red", State.OPTIONAL: "yellow"}


def doctor(*, as_json: bool) -> None:
    """Print one line per check and what they allow, or all of it as one JSON object."""
    checks = examine(Machine())
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in checks], "can": abilities(checks)}, indent=2))
        return
    show_checks(Terminal(), checks)


def show_checks(console: Console, checks: list[Check]) -> None:
    """Print the checks; what lacks something is followed by the command that mends it."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        line = Text(f"{check.state:<8}  ", style=_COLOURS[check.state])
        line.append(f"{check.name:<{width}}  {check.found}", style="default")
        console.print(line, soft_wrap=True)
        if check.remedy:
            console.print(Text(f"{'':8}  {'':{width}}  -> {check.remedy}", style="bold"), soft_wrap=True)
    can = abilities(checks)
    for word, answer in (("can", True), ("cannot", False)):
        names = [name for name, able in can.items() if able is answer]
        if names:
            console.print(Text(f"{word}: {', '.join(names)}"), soft_wrap=True)
