"""What a device tells of itself, read with a few commands that every Linux and Android has."""

import re
from typing import Any

from mnv2_tvm.devices.board.info import cpu_name, cpuinfo_fields
from mnv2_tvm.host import as_process, cpuinfo_features
from mnv2_tvm.target import HostNeeds
from mnv2_tvm.untrusted import printable

_FILES = {
    "cpuinfo": "/proc/cpuinfo",
    "model": "/proc/device-tree/model",
    "clock": "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
    "temperature": "/sys/class/thermal/thermal_zone0/temp",
}
_COMMANDS = {
    "machine": "uname -m",
    "cores": "nproc",
    "product": "getprop ro.product.model",
} | {name: f"cat {path}" for name, path in _FILES.items()}
SCRIPT = "\n".join(f"echo '=== {n}'; {c} 2>/dev/null; echo" for n, c in _COMMANDS.items())
_CORES, _MHZ, _DEGREES = (1, 4096), (1, 20_000), (-100, 300)  # what is possible
_FEATURE = re.compile(r"[\w.-]{1,32}", re.ASCII)
_WORD_32 = 2**31  # as sys.maxsize of a 32-bit process


def read_told(text: str, needs: HostNeeds) -> dict[str, Any]:
    """What `SCRIPT` printed, with the keys that a board over RPC tells; None for what is missing.

    Whatever a device prints there, the texts are safe to print and the numbers are possible ones.
    A device that runs programs of `needs` beside its own, as a 64-bit Raspberry Pi OS does with
    32-bit ones, counts as what they need.
    """
    parts = re.split(r"^=== (\w{1,20})$", text, flags=re.MULTILINE)
    told = {
        name: value.strip("\0\n ") for name, value in zip(parts[1::2], parts[2::2], strict=True)
    }
    fields = cpuinfo_fields(told.get("cpuinfo", ""))
    machine = printable(told.get("machine", ""))
    features = set(filter(_FEATURE.fullmatch, cpuinfo_features(fields)))
    if needs.machine == "armv7l":
        machine = {"armv8l": "armv7l"}.get(machine, machine)
        as_32 = as_process(machine, features, _WORD_32)
        machine, features = as_32 if features else (as_32[0], features)
    names = (told.get("product"), cpu_name(fields), fields.get("Hardware"), told.get("model"))
    cpu = next(filter(None, names), machine)
    cores = _number(told.get("cores", ""), 1, _CORES)
    return {
        "machine": machine,
        "cpu": printable(cpu),
        "cores": cores and round(cores),
        "features": sorted(features),
        "clock_mhz": _number(told.get("clock", ""), 1e-3, _MHZ),
        "temperature_c": _number(told.get("temperature", ""), 1e-3, _DEGREES),
    }


def _number(text: str, scale: float, possible: tuple[float, float]) -> float | None:
    """The number in a file of /sys, or None where it is none or no possible one."""
    if not re.fullmatch(r"-?[0-9]{1,12}", text):
        return None
    least, most = possible
    return value if least <= (value := int(text) * scale) <= most else None
