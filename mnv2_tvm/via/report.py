"""What `mnv2_bench` printed on a device, checked before anything is made of it."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.device.failure import DeviceError, Kind
from mnv2_tvm.memory import Memory


@dataclass(frozen=True)
class Report:
    """The figures of one run of the program."""

    threads: int
    relative_error: float
    peak_gflop_per_s: float  # 0 where only layers were timed
    memory: Memory | None  # None where the device does not tell
    times_ms: list[float]  # of whole runs
    layers_us: np.ndarray  # [run, layer]; [0, layers] unless asked for

    @classmethod
    def read(cls, text: str, manifest: Manifest, name: str) -> "Report":
        """Raises DeviceError for what is no report of the manifest's network; `name` says whose."""
        try:
            table = json.loads(text[text.index("{") :])
            layers = table.get("layers", [])
            names = [layer["name"] for layer in manifest.layers]
            if layers and [layer["name"] for layer in layers] != names:
                raise ValueError("its layers are others")
            samples = np.array([_numbers(layer["samples_us"]) for layer in layers])
            peak, growth = (table[f"{key}_bytes"] for key in ("peak_rss", "rss_growth"))
            return cls(
                threads=int(table["threads"]),
                relative_error=_number(table["relative_error"]),
                peak_gflop_per_s=_number(table.get("peak_gflop_per_s", 0)),
                memory=Memory(int(peak), int(growth)) if peak > 0 else None,
                times_ms=_numbers(table["times_ms"]) if "times_ms" in table else [],
                layers_us=samples.T if layers else np.empty((0, len(names))),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            words = f"{name} printed no report of mnv2_bench: {type(error).__name__}: {error}"
            raise DeviceError(Kind.ERROR, words, name) from error


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"no list of numbers: {values!r}")
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise ValueError(f"no number: {value!r}")
    return float(value)
