"""What a board tells about itself."""

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any


def board_info(emulated: bool) -> dict[str, Any]:
    """What this board is and how warm it runs now; None for what it does not tell.

    An emulated board sees the host's clock and temperature, so it tells neither.
    """
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    fields = cpuinfo_fields(text)
    cpu = cpu_name(fields) or _line("/proc/device-tree/model")
    features = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "apache-tvm": version("apache-tvm"),
        "apache-tvm-ffi": version("apache-tvm-ffi"),
        "python": platform.python_version(),
        "name": platform.node(),
        "machine": platform.machine(),
        "cpu": "qemu-user" if emulated else cpu or platform.machine(),
        "features": [] if emulated else features,
        "cores": len(os.sched_getaffinity(0)),
        **({"clock_mhz": None, "temperature_c": None} if emulated else warmth()),
        "emulated": emulated,
    }


def warmth() -> "dict[str, float | None]":
    """Clock and temperature of this machine now; None for what it does not tell."""
    return {
        "clock_mhz": _number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1e-3),
        "temperature_c": _number("/sys/class/thermal/thermal_zone0/temp", 1e-3),
    }


def cpu_name(fields: "dict[str, str]") -> str:
    """The CPU in `cpuinfo_fields`; empty where they name none."""
    name = fields.get("model name") or fields.get("Model") or ""
    if name and "cpu family" in fields:  # cloud machines hide the model's number in the name alone
        name += f" (family {fields['cpu family']} model {fields.get('model', '?')})"
    return name


def cpuinfo_fields(text: str) -> "dict[str, str]":
    """The lines `key : value` of /proc/cpuinfo, in one look at each; of a repeated key the last."""
    fields = {}
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            fields[key.strip()] = value.strip()
    return fields


def _line(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return ""


def _number(path: str, scale: float) -> "float | None":
    with suppress(ValueError):
        return int(_line(path)) * scale
    return None
