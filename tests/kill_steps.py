"""Kill a replacement before each of its steps, and the mending of it too; prints counts as JSON.

A process of its own for test_replace.py: it forks at every step, which one with threads must not.
"""

import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mnv2_tvm import files
from mnv2_tvm.replace import JOURNAL, reading, replacing

OLD = {"a": "old a", "lib/b": "old b", "gone/deep/c": "old c", "same": "same"}
NEW = {"a": "new a", "lib/b": "new b", "fresh/deep/d": "new d", "same": "same"}
MINE = {"notes.txt": "mine", "lib/mine": "mine", "gone/mine": "mine"}
STEPS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}


def fill(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def with_list(texts: Mapping[str, str]) -> dict[str, str]:
    """The files and a list of them, as a manifest is."""
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return {**texts, "list": json.dumps(digests)}


def written(folder: Path) -> dict[str, str]:
    path = folder / "list"
    if not path.exists():
        return {}
    return json.loads(path.read_text()) | {"list": hashlib.sha256(path.read_bytes()).hexdigest()}


def found(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not str(path.relative_to(folder)).startswith(".mnv2-")
    }


def replace(folder: Path) -> None:
    with replacing(folder, written) as new:
        fill(new, with_list(NEW))


def mend(folder: Path) -> None:
    with reading(folder):
        pass


def killed(action: Callable[[Path], None], folder: Path, step: int) -> bool:
    """Do it in a process that is killed before its step `step`; False where it has fewer."""
    child = os.fork()
    if child == 0:
        left = itertools.count(step, -1)

        def count(event: str, arguments: object) -> None:
            if event in STEPS and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        action(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def check_whole(folder: Path, seen: Counter[str]) -> None:
    """One of the two, and what is not ours as it was."""
    mend(folder)
    now = found(folder)
    state = next(
        (name for name, texts in (("old", OLD), ("new", NEW)) if now == with_list(texts) | MINE),
        None,
    )
    assert state, now
    seen[state] += 1


def kill(place: Path, links: bool) -> None:
    files._YOUNG_S = 0  # nobody else is at work here
    os.fsync = lambda handle: None  # a kill loses nothing that was written, and this is slow
    if not links:

        def link(*arguments: object) -> None:
            raise PermissionError("no hard links here")

        os.link = link
    seen: Counter[str] = Counter()
    folder = place / "folder"
    for step in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        fill(folder, with_list(OLD) | MINE)
        if not killed(replace, folder, step):
            break
        if (folder / JOURNAL).exists():
            seen["inside"] += 1
            if links:  # at its name all the time
                assert (folder / "a").read_text() in ("old a", "new a")
            if seen["inside"] % 8 == 1:
                for later in itertools.count():
                    if not killed(mend, folder, later):
                        break
                    seen["while mending"] += 1
        check_whole(folder, seen)
        replace(folder)
        assert found(folder) == with_list(NEW) | MINE
        assert [path for path in folder.rglob("*") if ".mnv2-" in str(path)] == []
        assert [
            path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())
        ] == []
    assert found(folder) == with_list(NEW) | MINE
    print(json.dumps(seen | {"steps": step}))


def fail(place: Path) -> None:
    """The same with an error of the disk in place of a kill: the old files are back at once."""
    os.fsync = lambda handle: None
    left: Iterator[int] = iter(())

    def count(event: str, arguments: object) -> None:
        if event in STEPS and next(left, None) == 0:
            raise OSError(errno.EIO, "Input/output error")

    sys.addaudithook(count)
    seen: Counter[str] = Counter()
    folder = place / "folder"
    for step in itertools.count():
        left = iter(())
        shutil.rmtree(folder, ignore_errors=True)
        fill(folder, with_list(OLD) | MINE)
        left = itertools.count(step, -1)
        try:
            replace(folder)
        except OSError:
            seen["failed"] += 1
            wanted = with_list(OLD) | MINE
        else:
            wanted = with_list(NEW) | MINE
        if next(left) > 0:
            break
        left = iter(())
        assert found(folder) == wanted, step
        assert not (folder / JOURNAL).exists()
    print(json.dumps(seen | {"steps": step}))


if __name__ == "__main__":
    place, mode = Path(sys.argv[1]), sys.argv[2]
    if mode == "errors":
        fail(place)
    else:
        kill(place, links=mode == "links")
