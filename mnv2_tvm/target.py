"""A target: the facts of one machine, read from `targets/NAME.toml`.

Schedules take tile sizes from these facts and never read the target's name.
"""

import tomllib
from dataclasses import dataclass, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import tvm
from msgspec import Meta

from mnv2_tvm.data import data_folder
from mnv2_tvm.dtype import Dtype
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import Host, core_name, this_host
from mnv2_tvm.host_target import HOST, choose
from mnv2_tvm.llvm_names import unknown_cpu, unknown_to_llvm
from mnv2_tvm.untrusted import convert, printable, read_bytes

_MAX_BYTES = 2**16  # of a file; the longest of ours has 2 kB

Count = Annotated[int, Meta(ge=1, le=2**40)]


class Codegen(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"mfloat_abi": "mfloat-abi", "vector_width": "vector-width"},
):
    """Options of TVM's LLVM target, in the file under its own names."""

    kind: Literal["llvm"]
    mtriple: str
    mcpu: str
    mattr: tuple[str, ...] = ()
    mfloat_abi: Literal["hard", "soft"] | None = None
    mabi: str | None = None
    vector_width: Count | None = None

    def options(self) -> dict[str, Any]:
        """Those that are given, as TVM takes them."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if value}


@dataclass(frozen=True)
class Dot:
    """The instruction that sums products of neighbouring values in a lane, by the arithmetic."""

    qs8: Literal["vpdpbusd", "vpmaddwd", "sdot"] | None = None  # None: no kernel of such layers


@dataclass(frozen=True)
class Vector:
    """The SIMD unit: bytes of a register, how many there are, and what a cycle can do with them."""

    bytes: Count
    registers: Count
    fma_latency: Count  # cycles
    fma_per_cycle: Count
    loads_per_cycle: Count
    memory_operands: bool  # whether an FMA can take an operand from memory
    # The largest of two values where one is NaN: the second of them (x86, and a comparison with a
    # move after it), NaN, or the other one, the number. The last for scalars alone.
    max_of_nan: Literal["second", "nan", "number"]
    dot: Dot = Dot()

    def lanes(self, dtype: Dtype) -> int:
        """Sums in a register."""
        return self.bytes // dtype.accumulator_bytes


@dataclass(frozen=True)
class Cache:
    """Sizes in bytes; L1 and L2 are those of one core."""

    l1_bytes: Count
    l2_bytes: Count


@dataclass(frozen=True)
class Policy:
    """What no rule over the facts above decides: how a fused block is to be done by default."""

    fuse: Literal["always", "if it fits L2"] = "if it fits L2"  # weights and scratch of a block
    passes: Count = 1  # over the image, where the expanded channels divide


@dataclass(frozen=True)
class HostNeeds:
    """What a machine must have to run a library of this target."""

    machine: str
    features: tuple[str, ...]
    cpus: tuple[str, ...] = ()  # LLVM's names of those that `host` takes it for; none: for any
    libc: Literal["glibc", "bionic"] | None = None  # None: whichever is there
    by_name_only: bool = False  # whether `host` and other groups leave it out


@dataclass(frozen=True)
class Link:
    """The link recipe: clang's triple and CPU, lld's options, and the ELF header to expect back."""

    triple: str
    program_triple: str  # of static programs, with musl; empty: no operating system to run one
    cpu: str  # as `zig cc -mcpu=` spells it, with underscores
    emulation: str
    lld_flags: tuple[str, ...]
    needed: tuple[str, ...]  # libraries that the loader must find; glibc's finds libc unasked
    elf_machine: str
    elf_flags: tuple[str, ...]  # names of pyelftools' E_FLAGS that must be set


@dataclass(frozen=True)
class Microcontroller:
    """A machine without threads, libc and files: its memory, and the board of QEMU like it."""

    flash_bytes: Count
    ram_bytes: Count
    qemu_machine: str
    qemu_cpu: str
    qemu_code: str  # places in the emulated board's memory, as a linker script writes them
    qemu_weights: str
    qemu_ram: str


@dataclass(frozen=True)
class Target:
    """One machine, validated. `name` is also its folder in `tuning_logs/`."""

    name: str
    description: str
    tvm: Codegen
    vector: Vector
    cache: Cache
    host: HostNeeds
    link: Link
    policy: Policy = Policy()
    microcontroller: Microcontroller | None = None

    @classmethod
    def load(cls, name: str) -> "Target":
        """The target `name`, or of a group such as `host` the one that suits this machine best.

        Raises UserError for an unknown name, broken TOML, a key that is missing, mistyped or
        unknown, and for a CPU that LLVM does not know: it would silently take another.
        """
        return cls.load_with_reason(name)[0]

    @classmethod
    def load_with_reason(cls, name: str) -> tuple["Target", str]:
        """The same, and a clause that says why a group's target was taken, else nothing."""
        table = _read(_file(name))
        if "best_of" not in table:
            return _from_table(name, table), ""
        targets, broken = _members(_file(name), table)
        try:
            target, why = choose(name, targets, this_host(), core_name())
        except UserError as error:
            raise UserError(f"{error}. {_remedy(name)}{_left_out(broken)}") from error
        return target, why + _left_out(broken)

    def missing_here(self) -> list[str]:
        """What this host lacks to run a library of the target; empty if nothing."""
        return self.missing_on(this_host())

    def missing_on(self, host: Host) -> list[str]:
        """What `host` lacks to run a library of the target; empty if nothing."""
        return host.missing(self.host.machine, self.host.features, self.host.libc)

    def require_here(self) -> None:
        """Raises UserError on a host that cannot run a library of the target."""
        if lacking := self.missing_here():
            raise UserError(
                f"this host cannot run {self.name}: it needs {', '.join(lacking)}. Take a device "
                "with --on, see docs/boards.md, or give another --target"
            )

    def codegen(self) -> Any:
        """TVM's own Target object."""
        return tvm.target.Target(self.tvm.options())

    @property
    def android(self) -> bool:
        """Whether its system is Android, whose C library and loader are its own."""
        return self.tvm.mtriple.rpartition("-")[2].startswith("android")


class _Group(msgspec.Struct, forbid_unknown_fields=True):
    """A file that is no machine of its own: the best for this host of those with such names."""

    best_of: Annotated[tuple[str, ...], Meta(min_length=1)]


def target_names() -> list[str]:
    """All names that `Target.load` knows, sorted."""
    return sorted(path.stem for path in data_folder("targets").glob("*.toml"))


def _file(name: str) -> Path:
    if name not in target_names():
        raise UserError(f"unknown target '{name}'; known targets: {', '.join(target_names())}")
    return data_folder("targets") / f"{name}.toml"


def _read(path: Path) -> dict[str, Any]:
    data = read_bytes(path, str(path), _MAX_BYTES).removeprefix(b"\xef\xbb\xbf")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise UserError(f"{path}: not valid TOML: nested too deeply") from error
    except ValueError as error:  # no UTF-8, no TOML, or a number of 5000 digits
        raise UserError(f"{path}: not valid TOML: {printable(error)}") from error


def _members(path: Path, table: dict[str, Any]) -> tuple[list[Target], list[str]]:
    """The targets of a group, and the names of files among them that are broken."""
    patterns = convert(table, _Group, str(path)).best_of
    targets, broken = list[Target](), list[str]()
    for name in target_names():
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        try:
            other = _read(_file(name))
            if "best_of" not in other:
                targets.append(_from_table(name, other))
        except UserError:
            broken.append(name)
    targets = [target for target in targets if not target.host.by_name_only]
    names = [*broken, *(target.name for target in targets)]
    if not all(any(fnmatchcase(name, pattern) for name in names) for pattern in patterns):
        raise UserError(f"{path}: key 'best_of' must name files of machines in targets/")
    return targets, broken


def _remedy(group: str) -> str:
    this = "add a file for this one, see 'Add a target' in docs/targets.md"
    if group != HOST:
        this = f"give --target {HOST} for this one"
    known = "python -m mnv2_tvm.doctor lists them"
    return f"Name the target of another machine with --target ({known}), or {this}"


def _left_out(broken: list[str]) -> str:
    if not broken:
        return ""
    return f"; {', '.join(broken)} left out, broken: see python -m mnv2_tvm.doctor"


def _from_table(name: str, table: dict[str, Any]) -> Target:
    path = _file(name)
    _check_known(path, "", table, Target)
    target: Target = convert(table | {"name": name}, Target, str(path))
    if target.vector.bytes & (target.vector.bytes - 1) or target.vector.bytes < 4:
        raise UserError(f"{path}: key 'vector.bytes' must be a power of two from 4 up")
    if wrong := unknown_to_llvm(target.tvm.mtriple, target.tvm.mcpu, target.tvm.mattr):
        raise UserError(f"{path}: key 'tvm.{wrong}")
    for cpu in target.host.cpus:
        if wrong := unknown_cpu(cpu, target.tvm.mtriple):
            raise UserError(f"{path}: key 'host.cpus': {wrong}")
    return target


def _check_known(path: Path, prefix: str, table: Any, kind: Any) -> None:
    """Raises UserError for a key that is none of the dataclass `kind`, or of one inside it."""
    if not isinstance(table, dict):
        return  # of a wrong type, which `convert` tells
    hints = get_type_hints(kind)
    for key, value in table.items():
        if key not in hints or (kind is Target and key == "name"):
            raise UserError(f"{path}: key '{printable(prefix + key)}' is not known here")
        for inner in (hints[key], *get_args(hints[key])):
            if is_dataclass(inner):
                _check_known(path, f"{prefix}{key}.", value, inner)
