"""All boards of a key at once: who is there, who is wrong, and second tries for what failed."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mnv2_tvm.device.failure import Failure, Kind
from mnv2_tvm.device.session import Address
from mnv2_tvm.device.workers import WorkerPool
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.search.candidate import Timing, build_candidate, measure_candidate
from mnv2_tvm.search.progress import Progress

_TIMEOUT_S = 300.0  # the last resort: each step on a board has a deadline of its own
_TRIES = 3  # to have a board at all
NOT_ITS_FAULT = (Kind.ERROR, Kind.LINK, Kind.UPLOAD, Kind.REFUSED)  # a candidate's that failed so

Job = tuple[Layer, Schedule, Path]
Result = Timing | Failure


@dataclass
class Farm:
    """Measures jobs on every board of `address`, with a worker for each board."""

    build = staticmethod(build_candidate)

    address: Address  # it avoids the boards that were dropped
    pool: WorkerPool
    progress: Progress
    _there: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> frozenset[str]:
        """Boards that are not to be asked again."""
        return self.address.avoid

    def measure(self, jobs: list[Job]) -> Iterator[tuple[Job, Result]]:
        """Each job on any board; what fails there has a second try, on another one if it can.

        Raises UserError where no board is left that can measure.
        """
        self._look_around()
        again = []
        for job, result in self._run(jobs, self.address):
            if isinstance(result, Timing) and result.right:
                yield job, result
            else:
                self._tell(result)
                again.append((job, result))
        if not again:
            return
        # Some boards are lost, perhaps: a worker each would wait for what the others hold.
        self.pool.restart(1)
        blameless = []
        for job, first in again:
            second = self._second_try(job, first)
            if isinstance(second, Failure) and second.kind in NOT_ITS_FAULT:
                blameless.append(second)
            yield job, second
        if len(blameless) == len(jobs):
            raise UserError(f"no board could measure anything: {blameless[0]}")

    def _look_around(self) -> None:
        """Say which boards have left, and have a worker for each one that is new."""
        there, free = self.address.registered()
        for board in Counter(self._there) - Counter(there):
            self.progress.line(f"the board at {board} has left the tracker")
        self._there = there
        self.pool.grow(min(len(there), self.pool.size + free))

    def _run(self, jobs: list[Job], address: Address) -> Iterator[tuple[Job, Result]]:
        arguments = [(*job, address) for job in jobs]
        for number, result in self.pool.run(measure_candidate, arguments, _TIMEOUT_S):
            yield jobs[number], result

    def _second_try(self, job: Job, first: Result) -> Result:
        """Boards whose numbers were wrong are asked last, and dropped if another's are right."""
        suspects = {first.board} if isinstance(first, Timing) else set()
        for _ in range(_TRIES):
            others = self.address.boards() - len(suspects - self.address.avoid)
            address = self.address.without(suspects) if others else self.address
            ((_, second),) = self._run([job], address)
            if isinstance(second, Timing):
                if second.right:
                    for board in suspects:
                        self._drop(board, "it gives wrong numbers where another gives right ones")
                if second.right or not others:
                    return second
                suspects.add(second.board)
            else:
                self._tell(second)
                if second.kind is not Kind.LINK:
                    return second
        if isinstance(second, Failure):
            raise UserError(f"no board could measure anything: {second}")
        return second

    def _tell(self, result: Result) -> None:
        """Say what happened to a board."""
        if isinstance(result, Timing) or not result.board:
            return
        if result.kind is Kind.REFUSED:
            self._drop(result.board, str(result))
        elif result.kind in (Kind.LINK, Kind.TIMEOUT):
            self.progress.line(f"{result}; what it had is tried again")
            self._forget(result.board)

    def _drop(self, board: str, why: str) -> None:
        if board not in self.address.avoid:
            self.progress.line(f"the board at {board} is not used any more: {why}")
            self.address = self.address.without({board})
            self._forget(board)

    def _forget(self, board: str) -> None:
        """What was said of it is enough: no line when it leaves the tracker."""
        self._there = [one for one in self._there if one != board.split()[0]]
