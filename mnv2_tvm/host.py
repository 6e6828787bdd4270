"""What this machine is: architecture, CPU features and a name for provenance."""

import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from mnv2_tvm.devices.board.info import cpu_name, cpuinfo_fields

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Host:
    """The machine that runs this process, as Linux describes it."""

    machine: str  # `uname -m`, but of this process: armv7l for a 32-bit one on a 64-bit ARM
    model: str  # name in /proc/cpuinfo; empty on ARM servers, which have none there
    cores: int  # that this process may use
    features: frozenset[str]  # flags of /proc/cpuinfo
    libc: str  # glibc, bionic or another one

    @cached_property
    def cpu(self) -> str:
        """A name for provenance; where /proc/cpuinfo has none, LLVM's."""
        if self.model:
            return self.model
        return self.machine if core_name() == "generic" else core_name()

    def missing(
        self, machine: str, features: tuple[str, ...], libc: str | None = None
    ) -> list[str]:
        """What a library for these needs and this host lacks; empty if it can run."""
        if machine != self.machine:
            return [f"a CPU of kind {machine} (this is {self.machine})"]
        system = (
            [f"the C library {libc} (here is {self.libc})"] if libc not in (None, self.libc) else []
        )
        return system + [feature for feature in features if feature not in self.features]


@cache
def this_host() -> Host:
    """Read /proc/cpuinfo once."""
    text = ""
    with suppress(OSError):  # a container may hide it
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    fields = cpuinfo_fields(text)
    cpu = cpu_name(fields)
    cores = len(os.sched_getaffinity(0))
    machine, features = as_process(platform.machine(), cpuinfo_features(fields), sys.maxsize)
    return Host(machine, cpu, cores, frozenset(features), _libc())


@cache
def core_name() -> str:
    """LLVM's name of this CPU, of the big cores where they differ; `generic` if it knows none."""
    import tvm  # not above: `doctor` looks at hosts whose TVM is broken

    return str(tvm.get_global_func("target.llvm_get_system_cpu")())


def _libc() -> str:
    if hasattr(sys, "getandroidapilevel"):
        return "bionic"
    with suppress(OSError, ValueError):  # a name that only glibc knows
        if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return "glibc"
    return "another one"


def cpuinfo_features(fields: dict[str, str]) -> set[str]:
    """The CPU features among `cpuinfo_fields`, on x86 and on ARM."""
    return set((fields.get("flags") or fields.get("Features") or "").split())


def as_process(machine: str, features: set[str], word: int) -> tuple[str, set[str]]:
    """What a process of this word size has: a 32-bit Raspberry Pi OS runs on a 64-bit kernel."""
    if machine == "aarch64" and word < 2**32:
        return "armv7l", features | {"neon", "vfpv4"}
    return machine, features


def crowd_warning(threads: int, cpus: int | None) -> list[str]:
    """The warning about threads that have to share CPUs, if they do."""
    if cpus is None or threads <= cpus:
        return []
    return [
        f"{threads} threads are more than the {cpus} CPU(s) there for them: give --threads {cpus}"
    ]
