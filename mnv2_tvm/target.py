"""A target: the facts of one machine, read from `targets/NAME.toml`.

Schedules take tile sizes from these facts and never read the target's name.
"""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tvm

from mnv2_tvm.data import data_folder
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host

T = TypeVar("T")


@dataclass(frozen=True)
class Vector:
    """The SIMD unit: bytes of a register, how many there are, and what a cycle can do with them."""

    bytes: int
    registers: int
    fma_latency: int  # cycles
    fma_per_cycle: int
    loads_per_cycle: int
    memory_operands: bool  # whether an FMA can take an operand from memory
    # The largest of two values where one is NaN: the second of them (x86, and a comparison with a
    # move after it), NaN, or the other one, the number. The last for scalars alone.
    max_of_nan: Literal["second", "nan", "number"]

    @property
    def lanes(self) -> int:
        """float32 values in a register."""
        return self.bytes // 4


@dataclass(frozen=True)
class Cache:
    """Sizes in bytes; L1 and L2 are those of one core."""

    l1_bytes: int
    l2_bytes: int


@dataclass(frozen=True)
class HostNeeds:
    """What a machine must have to run a library of this target."""

    machine: str
    features: tuple[str, ...]


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

    flash_bytes: int
    ram_bytes: int
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
    tvm: MappingProxyType[str, Any]
    vector: Vector
    cache: Cache
    host: HostNeeds
    link: Link
    microcontroller: Microcontroller | None = None

    @classmethod
    def load(cls, name: str) -> "Target":
        """The target `name`, or for an alias such as `x86` the best one that this host can run.

        Raises UserError for an unknown name, broken TOML, or a missing or mistyped key.
        """
        table = _read(_file(name))
        if "best_of" not in table:
            return _from_table(name, table)
        candidates = _candidates(_file(name), table)
        targets = [_from_table(candidate, _read(_file(candidate))) for candidate in candidates]
        for target in targets:
            if not target.missing_here():
                return target
        needs = "; ".join(f"{t.name} needs {', '.join(t.missing_here())}" for t in targets)
        raise UserError(
            f"this host can run none of the targets of '{name}': {needs}. "
            f"Name the target you build for, e.g. --target {candidates[-1]}"
        )

    def missing_here(self) -> list[str]:
        """What this host lacks to run a library of the target; empty if nothing."""
        return this_host().missing(self.host.machine, self.host.features)

    def codegen(self) -> Any:
        """TVM's own Target object."""
        return tvm.target.Target(dict(self.tvm))


def target_names() -> list[str]:
    """All names that `Target.load` knows, sorted."""
    return sorted(path.stem for path in data_folder("targets").glob("*.toml"))


def _file(name: str) -> Path:
    if name not in target_names():
        raise UserError(f"unknown target '{name}'; known targets: {', '.join(target_names())}")
    return data_folder("targets") / f"{name}.toml"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error


def _candidates(path: Path, table: dict[str, Any]) -> tuple[str, ...]:
    """The targets of an alias: at least one, all of them files of machines."""
    _check_keys(path, "", table, {"best_of"})
    names = _names(path, "best_of", table["best_of"])
    machines = [name for name in target_names() if "best_of" not in _read(_file(name))]
    if not names or not set(names) <= set(machines):
        raise UserError(f"{path}: key 'best_of' must name some of {', '.join(machines)}")
    return names


def _from_table(name: str, table: dict[str, Any]) -> Target:
    path = _file(name)
    optional = {"microcontroller"} - table.keys()
    _check_keys(path, "", table, {field.name for field in fields(Target)} - {"name"} - optional)
    _check_type(path, "description", table["description"], str)
    _check_type(path, "tvm", table["tvm"], dict)
    vector = _section(path, "vector", table, Vector)
    if vector.bytes & (vector.bytes - 1) or vector.bytes < 4:
        raise UserError(f"{path}: key 'vector.bytes' must be a power of two from 4 up")
    return Target(
        name=name,
        description=table["description"],
        tvm=MappingProxyType(table["tvm"]),
        vector=vector,
        cache=_section(path, "cache", table, Cache),
        host=_section(path, "host", table, HostNeeds),
        link=_section(path, "link", table, Link),
        microcontroller=None
        if optional
        else _section(path, "microcontroller", table, Microcontroller),
    )


def _section(path: Path, key: str, table: dict[str, Any], kind: type[T]) -> T:
    """One table of the file as the dataclass `kind`, every key present and of its type."""
    section = table[key]
    _check_type(path, key, section, dict)
    types = get_type_hints(kind)
    _check_keys(path, f"{key}.", section, set(types))
    return kind(
        **{name: _value(path, f"{key}.{name}", section[name], types[name]) for name in types}
    )


def _value(path: Path, key: str, value: Any, kind: type) -> Any:
    """A value of the file as a bool, an int above 0, a str, one of a few, or a tuple of str."""
    if get_origin(kind) is Literal:
        if value not in (choices := get_args(kind)):
            raise UserError(f"{path}: key '{key}' must be one of {choices}, not {value!r}")
        return value
    if kind is bool:
        _check_type(path, key, value, bool)
        return value
    if kind is int:
        if type(value) is not int or value < 1:
            raise UserError(f"{path}: key '{key}' must be a positive integer, not {value!r}")
        return value
    if kind is str:
        _check_type(path, key, value, str)
        return value
    return _names(path, key, value)


def _names(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{path}: key '{key}' must be a list of strings, not {value!r}")
    return tuple(value)


def _check_keys(path: Path, prefix: str, table: dict[str, Any], expected: set[str]) -> None:
    for key in sorted(expected - table.keys()):
        raise UserError(f"{path}: key '{prefix}{key}' is missing")
    for key in sorted(table.keys() - expected):
        raise UserError(f"{path}: key '{prefix}{key}' is not known here")


def _check_type(path: Path, key: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise UserError(f"{path}: key '{key}' must be a {kind.__name__}, not {value!r}")
