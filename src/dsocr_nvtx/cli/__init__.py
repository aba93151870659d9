"""The command line: opening and closing files, exit codes, and nothing worth testing on its own."""

import sys

from dsocr_nvtx.errors import exit_code_of


def main() -> None:
    """Run `dsocr-nvtx`. An error that is a message to the user ends in one line on stderr and its exit code."""
    sys.exit(exit_code_of(_command))


def _command() -> object:
    from dsocr_nvtx.cli.commands import app

    return app(prog_name="dsocr-nvtx", standalone_mode=False)
