"""A built library on a board: the same calls as `mnv2_tvm.load` gives here."""

from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.deploy.loader import LIBRARY, load
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.device.session import Address, Session
from mnv2_tvm.errors import UserError


class RemoteNetwork:
    """The very `libmnv2.so` that `build` wrote, uploaded and run over TVM RPC."""

    def __init__(self, session: Session, folder: Path, threads: int | None = None) -> None:
        from tvm import runtime

        self.manifest = Manifest.read(folder)
        self.input_shape = tuple(self.manifest.input_shape)
        self.output_shape = tuple(self.manifest.output_shape)
        self.threads = self.manifest.threads if threads is None else threads
        self.session = session
        if session.info["machine"] != self.manifest.machine:
            raise UserError(
                f"{folder} was built for {self.manifest.target} ({self.manifest.machine}); the "
                f"board at {session.board} is {session.info['machine']}. Build for the board"
            )
        self._module: Any = session.load(folder / LIBRARY)
        self._module["mnv2_set_threads"](self.threads)

        def tensor(shape: tuple[int, ...], kind: str) -> Any:
            return runtime.empty(shape, kind, session.device)

        self._input = tensor(self.input_shape, "float32")
        self._output = tensor(self.output_shape, "float32")
        self._workspace = tensor((self.manifest.workspace_bytes,), "uint8")
        self._seconds = tensor((len(self.manifest.layers),), "float64")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits [n, classes] of exactly one batch of images [n, y, x, 3]."""
        self._input.copyfrom(images)
        self._module["mnv2_run"](self._input, self._output, self._workspace)
        logits: np.ndarray = self._output.numpy()
        return logits

    def profile(self, images: np.ndarray) -> dict[int, float]:
        """Run once and return the seconds of each layer by its number."""
        operands = (self._input, self._output, self._workspace, self._seconds)
        self._module["mnv2_profile"](*operands)
        return dict(enumerate(self._seconds.numpy().tolist()))

    def times_s(self, runs: int) -> list[float]:
        """Seconds of `runs` single runs, timed on the board itself."""
        evaluate = self._module.time_evaluator(
            "mnv2_run", self.session.device, number=1, repeat=runs
        )
        return list(evaluate(self._input, self._output, self._workspace).results)


def open_networks(folders: list[Path], address: Address | None) -> list[Any]:
    """The libraries loaded on this host, or all on one board of `address`."""
    if address is None:
        return [load(folder) for folder in folders]
    session = Session(address)
    return [RemoteNetwork(session, folder) for folder in folders]
