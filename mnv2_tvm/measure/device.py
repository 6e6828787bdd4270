"""What every machine that measures can do, whichever way leads to it."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.failures import Failure
from mnv2_tvm.numbers import Floats

if TYPE_CHECKING:  # at run time they would load TVM, which running a library does not need
    from mnv2_tvm.kernels import Schedule
    from mnv2_tvm.layer import Layer
    from mnv2_tvm.measure.candidate import Timing
    from mnv2_tvm.measure.memory import Memory
    from mnv2_tvm.records.machine import Machine
    from mnv2_tvm.target import Target

Job = tuple["Layer", "Schedule", Path]  # a candidate, and what `Device.builder` wrote of it
Candidates = Generator[tuple[Job, "Timing | Failure"], None, None]
Builder = Callable[["Layer", "Schedule", "Target", Path], Path]


class Network(Protocol):
    """A built library on a device. All of it raises DeviceError where the device fails."""

    manifest: Manifest
    input_shape: tuple[int, ...]  # [n, y, x, 3]
    output_shape: tuple[int, ...]  # [n, classes]
    board: str  # where it runs, of several that there may be, as in `Failure.board`; or empty
    rest_s: float  # between the rounds of a measurement, to cool down
    told: dict[str, Any]  # of the machine when it was opened: cpu, machine, cores, emulated, ...

    @property
    def threads(self) -> int:
        """Threads of a run."""

    def __call__(self, images: Floats) -> Floats:
        """Logits [m, classes] of images [m, y, x, 3], for any m."""

    def times_s(self, images: Floats, runs: int) -> list[float]:
        """Seconds of single runs on `images` of exactly the input's shape."""

    def layers_s(self, images: Floats, runs: int) -> np.ndarray:
        """Seconds [run, layer] of as many runs, after one that warms up."""

    def peak_gflop_per_s(self) -> float:
        """The FMA peak of the machine with as many threads, measured now."""

    def memory(self) -> "Memory | None":
        """What a process that runs the library takes; None where it cannot be told."""

    def state(self) -> dict[str, Any]:
        """What the machine tells of itself now, with the keys of `told`."""


class Device(Protocol):
    """This machine, boards over TVM RPC, or one that runs static programs; open for a block."""

    name: str  # as a user gives it

    @property
    def builder(self) -> Builder:
        """A worker's job: writes what `candidates` takes."""

    def machine(self) -> "Machine":
        """What its times are times of."""

    def cores(self) -> int | None:
        """CPUs that a run may use; None where it does not tell."""

    def open(self, folder: Path, threads: int | None = None) -> AbstractContextManager[Network]:
        """The library that `build` wrote to `folder`, ready to run, until the block ends."""

    def candidates(self, jobs: list[Job], left_s: float) -> Candidates:
        """Check and time candidates of one layer, not after `left_s`.

        Raises UserError where nothing there can measure any more.
        """

    def profiles(self, folders: list[Path], seed: int, seconds: float) -> list[np.ndarray]:
        """Seconds [run, layer] of each library, run in turn for about `seconds`.

        Raises UserError for wrong numbers, and where the libraries cannot be run.
        """
