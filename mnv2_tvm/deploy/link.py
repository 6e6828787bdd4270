"""The toolchain: TVM's LLVM for kernels, clang and lld from the `ziglang` wheel for the rest."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tvm
from tvm_ffi import libinfo

from mnv2_tvm.deploy.elf import PAGE_BYTES
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.target import Target


def write_object(mod: tvm.IRModule, target: Target, path: Path) -> None:
    """Generate code for lowered functions and write one object file."""
    module: Any = tvm.get_global_func("target.build.llvm")(mod, target.codegen())
    module.write_to_file(str(path), "o")


def compile_c(source: Path, target: Target, path: Path, *flags: str) -> None:
    """Compile one C file for the target, position independent, symbols hidden by default."""
    options = "-std=c11 -O2 -g0 -fPIC -fvisibility=hidden -Wall -Werror"
    # zig turns ubsan on by default, and its handlers are not in the library
    options += f" -fno-sanitize=all -target {target.link.triple}"
    run_tool(["cc", "-c", *options.split(), *flags, str(source), "-o", str(path)])


def link_shared(objects: list[Path], target: Target, path: Path, *flags: str) -> None:
    """Link a shared library without any system library in sight.

    The linker writes page by page. Written again at once, the file's pages lie together in memory:
    the same bytes run 2-4 % faster (1.0-224, one thread, x86-avx512, copies of one file in turns;
    AMD EPYC family 25 model 17, Linux 6.18, ext4, 2026-11-21).
    """
    options = f"-m {target.link.emulation} -shared --build-id=none --gc-sections --hash-style=both"
    options += f" -z max-page-size={PAGE_BYTES} -z common-page-size={PAGE_BYTES}"
    options += f" -z noexecstack --strip-debug -soname {path.name}"
    inputs = [*target.link.lld_flags, *flags, *map(str, objects)]
    with scratch_folder() as scratch:
        stubs = [_stub(name, target, Path(scratch)) for name in target.link.needed]
        linked = Path(scratch) / path.name
        run_tool(["ld.lld", *options.split(), *inputs, *stubs, "-o", str(linked)])
        path.write_bytes(linked.read_bytes())
        shutil.copymode(linked, path)


def link_object(objects: list[Path], target: Target, path: Path, discarded: str = "") -> None:
    """Link objects into one, still relocatable, without the sections that a pattern names."""
    options = ["-m", target.link.emulation, "-r", "--strip-debug", *target.link.lld_flags]
    if discarded:
        script = path.with_suffix(".ld")
        script.write_text(f"SECTIONS {{ /DISCARD/ : {{ {discarded} }} }}\n", encoding="utf-8")
        options += ["-T", str(script)]
    run_tool(["ld.lld", *options, *map(str, objects), "-o", str(path)])


def archive(part: Path, path: Path) -> None:
    """Write a static library of one object; equal objects give equal files."""
    run_tool(["ar", "rcsD", str(path), str(part)])


def require_programs(target: Target) -> None:
    """Raises UserError for a target without an operating system."""
    if not target.link.program_triple:
        raise UserError(f"no program can be linked for {target.name}: it has no operating system")


def link_program(inputs: list[Path], target: Target, path: Path, *flags: str) -> None:
    """Compile C files and link them with objects into a static program, musl inside.

    The first one of a triple takes half a minute, in which zig builds its libc. The target is one
    that `require_programs` accepts.
    """
    options = f"-static -s -std=c11 -O2 -Wall -Wextra -Werror -target {target.link.program_triple}"
    options += f" -Wl,-z,max-page-size={PAGE_BYTES}"
    run_tool(["cc", *options.split(), *flags, *map(str, inputs), "-o", str(path)])


def _stub(name: str, target: Target, folder: Path) -> str:
    """An empty library `name`: enough for the linker to write that it is needed."""
    source, built, library = folder / "stub.c", folder / "stub.o", folder / name
    source.write_text("typedef int stub;\n", encoding="utf-8")
    compile_c(source, target, built)
    options = ["-m", target.link.emulation, "-shared", "-soname", name]
    run_tool(["ld.lld", *options, str(built), "-o", str(library)])
    return str(library)


def ffi_includes() -> list[str]:
    """Flags with the folders of TVM's C headers, for entries that TVM can call."""
    folders = {libinfo.find_include_path(), libinfo.find_dlpack_include_path()}
    return [f"-I{folder}" for folder in sorted(folders)]


def run_tool(arguments: list[str]) -> None:
    """Run a tool of the `ziglang` wheel. Raises UserError with the tool's own words."""
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{arguments[0]} failed:\n{done.stderr.strip()}")
