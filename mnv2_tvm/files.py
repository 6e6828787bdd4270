"""Writing without losing anything: files that are whole or absent, folders that do not stay.

A scratch folder holds a mark and is locked by the process that made it. One with a mark whose lock
is free belongs to a process that was killed, and the next `scratch_folder` beside it removes it.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "mnv2-"
_MARK = ".mnv2-scratch"  # in a folder of ours: no other is ever removed


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = _PREFIX) -> Iterator[Path]:
    """A folder for temporary files, removed at the end; those of killed processes are too.

    In `parent`, by default where the system keeps temporary files. Raises OSError where it cannot
    be made.
    """
    where = parent or Path(tempfile.gettempdir())
    _remove_left(where, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then it has no mark either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / _MARK).touch()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: readers find the old content or all of the new.

    It takes the place of an earlier file, also of one behind a link, and keeps its permissions.
    Raises OSError where it cannot be written; then nothing has changed.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():  # /dev/stdout, a FIFO: nothing to replace
        with path.open("wb") as stream:
            stream.write(data)
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-"[:100], dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(_mode(path))
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _mode(path: Path) -> int:
    """Permissions of `path`, or those that a new file gets."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _remove_left(where: Path, prefix: str) -> None:
    """Remove the scratch folders in `where` whose process is gone."""
    with suppress(OSError):
        for folder in where.iterdir():
            if folder.name.startswith(prefix):
                with suppress(OSError):
                    _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    if not (folder / _MARK).is_file():
        return
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its process lives
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
