"""The FMA peak of a machine, measured: what a share of the peak is a share of.

A figure from a data sheet does not hold on a machine whose clock moves or whose cores are shared,
so the peak is measured in the same minute as what is compared with it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvm import runtime

from mnv2_tvm.deploy.peak_loop import flop_per_round, write_probe
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import check_loadable, scratch_folder
from mnv2_tvm.target import Target

_SAMPLE_S = 0.05  # long beside the start of a thread, short beside a neighbour's time slice
_SAMPLES = 5
_MOST_ROUNDS = 2**28  # a second or more on any machine: a clock that sees less stands still
_FACTOR, _ADDEND = 0.999, 0.001  # towards 1: no overflow, no denormals


def above_peak(gflop_per_s: float, peak_gflop_per_s: float) -> list[str]:
    """The warning about a rate that cannot be, if it is one."""
    if gflop_per_s <= peak_gflop_per_s:
        return []
    rate = f"{gflop_per_s:.1f} GFLOP/s is above the FMA peak, {peak_gflop_per_s:.1f} measured"
    return [f"{rate}: the clock or the measurement is wrong"]


def _load_here(path: Path) -> Any:
    check_loadable(path)
    return runtime.load_module(str(path))


class PeakProbe:
    """A compiled FMA loop for `target`, loaded into this process, or where `load` puts it.

    That machine must be able to run the target.
    """

    def __init__(self, target: Target, load: Callable[[Path], Any] = _load_here) -> None:
        with scratch_folder() as name:
            library = Path(name) / "libpeak.so"
            write_probe(target, library)
            self._seconds = load(library)["mnv2_fma_seconds"]
        self._flop_per_round = flop_per_round(target)

    def gflop_per_s(self, threads: int = 1, sample_s: float = _SAMPLE_S) -> float:
        """The best of several samples, with `threads` of them at work at once.

        Raises UserError where so many threads cannot be had, or the clock is wrong.
        """
        rounds = self._rounds(sample_s)
        seconds = min(self._sample(rounds, threads) for _ in range(_SAMPLES))
        if not seconds:
            raise UserError("the FMA peak cannot be measured: the clock there stands still")
        return threads * rounds * self._flop_per_round / seconds / 1e9

    def _rounds(self, seconds: float) -> int:
        """Rounds that take about `seconds`, found by doubling until they can be timed."""
        rounds, elapsed = 1000, 0.0
        while elapsed < seconds / 4:
            if rounds > _MOST_ROUNDS:
                raise UserError("the FMA peak cannot be measured: the clock there stands still")
            rounds *= 2
            elapsed = self._sample(rounds, 1)
        return max(1, round(rounds * seconds / elapsed))

    def _sample(self, rounds: int, threads: int) -> float:
        """Seconds from the start of the first thread to the end of the last."""
        seconds = float(self._seconds(_FACTOR, _ADDEND, rounds, threads))
        if seconds < 0:
            raise UserError(f"the FMA peak of {threads} threads cannot be measured: give 1 to 64")
        if not math.isfinite(seconds):
            raise UserError(f"the FMA peak cannot be measured: a sample took {seconds} s")
        return seconds
