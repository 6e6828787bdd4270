"""What this machine is: architecture, CPU features and a name for provenance."""

import os
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Host:
    """The machine that runs this process, as Linux describes it."""

    machine: str  # `uname -m`, but of this process: armv7l for a 32-bit one on a 64-bit ARM
    cpu: str  # model name
    cores: int  # that this process may use
    features: frozenset[str]  # flags of /proc/cpuinfo

    def missing(self, machine: str, features: tuple[str, ...]) -> list[str]:
        """What `machine` with `features` needs and this host lacks; empty if it can run."""
        if machine != self.machine:
            return [f"a CPU of kind {machine} (this is {self.machine})"]
        return [feature for feature in features if feature not in self.features]


@cache
def this_host() -> Host:
    """Read /proc/cpuinfo once."""
    text = Path("/proc/cpuinfo").read_text()
    fields = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*)$", text, re.MULTILINE))
    cpu = fields.get("model name") or fields.get("Model") or platform.machine()
    if "cpu family" in fields:  # cloud machines hide the model's number in the name alone
        cpu += f" (family {fields['cpu family']} model {fields['model']})"
    flags = fields.get("flags") or fields.get("Features") or ""
    cores = len(os.sched_getaffinity(0))
    machine, features = as_process(platform.machine(), set(flags.split()), sys.maxsize)
    return Host(machine, cpu, cores, frozenset(features))


def thread_note(threads: int) -> str:
    """What a user who asks for more threads than there are CPUs must know; empty for others."""
    cpus = len(os.sched_getaffinity(0))
    if threads <= cpus:
        return ""
    return (
        f"{threads} threads were asked for; runs take {cpus}, as this process may use "
        f"{cpus} CPU{'s' if cpus > 1 else ''}"
    )


def as_process(machine: str, features: set[str], word: int) -> tuple[str, set[str]]:
    """What a process of this word size has: a 32-bit Raspberry Pi OS runs on a 64-bit kernel."""
    if machine == "aarch64" and word < 2**32:
        return "armv7l", features | {"neon", "vfpv4"}
    return machine, features
