"""The toolchain: TVM's LLVM for kernels, clang and lld from the `ziglang` wheel for the rest."""

import importlib.util
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tvm
from tvm_ffi import libinfo

from mnv2_tvm.deploy.elf import PAGE_BYTES
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import (
    cache_folder,
    no_space,
    private_folder,
    scratch_folder,
    temporary_folder,
    usable,
)
from mnv2_tvm.target import Target

_DEADLINE_S = 900  # zig's libc takes half a minute on a fast machine
_SHOWN_BYTES = 16_000  # of a tool's words
_SHORT_BYTES = 64 * 2**20  # on a disk; a tool that was killed by a signal may have needed more


def write_object(mod: tvm.IRModule, target: Target, path: Path) -> None:
    """Generate code for lowered functions and write one object file."""
    module: Any = tvm.get_global_func("target.build.llvm")(mod, target.codegen())
    module.write_to_file(str(path), "o")


def compile_c(source: Path, target: Target, path: Path, *flags: str) -> None:
    """Compile one C file for the target, position independent, symbols hidden by default.

    It finds headers and what `.incbin` names beside `path`: a longer path would be cut by a quote,
    a backslash or a line feed in it.
    """
    options = "-std=c11 -O2 -g0 -fPIC -fvisibility=hidden -Wall -Werror"
    # zig turns ubsan on by default, and its handlers are not in the library
    options += f" -fno-sanitize=all -target {target.link.triple}"
    run_tool(["cc", "-c", "-I.", *options.split(), *flags, str(source)], path)


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
        run_tool(["ld.lld", *options.split(), *inputs, *stubs], linked)
        path.write_bytes(linked.read_bytes())
        shutil.copymode(linked, path)


def link_object(objects: list[Path], target: Target, path: Path, discarded: str = "") -> None:
    """Link objects into one, still relocatable, without the sections that a pattern names."""
    options = ["-m", target.link.emulation, "-r", "--strip-debug", *target.link.lld_flags]
    if discarded:
        script = path.with_suffix(".ld")
        script.write_text(f"SECTIONS {{ /DISCARD/ : {{ {discarded} }} }}\n", encoding="utf-8")
        options += ["-T", str(script)]
    run_tool(["ld.lld", *options, *map(str, objects)], path)


def archive(part: Path, path: Path) -> None:
    """Write a static library of one object; equal objects give equal files."""
    run_tool(["ar", "rcsD", path.name, str(part)], path, "")


def require_programs(target: Target) -> None:
    """Raises UserError for a target without an operating system."""
    if not target.link.program_triple:
        raise UserError(f"no program can be linked for {target.name}: it has no operating system")


def link_program(inputs: list[Path], target: Target, path: Path, *flags: str) -> None:
    """Compile C files and link them with objects into a static program, musl inside.

    Headers lie beside `path`, as with `compile_c`. The first one of a triple takes half a minute,
    in which zig builds its libc. The target is one that `require_programs` accepts.
    """
    options = f"-static -s -std=c11 -O2 -Wall -Wextra -Werror -target {target.link.program_triple}"
    options += f" -Wl,-z,max-page-size={PAGE_BYTES}"
    run_tool(["cc", "-I.", *options.split(), *flags, *map(str, inputs)], path)


def _stub(name: str, target: Target, folder: Path) -> str:
    """An empty library `name`: enough for the linker to write that it is needed."""
    source, built, library = folder / "stub.c", folder / "stub.o", folder / name
    source.write_text("typedef int stub;\n", encoding="utf-8")
    compile_c(source, target, built)
    options = ["-m", target.link.emulation, "-shared", "-soname", name]
    run_tool(["ld.lld", *options, str(built)], library)
    return str(library)


def ffi_includes() -> list[str]:
    """Flags with the folders of TVM's C headers, for entries that TVM can call."""
    folders = {libinfo.find_include_path(), libinfo.find_dlpack_include_path()}
    return [f"-I{folder}" for folder in sorted(folders)]


def require_tools() -> None:
    """Raises UserError where no C compiler could be started: before anything is compiled."""
    if importlib.util.find_spec("ziglang") is None:
        raise UserError("there is no C compiler; python -m pip install ziglang")
    _cache()


def run_tool(arguments: list[str], path: Path, output: str = "-o") -> None:
    """Run a tool of the `ziglang` wheel that writes `path`, which `output` precedes if not empty.

    Raises UserError with the tool's own words, or with the cause where it has none.
    """
    # In the folder of the output: lld takes a percent sign in a path for a random digit.
    words = [*arguments, output, path.name] if output else arguments
    # -P: not a module of that name in that folder.
    command = [sys.executable, "-P", "-m", "ziglang", *words]
    with scratch_folder() as local:
        # Objects of our own would stay in the user's cache for ever, weights and all; and zig,
        # which does not know what .incbin takes in, could take an old one for the new.
        caches = {"ZIG_GLOBAL_CACHE_DIR": _cache(), "ZIG_LOCAL_CACHE_DIR": local}
        code, said = _run(command, path.parent, caches)
        if not code:
            return
        least = min((path.parent, *caches.values()), key=lambda at: shutil.disk_usage(at).free)
        # lld writes by mapping the file: a full disk is a signal and no word.
        short = code < 0 and shutil.disk_usage(least).free < _SHORT_BYTES
        if short or re.search("no space ?left", said, re.IGNORECASE):
            where = temporary_folder() if least == local else least
            raise UserError(f"{arguments[0]} failed: {no_space(where)}")
    if code < 0 and not said:
        said = f"ended by {signal.strsignal(-code) or f'signal {-code}'}"
    raise UserError(f"{arguments[0]} failed:\n{said}")


def _run(command: list[str], folder: Path, caches: dict[str, Path]) -> tuple[int, str]:
    """Exit code and the first words on stderr. Raises UserError after the deadline."""
    deadline = time.monotonic() + _DEADLINE_S
    said = bytearray()
    with (
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **{name: str(path) for name, path in caches.items()}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stderr is not None
        selector.register(process.stderr, selectors.EVENT_READ)
        try:
            while selector.select(max(0.0, deadline - time.monotonic())):
                part = os.read(process.stderr.fileno(), 2**16)
                if not part:
                    break
                said += part[: _SHOWN_BYTES - len(said)]
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{command[4]} did not end in {_DEADLINE_S} s") from error
        finally:
            process.kill()  # where it has not ended: the deadline, Ctrl-C
    return code, said.decode("utf-8", errors="replace").strip()


def _cache() -> Path:
    """The folder where zig keeps its libc: its own default, unless that cannot be written."""
    given = os.environ.get("ZIG_GLOBAL_CACHE_DIR")
    cache = usable(Path(given).absolute()) if given else cache_folder("zig")
    if cache is None or "%" in str(cache):
        cache = private_folder(f"mnv2-cache-{os.getuid()}") / "zig"
    return cache
