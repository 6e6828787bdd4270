"""Replace the files of a folder by new ones: all of them or none, and no file of anybody else's.

The folder itself stays, and so does what others have in it: it may be a mount point, the folder
that a shell is in, or the end of a link. Files are swapped one by one, which no file system does
at once, so a journal makes it one step, as databases do:

1. The new files are written to a scratch folder inside. A kill leaves the old output.
2. A journal with the names is put beside them: from here on the old output counts. Each old file
   goes into the journal, each new one takes its place; a whole file is at its name all the time
   where the file system knows hard links. After a kill, whoever takes the folder next, with
   `replacing` or with `reading`, brings the old files back.
3. The journal leaves the folder, in one rename: from here on the new output counts.

`replacing` holds a lock during step 2, and `reading` waits for it: inside both, the output is whole
and of one kind. A program that knows nothing of this may see the old and the new files mixed for
the time of a few renames, and after a kill in step 2 until the folder is taken next.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from mnv2_tvm.errors import UserError
from mnv2_tvm.files import PREFIX, file_sha256, scratch_folder
from mnv2_tvm.folder_lock import folder_lock
from mnv2_tvm.untrusted import decode_json, printable, read_bytes

JOURNAL = f"{PREFIX}replacing"

_PLAN, _OLD = "plan.json", "old"  # in the journal
_DEAD_S = 60.0  # age of a journal, on a file system that has no locks

Written = Callable[[Path], Mapping[str, str]]


@contextmanager
def replacing(output: Path, written: Written, names: Collection[str] = ()) -> Iterator[Path]:
    """An empty folder to be filled; then its files take the place of the earlier ones in `output`.

    `written` tells the files of the earlier output, by path with their SHA-256, or raises a
    UserError; what else is in the folder stays. It is asked at once and again at the end. UserError
    where one of its files was changed, or where a new file (`names`: those that are known before)
    would take the place of another. OSError where something cannot be written; `output` is as it
    was then, and after any other exception too.
    """
    folder = _resolved(output)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder(folder) as scratch:
            new = scratch / "new"
            new.mkdir()
            with folder_lock(folder, fcntl.LOCK_EX) as locked:
                _recover(folder, locked)
                _check(folder, output, written(output), names)
            yield new
            with folder_lock(folder, fcntl.LOCK_EX) as locked:
                _recover(folder, locked)
                _replace(folder, output, written(output), scratch)
    finally:
        if made:
            with suppress(OSError):  # it is not empty, as it should be
                folder.rmdir()


@contextmanager
def reading(output: Path) -> Iterator[None]:
    """Nobody replaces the files of the folder meanwhile, and what a killed process left is mended.

    Nothing is done where there is no such folder. Raises UserError where it cannot be mended.
    """
    while True:
        with folder_lock(output, fcntl.LOCK_SH):
            if not _is_left(output):
                yield
                return
        try:
            with folder_lock(output, fcntl.LOCK_EX) as locked:
                _recover(output, locked)
        except OSError as error:
            raise UserError(
                f"{output} was left in the middle of a replacement and cannot be mended "
                f"({error.strerror}); build it again"
            ) from error


def tree_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it."""
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class _Plan:
    """What a replacement changes: SHA-256 by path, and the folders that it makes."""

    old: dict[str, str]
    new: dict[str, str]
    made: list[str]


def _replace(folder: Path, output: Path, old: Mapping[str, str], scratch: Path) -> None:
    """Put the files of `scratch/new` in the place of `old`."""
    source, journal = scratch / "new", scratch / "journal"
    new = tree_files(source)
    _check(folder, output, old, new)
    # A file that stays as it is keeps its time: no make takes it for a new one.
    same = {path for path in old.keys() & new.keys() if old[path] == new[path]}
    same = {path for path in same if (folder / path).exists()}
    plan = _Plan(
        old={path: digest for path, digest in old.items() if path not in same},
        new={path: digest for path, digest in new.items() if path not in same},
        made=[str(part) for part in _parents(new) if not (folder / part).exists()],
    )
    (journal / _OLD).mkdir(parents=True)
    (journal / _PLAN).write_bytes(msgspec.json.encode(asdict(plan)))
    for path in (journal / _PLAN, *(source / path for path in plan.new)):
        _flush(path)
    journal.rename(folder / JOURNAL)
    try:
        for name in sorted(plan.old.keys() | plan.new.keys()):
            _swap(folder, source, name, plan)
        for part in reversed(_parents(old)):
            if str(part) not in map(str, _parents(new)):
                with suppress(OSError):  # somebody else has files there
                    (folder / part).rmdir()
        _flush(folder)
        (folder / JOURNAL).rename(scratch / "done")
    except BaseException:
        if (folder / JOURNAL).exists():
            with suppress(OSError, UserError):  # the next one tries it again
                _roll_back(folder, scratch)
        raise
    with suppress(OSError):  # it is done
        _flush(folder)


def _swap(folder: Path, source: Path, path: str, plan: _Plan) -> None:
    """Put one old file into the journal and the new one, if there is one, into its place."""
    place, kept = folder / path, folder / JOURNAL / _OLD / path
    if path in plan.old and place.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(place, kept)
        except OSError:  # a file system without hard links
            place.rename(kept)
    if path in plan.new:
        place.parent.mkdir(parents=True, exist_ok=True)
        (source / path).replace(place)
    else:
        place.unlink(missing_ok=True)


def _recover(folder: Path, locked: bool) -> None:
    """Bring back what a killed process was about to replace."""
    if not _is_left(folder):
        return
    if not locked and time.time() - (folder / JOURNAL).stat().st_mtime < _DEAD_S:
        raise UserError(f"another process is writing to {folder}; try again in a minute")
    with scratch_folder(folder) as scratch:
        _roll_back(folder, scratch)


def _is_left(folder: Path) -> bool:
    journal = folder / JOURNAL
    return journal.is_dir() and not journal.is_symlink()


def _roll_back(folder: Path, scratch: Path) -> None:
    journal = folder / JOURNAL
    plan = _read_plan(folder)
    for path in sorted(plan.old.keys() | plan.new.keys()):
        place, kept = folder / path, journal / _OLD / path
        now, ours = _state(place), (plan.old.get(path), plan.new.get(path))
        if kept.exists() and now in (None, *ours):
            place.parent.mkdir(parents=True, exist_ok=True)
            kept.replace(place)
        elif kept.exists():
            raise UserError(
                f"{place} was written while a replacement was half done; move it away: the file "
                f"that was there is {kept}"
            )
        elif path not in plan.old and now == plan.new[path]:
            place.unlink()
    for part in reversed(plan.made):
        with suppress(OSError):
            (folder / part).rmdir()
    _flush(folder)
    journal.rename(scratch / "undone")


def _read_plan(folder: Path) -> _Plan:
    """The plan of the journal. Raises UserError where it would lead out of the folder."""
    name = str(folder / JOURNAL / _PLAN)
    try:
        plan = decode_json(read_bytes(Path(name), name), _Plan, name)
        for path in (*plan.old, *plan.new, *plan.made):
            if not (is_inside(path) and _is_real(folder, path)):
                raise UserError(f"{name} names {printable(path)!r}, which is outside")
            if not _is_real(folder, f"{JOURNAL}/{_OLD}/{path}"):
                raise UserError(f"{folder / JOURNAL / _OLD / printable(path)} is behind a link")
    except UserError as error:
        raise UserError(f"{error}; remove {folder / JOURNAL}") from error
    return plan


def _check(folder: Path, output: Path, old: Mapping[str, str], new: Collection[str]) -> None:
    """Raise UserError where a file is not as it was written, or in the way of a new one."""
    for path in {**old, **dict.fromkeys(new)}:
        if not _is_real(folder, path):
            raise UserError(f"{output / path} is behind a link or a file; give another -o")
        now = _state(folder / path)
        if now is None or now == old.get(path):
            continue
        done = "was changed since it was built" if path in old else "is not of an earlier build"
        raise UserError(f"{output / path} {done}; move it away or give another -o")


def _state(path: Path) -> str | None:
    """SHA-256 of a file, None where nothing is, and a word where something else is."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return "no file"
    return file_sha256(path) if path.exists() else None


def _is_real(folder: Path, path: str) -> bool:
    """Whether all folders on the way from `folder` to `path` are ordinary ones, or missing."""
    parents = [folder / part for part in _parents([path])]
    return not any(part.is_symlink() or (part.exists() and not part.is_dir()) for part in parents)


def _parents(paths: Collection[str]) -> list[Path]:
    """The folders in which `paths` lie, each before those in it."""
    found = {part for path in paths for part in Path(path).parents if part != Path()}
    return sorted(found, key=lambda part: len(part.parts))


def is_inside(path: str) -> bool:
    """Whether a path is that of a file in the folder it is relative to, in its shortest form."""
    pure = Path(path)
    shortest = path == str(pure) and path.isprintable() and bool(pure.name)
    return shortest and not pure.is_absolute() and ".." not in pure.parts


def _resolved(output: Path) -> Path:
    """Where a path leads. OSError for a circle of links."""
    with suppress(RuntimeError):  # of Python up to 3.12; later ones stay where the circle is
        place = output.resolve()
        if not place.is_symlink():
            return place
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _flush(path: Path) -> None:
    """Make it survive a power cut, where the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # folders of some network file systems
            os.fsync(handle)
    finally:
        os.close(handle)
