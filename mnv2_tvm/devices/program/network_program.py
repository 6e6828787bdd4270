"""`mnv2_bench` on a device: uploaded once, tried once, then run with a deadline that fits it."""

from pathlib import Path

import numpy as np

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.program.device import Device
from mnv2_tvm.devices.program.report import Report, most_bytes
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.untrusted import MAX_BYTES

_WRONG_NUMBERS = 1  # exit code of the program
_SLACK = 10  # of the deadline over what a run took before
_PEAK_S = 10.0  # two samples of the FMA peak, on an emulator too


class NetworkProgram:
    """A program that `build_program` wrote, on `device`; its first run has checked the numbers.

    Raises DeviceError for wrong numbers, a crash, a lost device or one that is late.
    """

    def __init__(self, device: Device, program: Path, manifest: Manifest) -> None:
        self.device, self.manifest = device, manifest
        self._remote = device.upload(program)
        words, late_s = ["--runs", "1", "--warmup", "0"], patience_s(flops=4 * manifest.flops)
        first = self._run(words, late_s)
        self._check(1, len(first.times_ms))
        self._run_s = min(1e-3 * max(first.times_ms), late_s)

    def run(self, runs: int, warmup: int, per_layer: bool) -> Report:
        """Time so many runs, and with `per_layer` as many more of every layer."""
        words = ["--runs", str(runs), "--warmup", str(warmup)]
        count = warmup + (2 if per_layer else 1) * runs
        late_s = self._patience_s(count)
        layers = per_layer * len(self.manifest.layers)
        if (size := most_bytes(runs, layers)) > MAX_BYTES:
            most = runs * MAX_BYTES // size
            raise UserError(f"the report of {runs} runs is too long: give --runs {most} or fewer")
        report = self._run([*words, *["--per-layer"] * per_layer], late_s, runs, layers)
        self._check(runs, len(report.times_ms))
        self._check(per_layer * runs, len(report.layers_us))
        return report

    def profile(self, runs: int) -> np.ndarray:
        """Microseconds [run, layer], after one run that warms up."""
        words = ["--runs", str(runs), "--warmup", "1", "--only-layers"]
        late_s = self._patience_s(runs + 1)
        report = self._run(words, late_s, runs, len(self.manifest.layers))
        self._check(runs, len(report.layers_us))
        return report.layers_us

    def remove(self) -> None:
        """Make room on the device."""
        self.device.remove(self._remote)

    def _patience_s(self, runs: int) -> float:
        return patience_s() + _SLACK * runs * self._run_s

    def _run(self, words: list[str], seconds: float, runs: int = 1, layers: int = 0) -> Report:
        limit = most_bytes(runs, layers)
        done = self.device.run(self._remote, words, seconds + _PEAK_S, limit)
        if done.code:
            kind = Kind.WRONG_NUMBERS if done.code == _WRONG_NUMBERS else Kind.ERROR
            raise DeviceError(kind, f"{self.device.name} says: {done.words}", self.device.name)
        return Report.read(done.stdout, self.manifest, self.device.name)

    def _check(self, wanted: int, there: int) -> None:
        if there != wanted:
            words = f"{self.device.name} reports {there} runs, not {wanted}"
            raise DeviceError(Kind.ERROR, words, self.device.name)
