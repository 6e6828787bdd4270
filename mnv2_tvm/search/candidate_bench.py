"""Build and measure batches of candidates: on this host, or on every board of a key at once."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnv2_tvm.device.session import Address
from mnv2_tvm.device.workers import Failure, WorkerPool
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.search.candidate import Timing, build_candidate, measure_candidate
from mnv2_tvm.search.progress import Progress
from mnv2_tvm.search.records import Measurement, TuningLog
from mnv2_tvm.target import Target

BUILDERS = 2
_BUILD_TIMEOUT_S = 20.0
_MEASURE_TIMEOUT_S = 20.0
_BOARD_TIMEOUT_S = 90.0  # an upload, a session and an emulated board's patience

Job = tuple[Layer, Schedule, Path]


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
    scratch: Path
    builders: WorkerPool
    runners: WorkerPool  # one for each board
    tally: Tally
    progress: Progress
    address: Address | None = None  # None: this host
    wrong_boards: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def measure(self, layer: Layer, batch: list[Schedule]) -> Iterator[Measurement]:
        """Build the batch, then measure what was built. Raises UserError without any board."""
        start = time.monotonic()
        jobs = [
            # A name of its own: a library of the same name would still be loaded.
            (layer, schedule, self.target.name, self.scratch / f"{next(self.numbers)}.so")
            for schedule in batch
        ]
        built: list[Job] = []
        for number, result in self.builders.run(build_candidate, jobs, _BUILD_TIMEOUT_S):
            if isinstance(result, Failure):
                yield self._note(layer, batch[number], result)
            else:
                built.append((layer, batch[number], result))
        for (_, schedule, library), result in self._results(built):
            yield self._note(layer, schedule, result)
            library.unlink()
        self.tally.seconds += time.monotonic() - start

    def _results(self, jobs: list[Job]) -> Iterator[tuple[Job, Timing | Failure]]:
        if self.address is None:
            for number, result in self.runners.run(measure_candidate, jobs, _MEASURE_TIMEOUT_S):
                yield jobs[number], result
        else:
            yield from self._board_results(jobs, self.address)

    def _board_results(
        self, jobs: list[Job], address: Address
    ) -> Iterator[tuple[Job, Timing | Failure]]:
        """Each job on any board; what failed there has a second try, on another one if it can.

        A board that gave wrong numbers where another gave right ones is not asked again.
        """
        again: list[tuple[Job, Timing | Failure]] = []
        for job, result in self._on_boards(jobs, frozenset(self.wrong_boards)):
            if _right(result):
                yield job, result
            else:
                again.append((job, result))
        if not again:
            return
        suspects = {result.board for _, result in again if isinstance(result, Timing)}
        boards = address.boards()
        # A worker that lost its board would wait for one that the others hold.
        self.runners.resize(boards)
        several = boards > 1
        avoid = frozenset(self.wrong_boards | suspects) if several else frozenset()
        first = {job: result for job, result in again}
        failures = []
        for job, result in self._on_boards([job for job, _ in again], avoid):
            before = first[job]
            if _right(result) and isinstance(before, Timing):
                self._distrust(before.board)
            if isinstance(result, Failure):
                failures.append(result)
            yield job, result
        if len(failures) == len(jobs) and all(f.kind == "error" for f in failures):
            raise UserError(f"no board could measure anything: {failures[0].message}")

    def _on_boards(
        self, jobs: list[Job], avoid: frozenset[str]
    ) -> Iterator[tuple[Job, Timing | Failure]]:
        arguments: list[tuple[Any, ...]] = [(*job, self.address, avoid) for job in jobs]
        for number, result in self.runners.run(measure_candidate, arguments, _BOARD_TIMEOUT_S):
            yield jobs[number], result

    def _distrust(self, board: str) -> None:
        if board not in self.wrong_boards:
            self.wrong_boards.add(board)
            self.progress.line(
                f"the board at {board} gives wrong numbers where another gives right ones: "
                "it is not used any more"
            )

    def _note(self, layer: Layer, schedule: Schedule, result: Timing | Failure) -> Measurement:
        if isinstance(result, Timing) and result.median_us is not None:
            self.tally.measured += 1
            measurement = Measurement(
                layer, schedule, result.median_us, result.max_error, None, result.emulated
            )
        else:
            why = str(result)
            if isinstance(result, Timing):
                why = f"wrong numbers: relative error {result.max_error:.1e}"
            self.tally.failed += 1
            first = self.tally.first_failure
            self.tally.first_failure = first or f"{layer.name}, {schedule}: {why}"
            measurement = Measurement(layer, schedule, None, None, why, False)
        self.log.append(measurement)
        return measurement


def _right(result: Timing | Failure) -> bool:
    return isinstance(result, Timing) and result.median_us is not None
