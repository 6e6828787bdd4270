"""What `mnv2_load` printed on a device, checked before anything is made of it."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.memory import Memory
from mnv2_tvm.numbers import Floats
from mnv2_tvm.untrusted import decode_json

_START = '{"program": '  # a login shell may say something before
_BYTES_PER_NUMBER = 16  # with comma and space; of an output 8

_Ms = Annotated[float, Meta(gt=0, le=1e7)]
_Us = Annotated[float, Meta(ge=0, le=1e10)]  # 0 where the clock's steps are coarse
_Bytes = Annotated[float, Meta(ge=-1024, le=2**53)]  # below 0: the device does not tell


class Report(msgspec.Struct):
    """The figures of one run of the program; empty or None for what was not asked for."""

    threads: Annotated[int, Meta(ge=1, le=64)]
    peak_rss_bytes: _Bytes
    rss_growth_bytes: _Bytes
    output: Annotated[str, Meta(pattern="^([0-9a-f]{8})*$")] = ""  # bits of float32
    times_ms: list[_Ms] = []
    layers_us: list[_Us] = []  # of one run after another
    peak_gflop_per_s: Annotated[float, Meta(gt=0, le=1e7)] | None = None

    @classmethod
    def read(cls, text: str, name: str, outputs: int, runs: int, layer_runs: int) -> "Report":
        """With exactly so many outputs, runs and runs of a layer; `name` says whose it is.

        Raises DeviceError for anything else.
        """
        source = f"{name} printed no report of mnv2_load"
        try:
            report = decode_json(text[max(0, text.rfind(_START)) :], cls, source)
        except UserError as error:
            raise DeviceError(Kind.ERROR, str(error), name) from error
        counts = {
            "outputs": (len(report.output) // 8, outputs),
            "runs": (len(report.times_ms), runs),
            "times of layers": (len(report.layers_us), layer_runs),
        }
        for what, (there, wanted) in counts.items():
            if there != wanted:
                words = f"{name} reports {there} {what}, not {wanted}"
                raise DeviceError(Kind.ERROR, words, name)
        return report

    def values(self) -> Floats:
        """The output."""
        return np.frombuffer(bytes.fromhex(self.output), ">f4").astype(np.float32)

    def memory(self) -> Memory | None:
        """None where the device does not tell."""
        peak, growth = round(self.peak_rss_bytes), round(self.rss_growth_bytes)
        return Memory(peak, growth) if peak > 0 else None


def most_bytes(numbers: int) -> int:
    """How long a report with so many numbers can be."""
    return 2**20 + numbers * _BYTES_PER_NUMBER
