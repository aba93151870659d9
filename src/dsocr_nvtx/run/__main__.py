"""`python -m dsocr_nvtx.run`: the run command on its own."""

import sys

import typer

from dsocr_nvtx.errors import DsocrError
from dsocr_nvtx.run.options import run_command


def main() -> None:
    """Run the command; an error that is a message to the user ends in one line on stderr and its exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run_command)
    try:
        app(prog_name="python -m dsocr_nvtx.run")
    except DsocrError as error:
        print(f"dsocr-nvtx: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
