"""The build verb writes a folder whole or not at all, and says what is wrong in one sentence."""

import errno
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_folder import FILES, edit_manifest, names
from conftest import TINY, Built, run_python

from mnv2_tvm import UserError, load
from mnv2_tvm.build import build, build_program
from mnv2_tvm.deploy.loader import HEADER, LIBRARY
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.replace import JOURNAL, tree_files
from mnv2_tvm.target import Target


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (UserError("ld.lld failed:\nno such thing"), "ld.lld failed"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write to .*: No space left"),
        (KeyboardInterrupt("Ctrl-C"), "Ctrl-C"),
    ],
    ids=["linker", "disk-full", "interrupt"],
)
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over-an-earlier-build"])
def test_failed_build_leaves_what_was_there(
    tmp_path: Path,
    here: Target,
    tiny: Built,
    tiny_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    message: str,
    earlier: bool,
) -> None:
    def write_some(compilation: object, interface: object, folder: Path) -> None:
        assert output in folder.parents, "another file system cannot be renamed from"
        (folder / LIBRARY).write_bytes(b"half a library")
        raise failure

    monkeypatch.setattr("mnv2_tvm.deploy.build.write_library", write_some)
    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else UserError
    parent = tmp_path / "parent"
    parent.mkdir()
    output = parent / "out"
    if earlier:
        tiny_copy.rename(output)
    with pytest.raises(expected, match=message):
        build(here, tiny.network, output)
    assert names(parent) == ({"out"} if earlier else set())
    if earlier:
        assert names(output) == FILES
        load(output)


def test_failure_of_the_last_step_leaves_the_earlier_build(
    here: Target, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == JOURNAL:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    before = tree_files(tiny_copy)
    with pytest.raises(UserError, match="cannot write to"):
        build(here, SourceNetwork.make(TINY, None, seed=9), tiny_copy)
    monkeypatch.undo()
    load(tiny_copy)
    assert tree_files(tiny_copy) == before


def test_full_disk_is_said_in_one_sentence(tmp_path: Path, here: Target) -> None:
    """No file may grow past 1 MB in that process, and the weights are larger."""
    script = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6));"
        "runpy.run_module('mnv2_tvm.build', run_name='__main__')"
    )
    options = ["--width", "0.35", "--resolution", "32", "--classes", "10", "--target", here.name]
    output = tmp_path / "parent" / "out"
    done = run_python("-c", script, *options, "-o", output)
    assert done.returncode == 1
    assert done.stderr == f"error: cannot write to {output}: File too large\n"
    assert names(output.parent) == set()


def test_rebuild_replaces_the_earlier_one(tmp_path: Path, here: Target, tiny_copy: Path) -> None:
    """Also for the next load in a process that has loaded the earlier one from the same path."""
    network = SourceNetwork.make(TINY, None, seed=9)
    images = network.images(seed=1)
    earlier = load(tiny_copy)
    before = earlier(images)
    said: list[str] = []
    manifest = build(here, network, tiny_copy, say=said.append)
    assert len(said) == len(set(said)) == 2  # each before some seconds of work
    assert names(tiny_copy) == FILES
    assert names(tmp_path) == {"copy"}
    assert Manifest.read(tiny_copy) == manifest
    assert relative_error(load(tiny_copy)(images), network.reference(images)) < 1e-5
    np.testing.assert_array_equal(earlier(images), before)


@pytest.fixture
def never_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the compiler starts: what is wrong with the output is said before that."""

    def compile_network(*arguments: object, **keywords: object) -> None:
        raise AssertionError("compiled before the output was looked at")

    monkeypatch.setattr("mnv2_tvm.deploy.build.compile_network", compile_network)


@pytest.mark.usefixtures("never_compile")
def test_a_file_is_not_overwritten(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file; give another -o"):
        build(here, tiny_network, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.usefixtures("never_compile")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.json", '{"manifest_version": 3}'),  # of a browser extension
        ("libmnv2.so", "mine"),
        ("mnv2.h", "mine"),
        ("manifest.json", ...),
    ],
)
def test_only_what_a_build_wrote_is_replaced(
    tiny_copy: Path, here: Target, tiny_network: SourceNetwork, name: str, text: Any
) -> None:
    path = tiny_copy / name
    path.write_text(path.read_text().replace("0.35", "0.36") if text is ... else text)
    before = tree_files(tiny_copy)
    with pytest.raises(UserError, match=name):
        build(here, tiny_network, tiny_copy)
    assert tree_files(tiny_copy) == before


@pytest.mark.usefixtures("never_compile")
def test_a_file_where_a_package_has_one_stays(
    tiny_copy: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    (tiny_copy / "example.c").write_text("mine")
    with pytest.raises(UserError, match=r"example.c is not of an earlier build"):
        build(here, tiny_network, tiny_copy, package=True)
    assert (tiny_copy / "example.c").read_text() == "mine"


def test_notes_beside_a_build_stay(tiny_copy: Path, here: Target) -> None:
    """Also where a package takes its place, and another its place again."""
    notes = {"notes.txt": "1", "lib/notes.txt": "2", "include/notes.txt": "3"}
    for name, text in notes.items():
        (tiny_copy / name).parent.mkdir(exist_ok=True)
        (tiny_copy / name).write_text(text)
    network = SourceNetwork.make(TINY, None, seed=9)
    build(here, network, tiny_copy, package=True)
    assert not (tiny_copy / LIBRARY).exists()
    build(here, network, tiny_copy)
    assert tree_files(tiny_copy).keys() == {*FILES, *notes}
    assert {name: (tiny_copy / name).read_text() for name in notes} == notes
    load(tiny_copy)


def test_a_build_of_the_first_version_is_replaced_unless_it_is_younger(
    tiny_copy: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    """It lists no files: their names are known, the library's SHA-256, and the order in time."""
    edit_manifest(tiny_copy, format=..., files=..., manifest_sha256=...)
    before = tree_files(tiny_copy)
    for name, match in ((HEADER, "may have been changed"), (LIBRARY, "was changed")):
        path = tiny_copy / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        os.utime(path, (2**31, 2**31))
        with pytest.raises(UserError, match=f"{name} {match}"):
            build(here, tiny_network, tiny_copy)
        path.write_bytes(content)
        os.utime(path, (0, 0))
    assert tree_files(tiny_copy) == before
    assert build(here, tiny_network, tiny_copy).files
    load(tiny_copy)


@pytest.mark.usefixtures("never_compile")
def test_a_folder_of_other_things_is_not_overwritten(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no earlier build"):
        build(here, tiny_network, tmp_path)
    assert names(tmp_path) == {"letter.txt"}


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    """Below a file: no permission is asked of the tests' user, who may be root."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write to .*out: (Not a directory|File exists)"):
        build(here, tiny_network, tmp_path / "file" / "below" / "out")
    assert names(tmp_path) == {"file"}


@pytest.mark.usefixtures("never_compile")
def test_a_name_too_long_for_a_file_is_named(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    with pytest.raises(UserError, match="cannot write to"):
        build(here, tiny_network, tmp_path / ("x" * 300))


def test_a_dump_that_cannot_be_written_is_named(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    (tmp_path / "ir").write_text("mine")
    with pytest.raises(UserError, match="ir"):
        build(here, tiny_network, tmp_path / "out", dump=tmp_path / "ir")


@pytest.mark.parametrize("threads", [0, 65])
def test_impossible_thread_counts_are_refused(
    tmp_path: Path, here: Target, tiny: Built, threads: int
) -> None:
    with pytest.raises(UserError, match=f"{threads} threads: give 1 to 64"):
        build(here, tiny.network, tmp_path / "out", threads=threads)
    assert names(tmp_path) == set()
    with pytest.raises(UserError, match=f"{threads} threads cannot be had: give 1 to 64"):
        load(tiny.folder, threads=threads)


def test_command_line_errors_are_one_sentence(tmp_path: Path) -> None:
    done = run_python("-m", "mnv2_tvm.build", "--target", "abacus", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert re.fullmatch(r"error: unknown target 'abacus'; known targets: .*\n", done.stderr)
    assert names(tmp_path) == set()


def test_any_name_and_no_home(tmp_path: Path, here: Target) -> None:
    """Of the output and of the folder for temporary files; zig's cache goes into the latter."""
    output, scratch = tmp_path / 'net[v2] "\\%d' / "new\nline", tmp_path / "a \"b\\%n'"
    scratch.mkdir()
    options = ["--width", "0.35", "--resolution", "32", "--classes", "10", "--target", here.name]
    away = {"HOME": "/dev/null/home", "XDG_CACHE_HOME": "", "TMPDIR": str(scratch)}
    done = run_python("-m", "mnv2_tvm.build", *options, "-o", output, **away)
    assert done.returncode == 0, done.stderr
    assert 'net[v2] "\\%d/new line/libmnv2.so' in done.stdout
    load(output)
    assert names(scratch) == {f"mnv2-cache-{os.getuid()}"}
    assert stat.S_IMODE((scratch / f"mnv2-cache-{os.getuid()}").stat().st_mode) == 0o700


def test_a_program_replaces_a_program_only(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    os.mkfifo(tmp_path / "fifo")
    for name in ("thesis.tex", "fifo", "."):
        with pytest.raises(UserError, match="give"):
            build_program(here, tiny_network, tmp_path / name)
    assert names(tmp_path) == {"thesis.tex", "fifo"}
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    build_program(here, tiny_network, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    subprocess.run([tmp_path / "real", "--help"], check=False, capture_output=True, timeout=60)
    assert names(tmp_path) == {"thesis.tex", "fifo", "link", "real"}
