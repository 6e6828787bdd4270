"""Build batches of candidates here, and measure them on a device."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import Result, Timing, judged
from mnv2_tvm.measure.device import Device, Job
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.records.entries import Measurement
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.target import Target

BUILDERS = 2
_BUILD_TIMEOUT_S = 20.0


@dataclass
class Tally:
    """How much a run measured, and how fast."""

    measured: int = 0
    failed: int = 0
    seconds: float = 0.0
    first_failure: str | None = None


@dataclass(frozen=True)
class CandidateBench:
    """Every measurement is in the log before it is yielded."""

    target: Target
    log: TuningLog
    machine: Machine
    scratch: Path
    builders: WorkerPool
    device: Device
    tally: Tally
    left_s: Callable[[], float] = lambda: inf  # for candidates
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def measure(self, layer: Layer, batch: list[Schedule]) -> Iterator[Measurement]:
        """Build the batch, then measure what was built, until it is late.

        Raises UserError without any board.
        """
        start = time.monotonic()
        jobs = [
            # A name of its own: a library of the same name would still be loaded.
            (layer, schedule, self.target, self.scratch / f"{next(self.numbers)}.so")
            for schedule in batch
        ]
        built: list[Job] = []
        with closing(
            self.builders.run(self.device.builder, jobs, _BUILD_TIMEOUT_S, self.left_s())
        ) as results:
            for number, result in results:
                if isinstance(result, Failure):
                    yield self._note(layer, batch[number], result)
                else:
                    built.append((layer, batch[number], result))
        if self.left_s() > 0:
            with closing(self.device.candidates(built, self.left_s())) as measured:
                for (_, schedule, library), result in measured:
                    yield self._note(layer, schedule, result)
                    library.unlink()
                    if self.left_s() <= 0:
                        break
        self.tally.seconds += time.monotonic() - start

    def _note(self, layer: Layer, schedule: Schedule, result: Result) -> Measurement:
        result = judged(result, layer, self.target)
        if isinstance(result, Timing) and not result.right:
            words = f"relative error {result.max_error:.1e}"
            result = Failure(Kind.WRONG_NUMBERS, words, result.board)
        provenance, emulated = self.machine.provenance(), self.machine.emulated
        if isinstance(result, Failure):
            self.tally.failed += 1
            first = self.tally.first_failure
            self.tally.first_failure = first or f"{layer.name}, {schedule}: {result}"
            measurement = Measurement(layer, schedule, None, None, result, emulated, provenance)
        else:
            self.tally.measured += 1
            measurement = Measurement(
                layer, schedule, result.median_us, result.max_error, None, emulated, provenance
            )
        self.log.append(measurement)
        return measurement
