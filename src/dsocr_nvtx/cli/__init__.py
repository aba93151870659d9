"""The command line: opening and closing files, exit codes, and nothing worth testing on its own."""

import os
import signal
import sys

from dsocr_nvtx.errors import DsocrError, printable_line


def main() -> None:
    """Run `dsocr-nvtx`. An error that is a message to the user ends in one line on stderr and its exit code."""
    from dsocr_nvtx.cli.commands import app

    try:
        app(prog_name="dsocr-nvtx")
    except DsocrError as error:
        sys.exit(_say(str(error), error.exit_code))
    except BrokenPipeError:
        # Whoever read the output has enough of it, as `head` does: the shell's code for that, and no word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        # Disk full, no permission: the file that was being written is gone, what stood there before still stands.
        text = f"{error.filename or 'file system'}: {error.strerror or error}"
        sys.exit(_say(text, DsocrError.exit_code))


def _say(text: str, code: int) -> int:
    print(f"dsocr-nvtx: {printable_line(text)}", file=sys.stderr)
    return code
