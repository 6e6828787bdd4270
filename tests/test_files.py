"""Scratch folders do not stay, files are written whole, and the cache is nobody else's."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from built_folder import names
from conftest import run_python

from mnv2_tvm import files
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import PREFIX, cache_folder, private_folder, scratch_folder, write_whole

HOLD = (
    "import sys, pathlib; from mnv2_tvm.files import scratch_folder\n"
    "with scratch_folder(pathlib.Path(sys.argv[1])) as folder:\n"
    "    (folder / 'deep').mkdir(); (folder / 'deep/file').touch()\n"
    "    print(folder, flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of the test is about to mark a folder."""
    monkeypatch.setattr(files, "_YOUNG_S", -1)


def test_a_killed_process_leaves_one_until_the_next_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **streams) as process:  # type: ignore[call-overload]
        left = Path(process.stdout.readline().strip())
        with scratch_folder(tmp_path) as mine:
            assert names(tmp_path) == {left.name, mine.name}, "that process is at work"
        process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == {left.name}
    with scratch_folder(tmp_path):
        assert left.name not in names(tmp_path)
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("no_age")
def test_what_looks_like_one_stays(tmp_path: Path) -> None:
    """No mark, another name, a link, or a file: somebody else's."""
    (tmp_path / f"{PREFIX}abcd1234").mkdir()
    (tmp_path / f"{PREFIX}abcd1234/notes").touch()
    (tmp_path / f"{PREFIX}empty").mkdir()
    (tmp_path / f"{PREFIX}file1234").touch()
    (tmp_path / f"{PREFIX}link1234").symlink_to(f"{PREFIX}abcd1234")
    before = names(tmp_path)
    with scratch_folder(tmp_path):
        pass
    assert names(tmp_path) == before and names(tmp_path / f"{PREFIX}abcd1234") == {"notes"}


@pytest.mark.usefixtures("no_age")
def test_one_that_was_killed_before_its_mark_goes(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}abcd1234").mkdir()
    with scratch_folder(tmp_path):
        pass
    assert names(tmp_path) == set()


def test_a_fork_leaves_it_alone(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from mnv2_tvm.files import scratch_folder\n"
        "with scratch_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    child = os.fork()\n"
        "    if child: os.waitpid(child, 0); assert folder.exists()\n"
    )
    done = run_python("-c", script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == set()


def test_without_locks_none_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.EBADF, "no locks on this network file system")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    monkeypatch.setattr(files, "_YOUNG_S", -1)
    with scratch_folder(tmp_path) as first, scratch_folder(tmp_path) as second:
        assert first.exists() and second.exists()
    assert names(tmp_path) == set()


def test_an_error_of_the_body_passes(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), scratch_folder() as folder:
        raise OSError(errno.ENOSPC, "mine: another disk is full, not that of the folder")
    assert not folder.exists()


@pytest.mark.parametrize("limit", ["full", "absent", "control"])
def test_no_room_for_temporary_files_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    def fail(*arguments: object, **keywords: object) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in [...]")

    if limit == "full":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(files, "is_full", lambda folder: True)
    elif limit == "absent":
        monkeypatch.setattr(tempfile, "gettempdir", fail)
    else:
        monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}/a\nb")
    with pytest.raises(UserError, match="TMPDIR"), scratch_folder():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == set()


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to("file")
    write_whole(link, b"first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    path.chmod(0o640)
    write_whole(link, b"second")
    assert link.is_symlink() and path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_whole(tmp_path / ("x" * 255), b"a name as long as they may be")
    write_whole(Path("/dev/null"), b"not replaced")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match="missing"):
        write_whole(tmp_path / "missing/file", b"")
    assert names(tmp_path) == {"file", "link", "x" * 255}


def test_a_file_that_cannot_be_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"first")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first" and names(tmp_path) == {"file"}


@pytest.mark.parametrize("home", ["/dev/null/home", "", None])
def test_the_cache_of_a_user_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(Path, "home", _no_home)
    else:
        monkeypatch.setenv("HOME", home)
    assert cache_folder("zig") == tmp_path / f"mnv2-cache-{os.getuid()}" / "zig"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("zig") == tmp_path / "xdg/zig"


@pytest.mark.parametrize("kind", ["link", "open", "file"])
def test_a_foreseeable_folder_is_not_taken_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "mine"
    if kind == "link":
        path.symlink_to(tmp_path)
    elif kind == "open":
        path.mkdir()
        path.chmod(0o777)
    else:
        path.touch()
    with pytest.raises(UserError, match="mine is not this user's alone"):
        private_folder("mine")
    shutil.rmtree(path) if kind == "open" else path.unlink()
    assert stat.S_IMODE(private_folder("mine").stat().st_mode) == 0o700


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
