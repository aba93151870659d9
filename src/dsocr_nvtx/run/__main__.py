"""`python -m dsocr_nvtx.run`: the run command on its own."""

import os
import sys

# As in `dsocr_nvtx.__main__`: nothing is imported from the current directory.
if sys.path[0] in ("", os.getcwd()) and sys.path[0] != os.path.abspath(os.path.join(__file__, "../../..")):
    del sys.path[0]


def main() -> None:
    """Run the command; an error that is a message to the user ends in one line on stderr and its exit code."""
    from dsocr_nvtx.errors import exit_code_of

    sys.exit(exit_code_of(_command))


def _command() -> object:
    import typer

    from dsocr_nvtx.run.options import run_command

    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command()(run_command)
    return app(prog_name="python -m dsocr_nvtx.run", standalone_mode=False)


if __name__ == "__main__":
    main()
