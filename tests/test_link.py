"""Tools that fail: their words are cut, and where they have none the cause is named."""

from pathlib import Path

import pytest
from built_folder import names
from elftools.elf.elffile import ELFFile
from mounts import run_with_mount

from mnv2_tvm.deploy import link
from mnv2_tvm.deploy.link import compile_c, link_shared, require_tools
from mnv2_tvm.errors import UserError
from mnv2_tvm.target import Target

SIZES = ["--width", "0.35", "--resolution", "32", "--classes", "10"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.c"
    path.write_text("int f(void);\n")
    return path


def test_many_words_are_cut(source: Path, here: Target) -> None:
    source.write_bytes(b"".join(b'char *c%d = "\xff" + x;\n' % n for n in range(1000)))
    with pytest.raises(UserError, match="undeclared") as caught:
        compile_c(source, here, source.with_suffix(".o"), "-ferror-limit=0")
    assert len(str(caught.value)) < 2 * link._SHOWN_BYTES


def test_a_deadline(source: Path, here: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_DEADLINE_S", 0)
    with pytest.raises(UserError, match="cc did not end in 0 s"):
        compile_c(source, here, source.with_suffix(".o"))


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install ziglang"):
        require_tools()


def test_a_module_of_that_name_is_not_taken(source: Path, here: Target) -> None:
    source.with_name("ziglang.py").write_text("raise SystemExit('not this one')")
    compile_c(source, here, source.with_suffix(".o"))


def test_nothing_of_ours_stays_in_the_cache(
    source: Path, here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "cache"))
    compile_c(source, here, source.with_suffix(".o"))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".o"]


@pytest.mark.parametrize("name", ["aarch64", "android", "x86-avx2"])
def test_a_library_loads_on_any_page_size(name: str, tmp_path: Path) -> None:
    """Linux gives rights to whole pages, which are of 4, 16 or 64 KiB on ARM."""
    target, library = Target.load(name), tmp_path / "lib.so"
    (tmp_path / "source.c").write_text("int data = 1;\nint f(void) { return data; }\n")
    compile_c(tmp_path / "source.c", target, tmp_path / "source.o", "-fvisibility=default")
    link_shared([tmp_path / "source.o"], target, library)
    with library.open("rb") as file:
        loads = [s.header for s in ELFFile(file).iter_segments() if s["p_type"] == "PT_LOAD"]
    pages = []
    for load in loads:
        assert load.p_align == 65536 and (load.p_vaddr - load.p_offset) % 65536 == 0
        pages += range(load.p_vaddr >> 16, ((load.p_vaddr + load.p_memsz - 1) >> 16) + 1)
    assert len(loads) > 1 and len(pages) == len(set(pages))


@pytest.mark.parametrize("size", ["2500k", "3500k"])
def test_a_full_folder_for_temporary_files_is_named(
    tmp_path: Path, here: Target, size: str
) -> None:
    """Also where lld is killed by a signal, without a word."""
    (tmp_path / "full").mkdir()
    words = ["-m", "mnv2_tvm.build", "--target", here.name, *SIZES, "-o", tmp_path / "out"]
    folder = tmp_path / "full"
    done = run_with_mount(folder, f"size={size}", *words, TMPDIR=str(folder))
    assert done.returncode == 1, done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert f"no space is left in {folder}" in done.stderr and "TMPDIR" in done.stderr
    assert names(tmp_path) == {"full"}


def test_a_folder_that_is_noexec_is_named(tmp_path: Path) -> None:
    script = (
        "from mnv2_tvm.files import check_loadable, scratch_folder\n"
        "with scratch_folder() as folder: check_loadable(folder / 'lib.so')"
    )
    done = run_with_mount(tmp_path, "noexec", "-c", script, TMPDIR=str(tmp_path))
    assert f"UserError: {tmp_path} is mounted noexec" in done.stderr and "TMPDIR" in done.stderr


def test_a_folder_that_is_read_only_is_named_at_once(tmp_path: Path, here: Target) -> None:
    script = (
        "import mnv2_tvm.build, runpy, sys; from mnv2_tvm.cli import run_verb\n"
        "mnv2_tvm.deploy.build.compile_network = None\n"
        "run_verb(mnv2_tvm.build.main)"
    )
    words = ["-c", script, "--target", here.name, *SIZES, "-o", tmp_path]
    done = run_with_mount(tmp_path, "ro", *words)
    assert done.stderr == f"error: cannot write to {tmp_path}: Read-only file system\n"
