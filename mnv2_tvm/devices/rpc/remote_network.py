"""A built library on a board: the same calls as `mnv2_tvm.load` gives here."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.deploy.loader import in_batches, whole_library
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.rpc.session import Session
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.memory import Memory
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.measure.peak import PeakProbe
from mnv2_tvm.numbers import Floats
from mnv2_tvm.target import Target
from mnv2_tvm.untrusted import printable

_LEAST_S = 1e-9  # for a whole run; a coarse clock may give no time to a small layer
_REST_S = 2.0  # on real hardware
_SLACK = 10  # the deadline of a run over what an earlier one took


class RemoteNetwork:
    """The very `libmnv2.so` that `build` wrote, uploaded and run over TVM RPC."""

    def __init__(self, session: Session, folder: Path, threads: int | None = None) -> None:
        from tvm import runtime

        self.manifest = Manifest.read(folder)
        self.input_shape = tuple(self.manifest.input_shape)
        self.output_shape = tuple(self.manifest.output_shape)
        self.threads = self.manifest.threads if threads is None else threads
        self.session, self.board, self.told = session, session.board, session.info
        self.rest_s = 0.0 if session.info["emulated"] else _REST_S
        self._check_board(folder)
        self._probe: PeakProbe | None = None
        self._module: Any = session.load(whole_library(folder, self.manifest))
        self._patience_s = patience_s(flops=self.manifest.flops) - patience_s()  # for one run

        def tensor(shape: tuple[int, ...], kind: str) -> Any:
            return runtime.empty(shape, kind, session.device)

        with session.within(patience_s(), f"preparing {self.threads} thread(s)"):
            self._module["mnv2_set_threads"](self.threads)
            self._input = tensor(self.input_shape, "float32")
            self._output = tensor(self.output_shape, "float32")
            self._workspace = tensor((self.manifest.workspace_bytes,), "uint8")
            self._seconds = tensor((len(self.manifest.layers),), "float64")

    def __call__(self, images: Floats) -> Floats:
        """Logits [m, classes] of images [m, y, x, 3]. Raises UserError for another shape."""
        return in_batches(self._run_batch, images, self.manifest)

    def _run_batch(self, images: Floats) -> Floats:
        self._upload(images)
        with self._deadline():
            self._module["mnv2_run"](self._input, self._output, self._workspace)
            logits: Floats = self._output.numpy()
            return logits

    def times_s(self, images: Floats, runs: int) -> list[float]:
        """Seconds of single runs, timed on the board itself."""
        self._upload(images)
        with self._deadline(runs):
            evaluate = self._module.time_evaluator(
                "mnv2_run", self.session.device, number=1, repeat=runs
            )
            seconds = list(evaluate(self._input, self._output, self._workspace).results)
        return self._possible(seconds, runs, _LEAST_S)

    def layers_s(self, images: Floats, runs: int) -> np.ndarray:
        """Seconds [run, layer] of as many runs, after one that warms up."""
        self._upload(images)
        operands = (self._input, self._output, self._workspace, self._seconds)
        rows = []
        for _ in range(runs + 1):
            with self._deadline():
                self._module["mnv2_profile"](*operands)
                rows.append(self._seconds.numpy().tolist())
            self._possible(rows[-1], len(self.manifest.layers), 0)
        return np.array(rows[1:])

    def peak_gflop_per_s(self) -> float:
        """The FMA peak of as many threads."""
        if self._probe is None:
            self._probe = PeakProbe(Target.load(self.manifest.target), self.session.load)
        with self.session.within(patience_s(), "measuring its FMA peak"):
            return self._probe.gflop_per_s(self.threads)

    def memory(self) -> Memory | None:
        """Not known: the server's process is not the program's."""
        return None

    def state(self) -> dict[str, Any]:
        """What the board tells of itself now."""
        return self.session.ask()

    def _upload(self, images: Floats) -> None:
        with self.session.within(patience_s(images.nbytes), "taking an input"):
            self._input.copyfrom(images)

    def _possible(self, seconds: list[float], count: int, least: float) -> list[float]:
        """The times themselves. Raises DeviceError where no clock could have measured them."""
        if len(seconds) != count or not all(least <= one < math.inf for one in seconds):
            board = self.session.board
            words = f"the board at {board} says that it took {printable(seconds, 80)} s; see to it"
            raise DeviceError(Kind.ERROR, words, board)
        return seconds

    @contextmanager
    def _deadline(self, runs: int = 1) -> Iterator[None]:
        """For so many runs: what no board needs, and less once it is known what this one does."""
        start = time.monotonic()
        seconds = patience_s() + runs * self._patience_s
        with self.session.within(seconds, "running the network"):
            yield
        took_s = (time.monotonic() - start) / runs
        self._patience_s = min(self._patience_s, _SLACK * took_s)

    def _check_board(self, folder: Path) -> None:
        """Raises UserError where the board told that it cannot run the library."""
        told, manifest = self.session.info, self.manifest
        built = f"{folder} was built for {manifest.target}"
        if told["machine"] not in (manifest.machine, None):
            raise UserError(
                f"{built} ({manifest.machine}); the board at {self.session.board} is "
                f"{told['machine']}. Build for the board"
            )
        lacking = [one for one in manifest.cpu_features if one not in told["features"]]
        if told["features"] and lacking:
            raise UserError(
                f"{built}; the board at {self.session.board} lacks {', '.join(lacking)}. Build for "
                "the board"
            )
