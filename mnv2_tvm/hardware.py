"""What the verbs need of this machine beside programs: memory, disk, folders and a steady clock."""

import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mnv2_tvm.host import this_host

# Largest resident set of `build --width 1.4`, the largest published network: 605 MiB (x86-avx2, AMD
# EPYC family 25 model 1, 2026-11-27). Its library and what is linked into it stay below 100 MiB.
MEMORY_MIB = 650
DISK_MIB = 100

MEMORY = Path("/proc/meminfo")
CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Finding:
    """One fact about the machine; not `ok` where a verb needs something else."""

    name: str
    value: str
    ok: bool = True
    remedy: str | None = None  # a command: for what is missing, or only advised if `ok`


def hardware(tvm_works: bool) -> list[Finding]:
    """The findings of this machine."""
    host = this_host()
    # Where the system has no name for the CPU, LLVM is asked.
    name = host.cpu if tvm_works else host.model or host.machine
    cpu = Finding("CPU", f"{name}, {host.cores} cores")
    return [cpu, _memory(), _disk(), _home(), _governor()]


def _memory() -> Finding:
    kib = re.search(r"^MemAvailable:\s*(\d+) kB", MEMORY.read_text(), re.MULTILINE)
    if kib is None:
        return Finding("memory", f"{MEMORY} does not tell")
    mib = int(kib[1]) // 1024
    remedy = "ps -eo rss,pid,comm --sort=-rss | head"
    return _amount("memory", mib, MEMORY_MIB, "available", remedy)


def _disk() -> Finding:
    remedy = 'mkdir -p "$HOME/tmp" && export TMPDIR="$HOME/tmp"'
    try:
        folder = tempfile.gettempdir()
        mib = shutil.disk_usage(folder).free >> 20
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:  # the tuner loads libraries from there
            return Finding("temp folder", f"{folder} is mounted noexec", False, remedy)
        asked = os.environ.get("TMPDIR") or folder
        if Path(asked).resolve() != Path(folder).resolve():
            value = f"{folder}, as TMPDIR ({asked}) cannot be written"
            return Finding("temp folder", value, remedy=remedy)
    except OSError as error:  # none that can be written
        return Finding("temp folder", error.strerror or str(error), False, remedy)
    return _amount("temp folder", mib, DISK_MIB, f"free in {folder}", remedy)


def _home() -> Finding:
    """Where the C compiler keeps its cache; without one, programs take far longer to link."""
    remedy = 'export HOME="$(mktemp -d)"'
    if not (home := os.environ.get("HOME")):
        return Finding("home folder", "HOME is not set", remedy=remedy)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache")
    place = next(path for path in (cache, *cache.parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return Finding("home folder", f"{cache} cannot be written", remedy=remedy)
    return Finding("home folder", home)


def _amount(name: str, mib: int, needed_mib: int, where: str, remedy: str) -> Finding:
    if mib >= needed_mib:
        return Finding(name, f"{mib} MiB {where}")
    return Finding(name, f"{mib} MiB {where}; needs {needed_mib} MiB", False, remedy)


def _governor() -> Finding:
    """Not needed to work, but measurements scatter under any governor but `performance`."""
    governors = set()
    for path in CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        with suppress(OSError):  # a core that was switched off meanwhile
            governors.add(path.read_text().strip())
    if not governors:
        return Finding("governor", "none to be seen, as in most virtual machines")
    remedy = "sudo cpupower frequency-set -g performance"
    steady = governors == {"performance"}
    return Finding("governor", ", ".join(sorted(governors)), remedy=None if steady else remedy)
