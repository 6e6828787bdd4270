"""A lock on a folder, between the processes that change what is in it and those that read it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnv2_tvm.errors import UserError

_PATIENCE_S = 30.0  # for another process that replaces or reads


@contextmanager
def folder_lock(folder: Path, kind: int) -> Iterator[bool]:
    """Hold the lock of a folder; False where there is no folder, or it cannot have one.

    Raises UserError where another process keeps it.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        yield _lock(handle, kind, folder)
    finally:
        with suppress(OSError):  # also for a fork that has it
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _lock(handle: int, kind: int, folder: Path) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"another process has been busy with {folder} for {_PATIENCE_S:.0f} s; "
                    "try again"
                ) from error
        except OSError:
            return False
        time.sleep(0.01)
