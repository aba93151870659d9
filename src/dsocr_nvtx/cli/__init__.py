"""The command line: opening and closing files, exit codes, and nothing worth testing on its own."""

import sys

from dsocr_nvtx.errors import DsocrError


def main() -> None:
    """Run `dsocr-nvtx`. An error that is a message to the user ends in one line on stderr and its exit code."""
    from dsocr_nvtx.cli.commands import app

    try:
        app(prog_name="dsocr-nvtx")
    except DsocrError as error:
        sys.exit(_say(error))
    except OSError as error:
        # Disk full, no permission: the file that was being written is gone, what stood there before still stands.
        print(f"dsocr-nvtx: {error.filename or 'file system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(DsocrError.exit_code)


def _say(error: DsocrError) -> int:
    print(f"dsocr-nvtx: {error}", file=sys.stderr)
    return error.exit_code
