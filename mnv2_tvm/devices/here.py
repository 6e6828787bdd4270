"""This machine as a device: candidates and whole networks in worker processes, one at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2_tvm.deploy import loader
from mnv2_tvm.devices.board.info import warmth
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Failure
from mnv2_tvm.files import check_loadable, scratch_folder
from mnv2_tvm.host import this_host
from mnv2_tvm.measure.device import Builder, Candidates, Job
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.numbers import Floats

if TYPE_CHECKING:  # TVM comes with these, and `run` does without
    from mnv2_tvm.measure.memory import Memory
    from mnv2_tvm.measure.peak import PeakProbe
    from mnv2_tvm.records.machine import Machine
    from mnv2_tvm.target import Target

_CANDIDATE_S = 20.0  # deadline of one
_NETWORKS_S = 120.0  # and of all libraries, for a PC
_LATE, _GRACE_S = 2, 10.0  # over the time given: loading them, and one run of each at least


class HereNetwork:
    """A library that is loaded into this process."""

    board, rest_s = "", 0.0

    def __init__(
        self, folder: Path, threads: int | None = None, cpus: Sequence[int] | None = None
    ) -> None:
        self._folder, self._cpus = folder, cpus
        cores = len(os.sched_getaffinity(0))  # asked for before this thread is bound to one
        self._probe: PeakProbe | None = None
        self.network = loader.load(folder, threads)
        if cpus:
            self.network.pin(cpus)
        self.manifest = self.network.manifest
        self.input_shape, self.output_shape = self.network.input_shape, self.network.output_shape
        host = this_host()
        self.told = {"cpu": host.cpu, "cores": cores, "machine": host.machine}
        self.told |= {"emulated": False}

    @property
    def threads(self) -> int:
        """Threads of a run."""
        return self.network.threads

    def __call__(self, images: Floats) -> Floats:
        """Logits [m, classes] of images [m, y, x, 3]."""
        return self.network(images)

    def times_s(self, images: Floats, runs: int) -> list[float]:
        """Seconds of single runs."""
        result = np.empty(self.output_shape, np.float32)
        times = []
        for _ in range(runs):
            start = perf_counter()
            self.network.run(images, result)
            times.append(perf_counter() - start)
        return times

    def layers_s(self, images: Floats, runs: int) -> np.ndarray:
        """Seconds [run, layer]; the first run finds another library's data in the caches."""
        rows = [list(self.network.profile(images).values()) for _ in range(runs + 1)]
        return np.array(rows[1:])

    def peak_gflop_per_s(self) -> float:
        """The FMA peak of as many threads, which run where the library's do."""
        from mnv2_tvm.measure.peak import PeakProbe
        from mnv2_tvm.target import Target

        if self._probe is None:
            self._probe = PeakProbe(Target.load(self.manifest.target))
        usable = os.sched_getaffinity(0)
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)  # the probe's threads inherit this
        try:
            return self._probe.gflop_per_s(self.threads)
        finally:
            if self._cpus:
                os.sched_setaffinity(0, usable)
                self.network.pin(self._cpus)

    def memory(self) -> "Memory | None":
        """Of a process of its own."""
        from mnv2_tvm.measure.memory import measure_in_child

        return measure_in_child(self._folder, self.threads)

    def state(self) -> dict[str, Any]:
        """With the clock and the temperature of now, where this machine tells them."""
        return self.told | warmth()


class Here:
    """This machine; `target` gives the target whose candidates it is to measure."""

    name = "here"

    def __init__(self, target: "Callable[[], Target]", cpus: Sequence[int] | None = None) -> None:
        self._target, self._cpus = target, cpus
        self._pool = WorkerPool(1)

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()

    @property
    def builder(self) -> Builder:
        """Libraries of one kernel."""
        from mnv2_tvm.measure.candidate import build_candidate

        return build_candidate

    def machine(self) -> "Machine":
        """This CPU, with what is installed. Raises UserError where it cannot run the target."""
        from mnv2_tvm.records.machine import Machine

        self._target().require_here()
        return Machine.here()

    def cores(self) -> int | None:
        """Of those that this process may use."""
        return len(os.sched_getaffinity(0))

    @contextmanager
    def open(self, folder: Path, threads: int | None = None) -> Iterator[HereNetwork]:
        """The library, loaded into this process."""
        yield HereNetwork(folder, threads, self._cpus)

    def candidates(self, jobs: list[Job], left_s: float) -> Candidates:
        """Each in the worker, which is killed where a candidate hangs."""
        from mnv2_tvm.measure.candidate import measure_candidate

        with scratch_folder() as scratch:
            check_loadable(scratch / "library")
        arguments = [(layer, schedule, library) for layer, schedule, library in jobs]
        timed = self._pool.run(measure_candidate, arguments, _CANDIDATE_S, left_s)
        with closing(timed) as results:
            for number, result in results:
                yield jobs[number], result

    def profiles(self, folders: list[Path], seed: int, seconds: float) -> list[np.ndarray]:
        """In the worker too: a library is not unloaded before its process ends."""
        job = (folders, seed, seconds)
        results = self._pool.run(_profile, [job], _NETWORKS_S, _LATE * seconds + _GRACE_S)
        result = next((result for _, result in results), None)
        if result is None:
            raise UserError(
                "the network could not be measured: the time budget was used up. All measurements "
                "are in the log: run the command again, with a longer --time-budget"
            )
        if isinstance(result, Failure):
            raise UserError(f"the network could not be measured: {result}")
        profiles: list[np.ndarray] = result
        return profiles


def _profile(folders: list[Path], seed: int, seconds: float) -> list[np.ndarray]:
    """A worker's job."""
    from mnv2_tvm.measure.turns import profile_in_turn

    return profile_in_turn(folders, [HereNetwork(folder) for folder in folders], seed, seconds)
