"""The FMA peak of this machine, measured: what a share of the peak is a share of.

A figure from a data sheet does not hold on a machine whose clock moves or whose cores are shared,
so the peak is measured in the same minute as what is compared with it.
"""

import ctypes
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from mnv2_tvm.deploy.link import compile_c, link_shared
from mnv2_tvm.target import Target

SOURCE = Path(__file__).resolve().parent / "deploy" / "peak.c"

_SAMPLE_S = 0.05  # long beside the start of a thread, short beside a neighbour's time slice
_SAMPLES = 5
_SPARE_REGISTERS = 4  # factor and addend, and two that the compiler may want
_FACTOR, _ADDEND = 0.999, 0.001  # towards 1: no overflow, no denormals


def chains(target: Target) -> int:
    """Independent accumulators of the loop: all registers but a few."""
    return target.vector.registers - _SPARE_REGISTERS


def compile_flags(target: Target) -> tuple[str, ...]:
    """What `peak.c` needs beside the flags that all C of a target has."""
    return (
        f"-mcpu={target.link.cpu}",
        f"-DVECTOR_BYTES={target.vector.bytes}",
        f"-DCHAINS={chains(target)}",
    )


class PeakProbe:
    """A compiled FMA loop for `target`, loaded into this process.

    The host must be able to run the target.
    """

    def __init__(self, target: Target) -> None:
        with tempfile.TemporaryDirectory(prefix="mnv2-peak-") as name:
            built, library = Path(name) / "peak.o", Path(name) / "libpeak.so"
            compile_c(SOURCE, target, built, *compile_flags(target))
            link_shared([built], target, library)
            self._run = ctypes.CDLL(str(library)).mnv2_fma_rounds
        self._run.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_long]
        self._run.restype = ctypes.c_float
        # Two for each fused multiply-add.
        self._flop_per_round = 2 * chains(target) * target.vector.lanes

    def run(self, factor: float, addend: float, rounds: int) -> float:
        """`rounds` of x = x * factor + addend, from 0, 1, 2 ... on, one start for each chain.

        Returns the sum of all lanes of all chains.
        """
        return float(self._run(factor, addend, rounds))

    def gflop_per_s(self, threads: int = 1, sample_s: float = _SAMPLE_S) -> float:
        """The best of several samples, with `threads` of them at work at once."""
        rounds = self._rounds(sample_s)
        with ThreadPoolExecutor(threads) as pool:
            return max(self._sample(pool, threads, rounds) for _ in range(_SAMPLES))

    def _rounds(self, seconds: float) -> int:
        """Rounds that take about `seconds`, found by doubling until they can be timed."""
        rounds, elapsed = 1000, 0.0
        while elapsed < seconds / 4:
            rounds *= 2
            start = perf_counter()
            self.run(_FACTOR, _ADDEND, rounds)
            elapsed = perf_counter() - start
        return max(1, round(rounds * seconds / elapsed))

    def _sample(self, pool: ThreadPoolExecutor, threads: int, rounds: int) -> float:
        """GFLOP/s from the start of the first thread to the end of the last."""
        together = threading.Barrier(threads)

        def work(_: int) -> tuple[float, float]:
            together.wait()
            start = perf_counter()
            self.run(_FACTOR, _ADDEND, rounds)  # ctypes gives up the interpreter's lock
            return start, perf_counter()

        starts, ends = zip(*pool.map(work, range(threads)), strict=True)
        elapsed: float = max(ends) - min(starts)
        return threads * rounds * self._flop_per_round / elapsed / 1e9
