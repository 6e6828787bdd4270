"""What this machine is: architecture, CPU features and a name for provenance."""

import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Host:
    """The machine that runs this process, as Linux describes it."""

    machine: str  # `uname -m`
    cpu: str  # model name
    cores: int  # that this process may use
    features: frozenset[str]  # flags of /proc/cpuinfo

    def missing(self, machine: str, features: tuple[str, ...]) -> list[str]:
        """What `machine` with `features` needs and this host lacks; empty if it can run."""
        if machine != self.machine:
            return [f"a {machine} CPU (this is {self.machine})"]
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
    return Host(platform.machine(), cpu, cores, frozenset(flags.split()))
