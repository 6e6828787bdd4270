"""A built library on a device that has nothing installed: `mnv2_load` runs it there."""

import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.deploy.arrays import in_batches
from mnv2_tvm.deploy.loader import whole_library
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.program.remote import Remote
from mnv2_tvm.devices.program.report import Report, most_bytes
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.memory import Memory
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.numbers import Floats
from mnv2_tvm.untrusted import MAX_BYTES

_numbers = count()  # all libraries of a search go into one folder of the device
_SLACK = 10  # of the deadline over what a run took before
_PEAK_S = 10.0  # two samples of the FMA peak, on an emulator too


class ProgramNetwork:
    """The very `libmnv2.so` that `build` wrote, beside the program `load` that was uploaded.

    Raises DeviceError for a library of another target, a crash, a lost device or one that is late.
    """

    rest_s = 0.0

    def __init__(self, remote: Remote, load: str, folder: Path, threads: int | None = None) -> None:
        self.manifest = Manifest.read(folder)
        if self.manifest.target != remote.target.name:
            raise UserError(
                f"{folder} was built for {self.manifest.target}; {remote.name} was given as "
                f"{remote.target.name}"
            )
        self.input_shape = tuple(self.manifest.input_shape)
        self.output_shape = tuple(self.manifest.output_shape)
        self.threads = self.manifest.threads if threads is None else threads
        self.board, self.told = remote.name, remote.info
        self._remote, self._load = remote, load
        library = whole_library(folder, self.manifest)
        self._library = remote.upload(library, f"{next(_numbers)}-{library.name}")
        self._sent: Floats | None = None
        self._input = ""
        self._memory: Memory | None = None
        self._run_s = patience_s(flops=self.manifest.flops) - patience_s()  # for one run

    def __call__(self, images: Floats) -> Floats:
        """Logits [m, classes] of images [m, y, x, 3]. Raises UserError for another shape."""
        return in_batches(self._run_batch, images, self.manifest)

    def _run_batch(self, images: Floats) -> Floats:
        size = int(np.prod(self.output_shape))
        report = self._run(images, ["--output"], runs=1, outputs=size)
        self._memory = report.memory()
        return report.values().reshape(self.output_shape)

    def times_s(self, images: Floats, runs: int) -> list[float]:
        """Seconds of single runs, of which one more warms up the process."""
        words = ["--runs", str(runs), "--warmup", "1"]
        report = self._run(images, words, runs=runs + 1, times=runs)
        self._run_s = min(self._run_s, _SLACK * 1e-3 * max(report.times_ms))
        return [1e-3 * ms for ms in report.times_ms]

    def layers_s(self, images: Floats, runs: int) -> np.ndarray:
        """Seconds [run, layer] of as many runs, after one that warms up."""
        layers = len(self.manifest.layers)
        words = ["--runs", str(runs), "--warmup", "1", "--layers"]
        report = self._run(images, words, runs=runs + 1, layer_times=runs * layers)
        return 1e-6 * np.array(report.layers_us).reshape(runs, layers)

    def peak_gflop_per_s(self) -> float:
        """The FMA peak of as many threads."""
        zeros = np.zeros(self.input_shape, np.float32) if self._sent is None else self._sent
        peak = self._run(zeros, ["--peak"]).peak_gflop_per_s
        if peak is None:
            raise DeviceError(Kind.ERROR, f"{self.board} reports no FMA peak", self.board)
        return peak

    def memory(self) -> Memory | None:
        """Of the program with the library; None before a run, and where an emulator is meant."""
        return None if self.told["emulated"] else self._memory

    def state(self) -> dict[str, Any]:
        """What the device tells of itself now."""
        return self._remote.ask()

    def remove(self) -> None:
        """Make room on the device."""
        for path in filter(None, (self._library, self._input)):
            self._remote.remove(path)

    def _run(
        self,
        images: Floats,
        words: list[str],
        *,
        runs: int = 0,
        outputs: int = 0,
        times: int = 0,
        layer_times: int = 0,
    ) -> Report:
        if (limit := most_bytes(outputs + times + layer_times)) > MAX_BYTES:
            most = runs * MAX_BYTES // limit - 1
            raise UserError(f"the report of {runs} runs is too long: give --runs {most} or fewer")
        self._send(images)
        command = [self._library, self._input, "--threads", str(self.threads), *words]
        late_s = patience_s() + runs * self._run_s + _PEAK_S
        done = self._remote.run(self._load, command, late_s, limit)
        if done.code:
            words_told = f"{self._remote.name} says: {done.words}"
            raise DeviceError(Kind.ERROR, words_told, self._remote.name)
        return Report.read(done.stdout, self.board, outputs, times, layer_times)

    def _send(self, images: Floats) -> None:
        """Upload the input, unless it is there already."""
        if self._sent is not None and np.array_equal(self._sent, images):
            return
        with tempfile.NamedTemporaryFile() as file:
            images.astype("<f4").tofile(file)
            file.flush()
            name = Path(self._library).name
            self._input = self._remote.upload(Path(file.name), f"{name}.input")
        self._sent = images.copy()
