"""How a directory takes the place of another: in one step, so that at every instant one of the two stands there whole.

Nothing is removed before the new one is in place; what could not be removed afterwards is refused before the work.
"""

import ctypes
import errno
import os
import tempfile
from pathlib import Path

from dsocr_nvtx.errors import Refused

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
_NOT_KNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What a file system or a system library answers that has no exchange."""


def put_in_place(made: Path, target: Path) -> None:
    """Move a directory to ``target``; what stood there, if anything, has the name ``made`` afterwards.

    `OSError` where it cannot be, with everything as it was.
    """
    try:
        os.replace(made, target)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        try:
            _exchange(made, target)
        except OSError as cause:
            if cause.errno not in _NOT_KNOWN:
                raise
            _swap(made, target)


def _exchange(one: Path, other: Path) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one))
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one), None, str(other))


def _swap(made: Path, target: Path) -> None:
    """Do it in three steps; between the first two, what stood there has another name beside."""
    aside = tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
    os.replace(target, aside)
    try:
        os.replace(made, target)
    except OSError:
        os.replace(aside, target)
        raise
    os.replace(aside, made)


def check_movable(folder: Path) -> None:
    """Refuse a directory that is a mount point: nothing can take its place."""
    if os.path.ismount(folder):
        raise Refused(folder, "a mount point, which cannot be replaced", "name a directory inside it")


def check_removable(folder: Path) -> None:
    """Refuse a directory that could not be removed whole: something in it is mounted, immutable or of others."""
    remedy = "name another directory, or let it be removed"
    for place, folders, files in os.walk(folder):
        if place != str(folder) and os.path.ismount(place):
            raise Refused(place, "a mount point", remedy)
        if (folders or files) and not os.access(place, os.W_OK | os.X_OK):
            raise Refused(place, "no permission to remove what is in it", remedy)
        for name in files:
            if _is_immutable(os.path.join(place, name)):
                raise Refused(os.path.join(place, name), "an immutable file", remedy)


def _is_immutable(path: str) -> bool:
    """Say whether a file can be neither written nor removed by anybody: permission to write is another matter."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EPERM
    return False
