"""The folder of `build --package`, as programs of C, CMake and pkg-config take it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ODD, TINY, Built, ended, run_python
from elftools.elf.elffile import ELFFile
from packages import (
    SOURCES,
    PackageFor,
    check_example,
    example_commands,
    package,
    package_for,
    run,
    tool,
)

import mnv2_tvm
from mnv2_tvm import UserError, load
from mnv2_tvm.bench import main as bench_main
from mnv2_tvm.build import build
from mnv2_tvm.build import main as build_main
from mnv2_tvm.deploy.localise import localise
from mnv2_tvm.deploy.package import STATIC_LIBRARY
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.run import main as run_main
from mnv2_tvm.target import Target

__all__ = ["package", "package_for"]

FILES = {
    "example.c",
    "include/mnv2.h",
    "lib/cmake/mnv2/mnv2-config-version.cmake",
    "lib/cmake/mnv2/mnv2-config.cmake",
    "lib/libmnv2.a",
    "lib/libmnv2.so",
    "lib/pkgconfig/mnv2.pc",
    "manifest.json",
}
STRICT = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]
COMPILERS = ["gcc", "clang"]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def other(here: Target, package_for: PackageFor) -> Built:
    """A package of another network for this host. Do not change it."""
    return package_for(here, TINY)


@pytest.fixture
def moved(package: Built, tmp_path: Path) -> Built:
    """The package at another place: it must not know where it was built."""
    folder = shutil.copytree(package.folder, tmp_path / "moved to")
    return Built(folder, package.network, package.manifest)


# Programs


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("kind", ["shared", "static"])
def test_the_commands_in_the_example_build_it(
    compiler: str, kind: str, moved: Built, tmp_path: Path
) -> None:
    command = example_commands(moved.folder)[kind == "static"]
    run(tool(compiler), *STRICT, *command, cwd=moved.folder)
    check_example(moved, [moved.folder / "example"], tmp_path)


@pytest.mark.parametrize("target", ["mnv2::mnv2", "mnv2::mnv2_static"])
def test_cmake_finds_the_package(target: str, moved: Built, tmp_path: Path) -> None:
    said = cmake(moved, tmp_path, f"target_link_libraries(example {target})", version="0.1")
    assert f"mnv2 {mnv2_tvm.__version__}" in said
    run(tool("cmake"), "--build", tmp_path / "build")
    check_example(moved, [tmp_path / "build" / "example"], tmp_path)
    needs_it = "libmnv2.so" in run(tool("readelf"), "-d", tmp_path / "build" / "example")
    assert needs_it == (target == "mnv2::mnv2")


def cmake(built: Built, folder: Path, *lines: str, version: str, code: int = 0) -> str:
    """Configure a project that asks for a version of the package, and return what cmake says."""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(user C)\n"
        f'find_package(mnv2 {version} REQUIRED)\nmessage(STATUS "mnv2 ${{mnv2_VERSION}}")\n'
        f'add_executable(example "{built.folder}/example.c")\n' + "\n".join(lines) + "\n"
    )
    options = [f"-DCMAKE_PREFIX_PATH={built.folder}", "-S", folder, "-B", folder / "build"]
    return run(tool("cmake"), *options, code=code)


@pytest.mark.parametrize("version", ["0.1.0 EXACT", "0.1.0", "", "0.1.0...0.2"])
def test_cmake_takes_versions_that_suit(version: str, package: Built, tmp_path: Path) -> None:
    cmake(package, tmp_path, version=version)


@pytest.mark.parametrize("version", ["0.0", "0.2", "0.1.1", "1.0", "0.1.1 EXACT"])
def test_cmake_refuses_other_versions(version: str, package: Built, tmp_path: Path) -> None:
    said = cmake(package, tmp_path, version=version, code=1)
    assert "requested version" in said and f"version: {mnv2_tvm.__version__}" in said


def test_cmake_refuses_a_package_for_another_word_size(
    package_for: PackageFor, tmp_path: Path
) -> None:
    built = package_for(Target.load("rasp4-32"), ODD)
    assert "32bit" in cmake(built, tmp_path, version="", code=1)


@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
def test_pkg_config_finds_the_package(
    static: bool, moved: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKG_CONFIG_PATH", str(moved.folder / "lib/pkgconfig"))
    assert run(tool("pkg-config"), "--modversion", "mnv2").strip() == mnv2_tvm.__version__
    said = run(tool("pkg-config"), "--cflags", "--libs", *["--static"] * static, "mnv2")
    flags = [word.replace("\0", " ") for word in said.replace("\\ ", "\0").split()]
    flags += ["-static"] if static else [f"-Wl,-rpath,{moved.folder}/lib"]
    run(tool("gcc"), moved.folder / "example.c", *flags, "-o", tmp_path / "example")
    check_example(moved, [tmp_path / "example"], tmp_path)


@pytest.mark.parametrize("compiler", ["gcc", "g++", "clang", "clang++"])
def test_the_header_is_plain_c99_and_cpp(compiler: str, package: Built, tmp_path: Path) -> None:
    """And its constants are those that the library says."""
    cpp = compiler.endswith("++")
    program = tmp_path / "sizes"
    flags = ["-x", "c++", "-std=c++98", *STRICT[1:]] if cpp else STRICT
    include = ["-I", package.folder / "include"]
    run(tool(compiler), *flags, *include, "-c", SOURCES / "sizes.c", "-o", tmp_path / "sizes.o")
    library = package.folder / STATIC_LIBRARY
    run(tool(compiler), tmp_path / "sizes.o", library, "-pthread", "-o", program)
    assert run(program) == f"{mnv2_tvm.__version__}\n"


def test_two_networks_run_in_one_process(package: Built, other: Built, tmp_path: Path) -> None:
    """Each opened for all to see, so that one could take the other's functions for its own."""
    program, both = tmp_path / "two_networks", (package, other)
    run(tool("gcc"), SOURCES / "two_networks.c", "-o", program, "-ldl")
    words: list[object] = []
    for index, built in enumerate(both):
        pixels, logits = tmp_path / f"pixels{index}", tmp_path / f"logits{index}"
        pixels.write_bytes(built.network.images(seed=3).tobytes())
        words += [built.folder / "lib/libmnv2.so", pixels, logits]
    run(program, *words)
    for index, built in enumerate(both):
        wanted = built.network.reference(built.network.images(seed=3))
        result = np.fromfile(tmp_path / f"logits{index}", np.float32).reshape(wanted.shape)
        assert relative_error(result, wanted) < 1e-4


def test_tvms_entry_calls_its_own_library(package: Built, other: Built, tmp_path: Path) -> None:
    """Also where another network's functions were loaded before, for all to see."""
    images = other.network.images(seed=3)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import ctypes, sys, numpy as np, tvm\n"
        "first, second, images, size, result = sys.argv[1:]\n"
        "ctypes.CDLL(first, ctypes.RTLD_GLOBAL)\n"
        "module = tvm.runtime.load_module(second)\n"
        "tensor = tvm.runtime.tensor\n"
        "output = tensor(np.zeros((1, 10), np.float32))\n"
        "workspace = tensor(np.zeros(int(size), np.uint8))\n"
        "module['mnv2_run'](tensor(np.load(images)), output, workspace)\n"
        "np.save(result, output.numpy())\n"
    )
    libraries = [built.folder / "lib/libmnv2.so" for built in (package, other)]
    size = str(package.manifest.workspace_bytes + other.manifest.workspace_bytes)
    arguments = [*libraries, tmp_path / "images.npy", size, tmp_path / "result.npy"]
    done = run_python("-c", program, *arguments)
    assert done.returncode == 0, done.stderr
    result = np.load(tmp_path / "result.npy")
    assert relative_error(result, other.network.reference(images)) < 1e-4


# Symbols


def test_a_program_may_have_all_names_of_the_library_but_the_interface(
    package: Built, tmp_path: Path
) -> None:
    """A function of its own for every one of them, and none is called by the library."""
    run(tool("ar"), "x", package.folder / STATIC_LIBRARY, cwd=tmp_path)
    with (tmp_path / "mnv2.o").open("rb") as file:
        symbols = list(ELFFile(file).get_section_by_name(".symtab").iter_symbols())
    functions = [s for s in symbols if s["st_info"]["type"] == "STT_FUNC"]
    inside = {s.name for s in functions if s["st_info"]["bind"] == "STB_LOCAL"}
    assert {"network", "mnv2_do_run", "mnv2_cpu_suffices"} < inside
    assert all(re.fullmatch(r"\w+", name) for name in inside)
    clash = tmp_path / "clash.c"
    clash.write_text(
        "#include <stdlib.h>\n" + "".join(f"void {name}(void) {{ abort(); }}\n" for name in inside)
    )
    parts = [package.folder / "example.c", clash, package.folder / STATIC_LIBRARY]
    include = ["-I", package.folder / "include", "-fno-builtin", "-w"]
    run(tool("gcc"), *include, *parts, "-pthread", "-o", tmp_path / "example")
    check_example(package, [tmp_path / "example"], tmp_path)


def test_an_object_that_cannot_be_renumbered_is_refused(tmp_path: Path) -> None:
    """C++ has groups of sections, which name a symbol by number."""
    source, built = tmp_path / "group.cpp", tmp_path / "group.o"
    source.write_text("inline int twice(int x) { return 2 * x; }\nint (*f)(int) = twice;\n")
    run(tool("g++"), "-c", source, "-o", built)
    before = built.read_bytes()
    with pytest.raises(UserError, match=r"group\.o: section \.group cannot be renumbered"):
        localise(built, {"f"})
    assert built.read_bytes() == before


def test_a_static_program_touches_no_byte_outside_its_buffers(
    package: Built, tmp_path: Path
) -> None:
    """And reads none of the workspace, full of NaN, before it is written."""
    images = package.network.images(seed=3)
    (tmp_path / "input.raw").write_bytes(images.tobytes())
    library = package.folder / STATIC_LIBRARY
    include = ["-I", package.folder / "include"]
    program, output = tmp_path / "guard", tmp_path / "output.raw"
    run(tool("gcc"), "-O2", *include, SOURCES / "guard.c", library, "-pthread", "-o", program)
    for threads in (1, 2):
        run(program, tmp_path / "input.raw", output, threads)
        result = np.fromfile(output, np.float32).reshape(package.manifest.output_shape)
        assert relative_error(result, package.network.reference(images)) < 1e-4


# The folder


def test_a_package_is_these_files_for_every_target(target: Target, package_for: PackageFor) -> None:
    """Its libraries are held against the target file as they are written."""
    if target.microcontroller is not None:
        with pytest.raises(UserError, match=target.name):
            package_for(target, ODD)
        return
    built = package_for(target, ODD)
    where = str(built.folder.parent)
    assert files(built.folder) == FILES
    for path in ("include/mnv2.h", "lib/pkgconfig/mnv2.pc", "lib/cmake/mnv2/mnv2-config.cmake"):
        text = (built.folder / path).read_text()
        assert "@" not in text and where not in text
    assert where.encode() not in (built.folder / STATIC_LIBRARY).read_bytes()


def test_the_command_line_builds_an_equal_package(
    package: Built, here: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--width", ODD.width, "--resolution", ODD.resolution, "--classes", ODD.classes]
    output = tmp_path / "out"
    options = ["--target", here.name, *size, "--batch", ODD.batch, "--package", "-o", output]
    code, said, errors = ended(capsys, build_main, *options)
    assert code == 0, errors
    assert "lib/libmnv2.so" in said
    assert files(output) == FILES
    for name in FILES:
        assert (output / name).read_bytes() == (package.folder / name).read_bytes()


def test_load_takes_a_package(package: Built) -> None:
    images = package.network.images(seed=1)
    logits = load(package.folder)(images)
    assert relative_error(logits, package.network.reference(images)) < 1e-4


def test_run_and_bench_take_a_package(
    package: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "images.npy", package.network.images(seed=1))
    options = ["--input", tmp_path / "images.npy", "--output", tmp_path / "logits.npy"]
    code, _, errors = ended(capsys, run_main, package.folder, *options)
    assert code == 0, errors
    wanted = package.network.reference(package.network.images(seed=1))
    assert relative_error(np.load(tmp_path / "logits.npy"), wanted) < 1e-4
    code, _, errors = ended(capsys, bench_main, "--library", package.folder, "--runs", 3)
    assert code == 0, errors


def test_a_damaged_library_of_a_package_is_never_opened(moved: Built) -> None:
    with (moved.folder / "lib/libmnv2.so").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"lib/libmnv2.so is damaged: its SHA-256"):
        load(moved.folder)


def test_either_layout_replaces_the_other(moved: Built, here: Target) -> None:
    build(here, moved.network, moved.folder)
    assert files(moved.folder) == {"libmnv2.so", "mnv2.h", "manifest.json"}
    build(here, moved.network, moved.folder, package=True)
    assert files(moved.folder) == FILES


def test_failed_package_leaves_what_was_there(
    moved: Built, here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise UserError("ar failed:\nno such thing")

    monkeypatch.setattr("mnv2_tvm.deploy.package.archive", fail)
    with pytest.raises(UserError, match="ar failed"):
        build(here, moved.network, moved.folder, package=True)
    assert {path.name for path in tmp_path.iterdir()} == {moved.folder.name}
    assert files(moved.folder) == FILES
