"""Two networks in one program, and the header of one with the library of the other."""

import subprocess
from pathlib import Path

import pytest
from conftest import TINY, Built
from packages import SOURCES, PackageFor, package, package_for, run, tool

from mnv2_tvm.deploy.package import STATIC_LIBRARY
from mnv2_tvm.target import Target

__all__ = ["package", "package_for"]

STRICT = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-D_POSIX_C_SOURCE=200112L"]


@pytest.fixture(scope="module")
def other(here: Target, package_for: PackageFor) -> Built:
    """A package of another network. Do not change it."""
    return package_for(here, TINY)


def compile_answer(built: Built, entry: str, folder: Path) -> Path:
    part = folder / f"{entry}.o"
    include = ["-I", built.folder / "include"]
    run(tool("gcc"), *STRICT, *include, f"-DENTRY={entry}", "-c", SOURCES / "answer.c", "-o", part)
    return part


@pytest.mark.parametrize("compiler", ["gcc", "g++", "clang", "clang++"])
@pytest.mark.parametrize("library", [STATIC_LIBRARY, Path("lib/libmnv2.so")], ids=["a", "so"])
def test_the_header_of_another_network_does_not_link(
    compiler: str, library: Path, package: Built, other: Built, tmp_path: Path
) -> None:
    """It would have the library write past the caller's array."""
    language = ["-x", "c++"] if compiler.endswith("++") else []
    include = ["-I", other.folder / "include"]
    run(tool(compiler), *language, *include, "-c", SOURCES / "sizes.c", "-o", tmp_path / "sizes.o")
    link = [tool(compiler), tmp_path / "sizes.o", "-pthread", "-o", tmp_path / "sizes"]
    run(*link, other.folder / library)
    said = run(*link, package.folder / library, code=1)
    assert "mnv2_output_size_1x32x32x3_1x10_" in said


def test_a_static_program_may_hold_two_networks(
    package: Built, other: Built, tmp_path: Path
) -> None:
    """In either order, and neither is the other."""
    parts = [compile_answer(package, "first", tmp_path), compile_answer(other, "second", tmp_path)]
    (tmp_path / "main.c").write_text(
        "int first(void), second(void);\nint main(void) { return first() + 8 * second(); }\n"
    )
    libraries = [built.folder / STATIC_LIBRARY for built in (package, other)]
    for order in (libraries, libraries[::-1]):
        program = tmp_path / "program"
        run(tool("gcc"), tmp_path / "main.c", *parts, *order, "-pthread", "-o", program)
        run(program)


def test_one_file_cannot_have_two_headers(package: Built, other: Built, tmp_path: Path) -> None:
    headers = [built.folder / "include/mnv2.h" for built in (package, other)]
    source = tmp_path / "both.c"
    source.write_text("".join(f'#include "{header}"\n' for header in headers))
    assert "headers of two networks" in run(tool("gcc"), "-c", source, code=1)
    source.write_text("".join(f'#include "{headers[0]}"\n' for _ in range(2)))
    run(tool("gcc"), "-c", source, "-o", tmp_path / "once.o")


@pytest.mark.parametrize("compiler", ["gcc", "g++", "clang", "clang++"])
def test_a_program_may_take_any_network(
    compiler: str, package: Built, other: Built, tmp_path: Path
) -> None:
    """Linked with one, run with the other: it has the sizes of the one it runs with."""
    language = ["-x", "c++", "-std=c++98"] if compiler.endswith("++") else ["-std=c99"]
    flags = [*language, "-Wall", "-Wextra", "-pedantic", "-Werror"]
    include = ["-I", package.folder / "include"]
    part, program = tmp_path / "any.o", tmp_path / "any"
    run(tool(compiler), *flags, *include, "-c", SOURCES / "any_network.c", "-o", part)
    run(tool(compiler), part, f"-L{package.folder}/lib", "-lmnv2", "-pthread", "-o", program)
    for built in (package, other):
        sizes = f"2 {built.manifest.output_shape[0] * built.manifest.output_shape[1]}\n"
        environment = {"LD_LIBRARY_PATH": str(built.folder / "lib")}
        said = subprocess.run([program], env=environment, capture_output=True, text=True)
        assert (said.returncode, said.stdout) == (0, sizes), said
