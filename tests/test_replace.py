"""A folder's files are replaced all or none, whatever ends it, and nobody else's are touched."""

import fcntl
import json
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_python
from kill_steps import MINE, NEW, OLD, fill, found, replace, with_list, written
from mounts import run_with_mount

import mnv2_tvm
from mnv2_tvm import UserError
from mnv2_tvm.replace import JOURNAL, reading, replacing

SCRIPT = Path(__file__).with_name("kill_steps.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An earlier output with files of the user's beside it."""
    fill(tmp_path / "folder", with_list(OLD) | MINE)
    return tmp_path / "folder"


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder where renames are fast: those on a disk wait for it."""
    where = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=where if os.access(where, os.W_OK) else None) as name:
        yield Path(name)


@pytest.mark.parametrize("links", ["links", "no-links"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(in_memory: Path, links: str) -> None:
    done = run_python(SCRIPT, in_memory, links)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["old"] + counts["new"] == counts["steps"] > 60
    assert counts["inside"] > 15 and counts["while mending"] > 30 and counts["new"] > 5


def test_an_error_at_any_step_leaves_the_old(in_memory: Path) -> None:
    done = run_python(SCRIPT, in_memory, "errors")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] > 40


def test_files_of_others_stay(folder: Path) -> None:
    replace(folder)
    assert found(folder) == with_list(NEW) | MINE


def test_a_file_that_stays_the_same_keeps_its_time(folder: Path) -> None:
    os.utime(folder / "same", ns=(1, 1))
    replace(folder)
    assert (folder / "same").stat().st_mtime_ns == 1


@pytest.mark.parametrize("late", [False, True], ids=["before", "meanwhile"])
@pytest.mark.parametrize("name", ["a", "lib/b", "same", "gone/deep/c"])
def test_a_changed_file_is_refused(folder: Path, name: str, late: bool) -> None:
    def change() -> None:
        (folder / name).write_text("mine now")

    if not late:
        change()
    before = found(folder) | {name: "mine now"}
    with pytest.raises(UserError, match=f"{name} was changed"), replacing(folder, written) as new:
        assert late
        fill(new, with_list(NEW))
        change()
    assert found(folder) == before


@pytest.mark.parametrize("late", [False, True], ids=["before", "meanwhile"])
def test_a_file_in_the_way_is_refused(folder: Path, late: bool) -> None:
    if not late:
        fill(folder, {"fresh/deep/d": "mine"})
    with (
        pytest.raises(UserError, match="fresh/deep/d is not of an earlier"),
        replacing(folder, written, ["fresh/deep/d"]) as new,
    ):
        fill(new, with_list(NEW))
        fill(folder, {"fresh/deep/d": "mine"})
    assert found(folder) == with_list(OLD) | MINE | {"fresh/deep/d": "mine"}


@pytest.mark.parametrize("name", ["a", "lib", "fresh"])
def test_a_link_inside_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "elsewhere"
    if (folder / name).exists():
        (folder / name).rename(target)
    else:
        target.mkdir()
    (folder / name).symlink_to(target)
    with pytest.raises(UserError, match=f"folder/{name}"):
        replace(folder)
    assert (folder / name).is_symlink()
    assert target.is_file() or found(target) in ({}, {"b": "old b", "mine": "mine"})


def test_the_folder_itself_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell may be in it, a container may have it mounted, a link may lead there."""
    link = folder.with_name("link")
    link.symlink_to(folder.name)
    number = folder.stat().st_ino
    replace(link)
    monkeypatch.chdir(folder)
    replace(Path())
    assert link.is_symlink() and folder.stat().st_ino == number == Path().stat().st_ino
    assert found(folder) == with_list(NEW) | MINE


def test_a_link_to_a_folder_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    replace(tmp_path / "link")
    assert found(tmp_path / "real") == with_list(NEW)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        replace(tmp_path / "circle")


def test_into_a_mount_point(tmp_path: Path) -> None:
    """The folder cannot be renamed there."""
    script = "import kill_steps, pathlib, sys; place = pathlib.Path(sys.argv[1])\n"
    script += "kill_steps.replace(place); kill_steps.replace(place); print(*place.iterdir())"
    path = os.pathsep.join([str(SCRIPT.parent), str(Path(mnv2_tvm.__file__).parents[1])])
    done = run_with_mount(tmp_path, "size=1m", "-c", script, tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {
        str(tmp_path / name) for name in ("a", "lib", "fresh", "same", "list")
    }


def test_two_at_once(folder: Path) -> None:
    """Each is whole; the later one is there at the end."""
    with replacing(folder, written) as slow:
        replace(folder)
        assert found(folder) == with_list(NEW) | MINE
        fill(slow, with_list({"a": "newest"}))
    assert found(folder) == with_list({"a": "newest"}) | MINE


def test_a_reader_is_waited_for(folder: Path) -> None:
    with reading(folder):
        thread = threading.Thread(target=replace, args=(folder,))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and found(folder) == with_list(OLD) | MINE
    thread.join()
    assert found(folder) == with_list(NEW) | MINE


def test_who_keeps_the_folder_for_ever_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnv2_tvm.folder_lock._PATIENCE_S", 0.1)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    with pytest.raises(UserError, match="another process"):
        replace(folder)
    os.close(handle)
    assert found(folder) == with_list(OLD) | MINE


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_permissions_are_those_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        replace(tmp_path / "out")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*")}
    assert modes == {0o777 & ~mask, 0o666 & ~mask}


@pytest.mark.parametrize(
    "plan",
    [
        b"{",
        b'{"old": {"../x": "1"}, "new": {}, "made": []}',
        b'{"old": {}, "new": {"/etc/x": "1"}, "made": []}',
        b'{"old": {}, "new": {}, "made": ["../.."]}',
        b'{"old": {"lib/link/x": "1"}, "new": {}, "made": []}',
    ],
)
def test_a_journal_of_somebody_elses_is_refused(folder: Path, plan: bytes) -> None:
    (folder / "lib/link").symlink_to("/etc")
    (folder / JOURNAL / "old").mkdir(parents=True)
    (folder / JOURNAL / "plan.json").write_bytes(plan)
    for action in (replace, lambda folder: reading(folder).__enter__()):
        with pytest.raises(UserError, match=f"remove .*{JOURNAL}"):
            action(folder)
    assert found(folder) == with_list(OLD) | MINE
