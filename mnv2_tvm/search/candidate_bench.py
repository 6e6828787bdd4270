"""Build and measure batches of candidates: on this host, or on boards."""

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Protocol

from mnv2_tvm.devices.rpc.farm import Job
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import Result, Timing, build_candidate, judged, measure_candidate
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.records.entries import Measurement
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.target import Target

BUILDERS = 2
_BUILD_TIMEOUT_S = 20.0
_MEASURE_TIMEOUT_S = 20.0


@dataclass
class Tally:
    """How much a run measured, and how fast."""

    measured: int = 0
    failed: int = 0
    seconds: float = 0.0
    first_failure: str | None = None
    dropped_boards: set[str] = field(default_factory=set)


class Board(Protocol):
    """What measures candidates elsewhere: a farm, or one device that runs programs."""

    @property
    def build(self) -> Callable[[Layer, Schedule, Target, Path], Path]:
        """A worker's job: writes what `measure` needs of a candidate."""

    @property
    def dropped(self) -> frozenset[str]:
        """Boards that are not to be asked again."""

    def measure(self, jobs: list[Job]) -> Iterator[tuple[Job, Result]]:
        """Candidates of one layer. Raises UserError where no board is left."""


@dataclass(frozen=True)
class CandidateBench:
    """Every measurement is in the log before it is yielded."""

    target: Target
    log: TuningLog
    machine: Machine
    scratch: Path
    builders: WorkerPool
    runners: WorkerPool
    tally: Tally
    board: Board | None = None  # None: this host
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
        build = self.board.build if self.board else build_candidate
        with closing(self.builders.run(build, jobs, _BUILD_TIMEOUT_S, self.left_s())) as results:
            for number, result in results:
                if isinstance(result, Failure):
                    yield self._note(layer, batch[number], result)
                else:
                    built.append((layer, batch[number], result))
        if self.left_s() > 0:
            with closing(self._results(built)) as measured:
                for (_, schedule, library), result in measured:
                    yield self._note(layer, schedule, result)
                    library.unlink()
                    if self.left_s() <= 0:
                        break
        self.tally.seconds += time.monotonic() - start

    def _results(self, jobs: list[Job]) -> Generator[tuple[Job, Result], None, None]:
        if self.board is None:
            left_s = self.left_s()
            timed = self.runners.run(measure_candidate, jobs, _MEASURE_TIMEOUT_S, left_s)
            with closing(timed) as results:
                for number, result in results:
                    yield jobs[number], result
        elif jobs:
            yield from self.board.measure(jobs)
            self.tally.dropped_boards.update(self.board.dropped)

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
