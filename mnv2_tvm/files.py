"""Writing without losing anything: files that are whole or absent, folders that do not stay.

A scratch folder holds a mark and is locked by the process that made it. One with a mark whose lock
is free belongs to a process that was killed, and the next `scratch_folder` beside it removes it.
On a file system without locks (NFS) it has another mark and waits for its owner.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnv2_tvm.errors import UserError

PREFIX = ".mnv2-"  # of scratch folders outside the folder for temporary files

_PREFIX = "mnv2-"
_MARK, _UNLOCKED = ".mnv2-scratch", ".mnv2-scratch-without-lock"  # no folder without is removed
_NAME = re.compile(r"\.?mnv2-[a-z0-9_]{8}")  # what `mkdtemp` makes of the prefixes
_YOUNG_S = 1  # of a folder without a mark: its process may be about to lock it and write one
_FULL = (errno.ENOSPC, errno.EDQUOT)

_swept: set[tuple[int, Path]] = set()  # process and folder for temporary files


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """A folder for temporary files, removed at the end; those of killed processes are too.

    In `parent`, and OSError where it cannot be made there. By default where the system keeps
    temporary files: then UserError where that is impossible, or there is no space left.
    """
    if parent is None:
        where, prefix = temporary_folder(), _PREFIX
        if (os.getpid(), where) not in _swept:  # it may have many thousand entries
            _swept.add((os.getpid(), where))
            _remove_left(where, prefix)
    else:
        where = parent
        _remove_left(where, prefix)
    folder = _make(where, prefix, parent is None)
    process, lock = os.getpid(), os.open(folder, os.O_RDONLY)
    try:
        with _naming_a_full_disk(folder, parent is None):
            (folder / (_MARK if _locks(lock) else _UNLOCKED)).touch()
            yield folder
    finally:
        if os.getpid() == process:  # a fork that leaves this block has to leave the folder alone
            _remove(folder)
        os.close(lock)


def write_whole(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a file in one step: readers find the old content or all of the new.

    It takes the place of an earlier file, also of one behind a link, and keeps its permissions
    unless `mode` gives others. Raises OSError where it cannot be written; then nothing has changed.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():  # /dev/stdout, a FIFO: nothing to replace
        with path.open("wb") as stream:
            stream.write(data)
        return
    with scratch_folder(path.parent) as scratch:
        new = scratch / "new"
        with new.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if mode is not None or path.exists():
            new.chmod(stat.S_IMODE(path.stat().st_mode) if mode is None else mode)
        new.replace(path)


def temporary_folder() -> Path:
    """Where the system keeps temporary files. Raises UserError where none can be written."""
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        raise UserError(
            "no temporary file can be written in TMPDIR, /tmp, /var/tmp or this folder; free some "
            "space or set TMPDIR to a folder that has some"
        ) from error
    if not folder.isprintable():  # compilers write lists of files, a path a line
        raise UserError(f"TMPDIR {folder!r} has a character in it that is none; set it to another")
    return Path(folder)


def cache_folder(name: str) -> Path:
    """A folder of the user's cache, for what takes long to make and can be made again.

    Where that cannot be written, as in a container whose user has no home, it is in the folder for
    temporary files, and only this user can enter it.
    """
    with suppress(OSError, RuntimeError):
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        root = given if given.is_absolute() else _home() / ".cache"
        if folder := usable(root / name):
            return folder
    return private_folder(f"mnv2-cache-{os.getuid()}") / name


def usable(folder: Path) -> Path | None:
    """`folder`, made where it is missing; None where files cannot be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def private_folder(name: str) -> Path:
    """A folder for temporary files that stays, and that no other user can enter or have made.

    Raises UserError where somebody else has made it: in /tmp everybody can foresee its name.
    """
    folder = temporary_folder() / name
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(f"{folder} is not this user's alone; set TMPDIR to a folder that is")
    return folder


def is_full(folder: Path) -> bool:
    """Whether nothing more can be written in `folder`, for want of space."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
    except OSError as error:
        return error.errno in _FULL
    return False


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_loadable(library: Path) -> None:
    """Raises UserError where the system loads no code from the library's folder."""
    folder = library.resolve().parent
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        remedy = f"copy {folder} elsewhere"
        if _NAME.fullmatch(folder.name):
            folder, remedy = folder.parent, "set TMPDIR to another folder"
        raise UserError(f"{folder} is mounted noexec, so no library can be loaded there; {remedy}")


def _home() -> Path:
    home = Path.home()
    if os.environ.get("HOME") == "" or not home.is_absolute():
        raise RuntimeError("no home")
    return home


def _make(where: Path, prefix: str, ours: bool) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=where))
    except OSError as error:
        if ours:
            raise UserError(
                f"{where} takes no temporary files ({error.strerror}); free some space or set "
                "TMPDIR to a folder that does"
            ) from error
        raise


def _locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # another may be looking whether somebody has it
    except OSError:
        return False
    return True


@contextmanager
def _naming_a_full_disk(folder: Path, temporary: bool) -> Iterator[None]:
    """Without it, the error would be laid to the file that the user asked for."""
    try:
        yield
    except OSError as error:
        if temporary and error.errno in _FULL and is_full(folder):
            raise UserError(no_space(folder.parent)) from error
        raise


def no_space(folder: Path) -> str:
    """The sentence for a folder of temporary files that is full."""
    return f"no space is left in {folder}; free some or set TMPDIR to a folder that has more"


def _remove_left(where: Path, prefix: str) -> None:
    """Remove the scratch folders in `where` whose process is gone."""
    with suppress(OSError), os.scandir(where) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                with suppress(OSError):
                    _remove_if_left(Path(entry.path))


def _remove_if_left(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its process lives
        if (folder / _MARK).is_file():
            _remove(folder)
        elif _NAME.fullmatch(folder.name) and time.time() - found.st_mtime > _YOUNG_S:
            # Killed right after it made the folder, or right before the end of its removal.
            folder.rmdir()  # fails unless it is empty
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove the folder, its mark last: whoever is killed in between leaves it recognisable."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _MARK:
                with suppress(OSError):
                    Path(entry.path).unlink()
    shutil.rmtree(folder, ignore_errors=True)
