"""What `mnv2_bench` printed on a device, checked before anything is made of it."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.memory import Memory
from mnv2_tvm.numbers import TOLERANCE
from mnv2_tvm.untrusted import decode_json

_START = '{"program": '  # a login shell may say something before
_BYTES_PER_NUMBER = 16  # with comma and space

_Ms = Annotated[float, Meta(gt=0, le=1e7)]
_Us = Annotated[float, Meta(ge=0, le=1e10)]  # 0 where the clock's steps are coarse
_Bytes = Annotated[float, Meta(ge=-1024, le=2**53)]  # below 0: the device does not tell


class _Layer(msgspec.Struct):
    name: str
    samples_us: Annotated[list[_Us], Meta(min_length=1)]


class _Table(msgspec.Struct):
    threads: Annotated[int, Meta(ge=1, le=64)]
    relative_error: Annotated[float, Meta(ge=0, le=TOLERANCE)]  # it ends itself above that
    peak_rss_bytes: _Bytes
    rss_growth_bytes: _Bytes
    peak_gflop_per_s: Annotated[float, Meta(gt=0, le=1e7)] | None = None
    times_ms: list[_Ms] = []
    layers: list[_Layer] = []


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
        source = f"{name} printed no report of mnv2_bench"
        try:
            table = decode_json(text[max(0, text.rfind(_START)) :], _Table, source)
        except UserError as error:
            raise DeviceError(Kind.ERROR, str(error), name) from error
        names = [layer["name"] for layer in manifest.layers]
        runs = {len(layer.samples_us) for layer in table.layers}
        if (table.layers and [layer.name for layer in table.layers] != names) or len(runs) > 1:
            raise DeviceError(Kind.ERROR, f"{source}: its layers are others", name)
        if table.times_ms and not table.peak_gflop_per_s:
            raise DeviceError(Kind.ERROR, f"{source}: it has times and no peak", name)
        samples = np.array([layer.samples_us for layer in table.layers])
        peak, growth = round(table.peak_rss_bytes), round(table.rss_growth_bytes)
        return cls(
            threads=table.threads,
            relative_error=table.relative_error,
            peak_gflop_per_s=table.peak_gflop_per_s or 0,
            memory=Memory(peak, growth) if peak > 0 else None,
            times_ms=table.times_ms,
            layers_us=samples.T if table.layers else np.empty((0, len(names))),
        )


def most_bytes(runs: int, layers: int) -> int:
    """How long the report of so many runs, and of as many of each layer, can be."""
    return 2**20 + runs * (1 + layers) * _BYTES_PER_NUMBER
