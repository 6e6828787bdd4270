"""Write the library of a microcontroller: `libmnv2.a`, which takes memset and memcpy alone."""

import re
import shutil
from pathlib import Path
from typing import Any

import tvm

from mnv2_tvm.deploy.elf import elf_files, header_faults, refuse
from mnv2_tvm.deploy.library import Interface, write_header
from mnv2_tvm.deploy.link import archive, compile_c, link_object
from mnv2_tvm.deploy.loader import HEADER, STATIC_LIBRARY
from mnv2_tvm.deploy.localise import localise
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.pipeline import Compilation
from mnv2_tvm.target import Target

_SOURCES = Path(__file__).resolve().parent
_TAKEN = frozenset({"memset", "memcpy"})
# Tables for an unwinder, which would come into the program with them.
_UNWINDING = re.compile(
    r"^\s*\.(fnstart|fnend|cantunwind|save|vsave|pad|setfp|movsp)\b.*\n", re.MULTILINE
)
# Beside debugging sections, what LLVM adds for half precision to every module.
_DISCARDED = "*(.debug*) *(.rel.debug*) *(.comment) *(.text.tvm.fp16.conv)"


def write_static_library(network: Compilation, interface: Interface, folder: Path) -> None:
    """Write `libmnv2.a` and `mnv2.h` into `folder`. Raises UserError for several threads."""
    target = network.target
    if interface.threads > 1:
        raise UserError(f"{target.name} has no threads; leave --threads out")
    write_header(interface, folder / HEADER, "bare_metal.h")
    module: Any = tvm.get_global_func("target.build.llvm")(network.module, target.codegen())
    with scratch_folder() as scratch_name:
        scratch = Path(scratch_name)
        weights, kernels = scratch / "weights.bin", scratch / "network.s"
        weights.write_bytes(network.weights)
        text = _UNWINDING.sub("", module.inspect_source("asm"))
        kernels.write_text(text, encoding="utf-8")
        cpu = f"-mcpu={target.link.cpu}"
        objects = [scratch / "network.o", scratch / "runtime.o"]
        compile_c(kernels, target, objects[0], cpu, "-Qunused-arguments")
        flags = [cpu, "-fno-pic", "-fno-unwind-tables", f'-DMNV2_WEIGHTS_FILE="{weights.name}"']
        shutil.copy(folder / HEADER, scratch)
        compile_c(_SOURCES / "bare_metal.c", target, objects[1], *flags)
        whole = scratch / "mnv2.o"
        link_object(objects, target, whole, _DISCARDED)
        api = frozenset({f"mnv2_run_{interface.name}"})
        localise(whole, api)
        archive(whole, folder / STATIC_LIBRARY)
    check_static_library(folder / STATIC_LIBRARY, target, api)


def check_static_library(library: Path, target: Target, api: frozenset[str]) -> None:
    """Raise UserError with everything in the file that is not as its target file promises."""
    wrong = []
    taken: set[str] = set()
    given: set[str] = set()
    for elf in elf_files(library):
        wrong += header_faults(elf, target)
        for symbol in elf.get_section_by_name(".symtab").iter_symbols():
            if symbol["st_info"]["bind"] != "STB_LOCAL":
                (taken if symbol["st_shndx"] == "SHN_UNDEF" else given).add(symbol.name)
    if strange := taken - _TAKEN:
        wrong.append(f"undefined symbols beyond memset and memcpy: {', '.join(sorted(strange))}")
    if given != api:
        wrong.append(f"global symbols differ by {', '.join(sorted(given ^ api))}")
    refuse(library, target, wrong)
