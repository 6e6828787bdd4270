"""Read a linked library back: is it what the target file and mnv2.h promise?"""

from io import BytesIO
from pathlib import Path
from typing import Any

from elftools.elf.constants import E_FLAGS, P_FLAGS, SH_FLAGS
from elftools.elf.elffile import ELFFile

from mnv2_tvm.errors import UserError
from mnv2_tvm.target import Target

# The largest pages that a kernel has, on some ARM servers; a multiple of the 16 KiB of Android 15
# and the 4 KiB of others. The gaps are in the addresses alone: the files are no larger.
PAGE_BYTES = 65536

API = frozenset(
    f"mnv2_{name}"
    for name in (
        "run",
        "profile",
        "set_threads",
        "get_threads",
        "team_threads",
        "pin",
        "shutdown",
        "input_size",
        "output_size",
        "input_shape",
        "output_shape",
        "output_rank",
        "workspace_bytes",
        "layer_count",
        "version",
    )
)
_PACKED = frozenset(f"__tvm_ffi_mnv2_{name}" for name in ("run", "profile", "set_threads"))

# What the C runtime takes from the process that it is in.
_PTHREAD = "create join sigmask cond_wait cond_broadcast mutex_lock mutex_trylock mutex_unlock"
_LIBC = frozenset(
    {"clock_gettime", "getpid", "syscall", "posix_memalign", "free", "memset", "memcpy"}
    | {"getauxval", "sched_getaffinity", "sched_setaffinity", "sigfillset", "mmap", "madvise"}
    | {f"pthread_{name}" for name in _PTHREAD.split()}
)
_TVM = frozenset({"TVMFFIErrorSetRaisedFromCStr"})  # weak: present inside a TVM process only


def linked_names(network: str) -> frozenset[str]:
    """What the functions of mnv2.h are called for the linker, in a network of this name."""
    return frozenset(f"{name}_{network}" for name in API)


def code_bytes(library: Path) -> int:
    """Bytes of all executable sections, of a static library too."""
    return sum(
        int(section["sh_size"])
        for elf in elf_files(library)
        for section in elf.iter_sections()
        if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
    )


def elf_files(library: Path) -> list[Any]:
    """The library itself, or the objects of a static one."""
    data = library.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        return [ELFFile(BytesIO(data))]
    elfs = []
    start = 8
    while start < len(data):
        size = int(data[start + 48 : start + 58])
        member = data[start + 60 : start + 60 + size]
        if member.startswith(b"\x7fELF"):  # not the archive's own tables
            elfs.append(ELFFile(BytesIO(member)))
        start += 60 + size + size % 2
    return elfs


def check_library(library: Path, target: Target, network: str) -> None:
    """Raise UserError with everything in the file that is not as promised."""
    exports = API | linked_names(network) | _PACKED
    with library.open("rb") as file:
        elf = ELFFile(file)
        wrong = [*header_faults(elf, target), *_segments(elf)]
        wrong += _dynamic(elf, library.name, target, exports)
    refuse(library, target, wrong)


def check_object(path: Path, target: Target, network: str) -> None:
    """The same of the one object of a static library."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        symbols = list(elf.get_section_by_name(".symtab").iter_symbols())
        shared = [s for s in symbols if s["st_info"]["bind"] != "STB_LOCAL"]
        wrong = [*header_faults(elf, target), *_symbols(shared, linked_names(network), _LIBC)]
    refuse(path, target, wrong)


def refuse(path: Path, target: Target, wrong: list[str]) -> None:
    if wrong:
        promises = f"targets/{target.name}.toml and mnv2.h promise"
        raise UserError(f"{path} is not what {promises}:\n  " + "\n  ".join(wrong))


def check_program(program: Path, target: Target) -> None:
    """Raise UserError where a program is not a static one for the target's machine."""
    with program.open("rb") as file:
        elf = ELFFile(file)
        wrong = [*header_faults(elf, target), *_segments(elf)]
        if any(segment["p_type"] in ("PT_INTERP", "PT_DYNAMIC") for segment in elf.iter_segments()):
            wrong.append("it needs a dynamic linker")
    refuse(program, target, wrong)


def header_faults(elf: Any, target: Target) -> list[str]:
    """What of machine and flags is not as the target file says."""
    wrong = []
    if elf["e_machine"] != target.link.elf_machine:
        wrong.append(f"machine {elf['e_machine']}, not {target.link.elf_machine}")
    for name in target.link.elf_flags:
        if not elf["e_flags"] & getattr(E_FLAGS, name):
            wrong.append(f"flags {elf['e_flags']:#x} lack {name}")
    return wrong


def _segments(elf: Any) -> list[str]:
    wrong = []
    for segment in elf.iter_segments():
        if segment["p_type"] == "PT_LOAD" and segment["p_align"] % PAGE_BYTES:
            wrong.append(f"a segment is aligned to {segment['p_align']} bytes, not {PAGE_BYTES}")
        if segment["p_type"] == "PT_GNU_STACK" and segment["p_flags"] & P_FLAGS.PF_X:
            wrong.append("the stack would be executable")
    return wrong


def _dynamic(elf: Any, name: str, target: Target, exports: frozenset[str]) -> list[str]:
    wrong = []
    tags = list(elf.get_section_by_name(".dynamic").iter_tags())
    needed = [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"]
    sonames = [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"]
    if tuple(needed) != target.link.needed:
        wrong.append(f"it needs {needed}, not {list(target.link.needed)}")
    if sonames != [name]:
        wrong.append(f"soname {sonames}, not {name}")
    if elf.get_section_by_name(".gnu.version_r") is not None:
        wrong.append("it needs versions of symbols")
    symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
    return [*wrong, *_symbols(symbols, exports, _LIBC | _TVM)]


def _symbols(symbols: list[Any], exports: frozenset[str], imports: frozenset[str]) -> list[str]:
    """What is wrong with the symbols that others can see."""
    wrong = []
    undefined = {s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and s.name}
    defined = {s.name for s in symbols if s["st_shndx"] != "SHN_UNDEF"}
    if strange := undefined - imports:
        wrong.append(f"undefined symbols beyond libc: {', '.join(sorted(strange))}")
    if defined != exports:
        wrong.append(f"exports differ by {', '.join(sorted(defined ^ exports))}")
    return wrong
