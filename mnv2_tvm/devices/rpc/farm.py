"""All boards of a key at once: who is there, who is wrong, and second tries for what failed."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from mnv2_tvm.devices.rpc.session import Address, held_session
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Failure, Kind
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import (
    MAX_RUNS,
    Result,
    Timing,
    check_and_time,
    judged,
)
from mnv2_tvm.measure.device import Candidates, Job
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.records.machine import Machine, board_cpu
from mnv2_tvm.target import Target

_TIMEOUT_S = 300.0  # the last resort: each step on a board has a deadline of its own
_TRIES = 3  # to have a board at all
_AWAY_S, _LOOK_S = 60.0, 1.0  # how long a tracker may be away, as when its machine starts again
# Whatever the candidate was, these are not its fault.
_BLAMELESS = (Kind.ERROR, Kind.LINK, Kind.UPLOAD, Kind.REFUSED)


def measure_on_board(layer: Layer, schedule: Schedule, library: Path, address: Address) -> Timing:
    """A worker's job: `measure_candidate` on a board of `address`."""
    with held_session(address) as session:
        module = session.load(library)
        weights = [part.weight_shape or () for part in layer.weighted]
        moved = 4 * sum(map(prod, (layer.input_shape, layer.output_shape, *weights)))
        with session.within(patience_s(moved, MAX_RUNS * layer.flops), "measuring"):
            timing = check_and_time(layer, schedule, module, session.device)
        info = session.info
        return replace(
            timing, board=session.board, cpu=board_cpu(info), emulated=bool(info["emulated"])
        )


def boards_there(
    address: Address, pool: WorkerPool, say: Callable[[str], None]
) -> tuple[list[str], int]:
    """What `address.registered` gives; waits a minute for a tracker that starts again.

    `pool` has the workers with sessions: a board registers anew only after its session. Raises
    DeviceError after that minute, and at once where all boards that are there are to be avoided.
    """
    end = time.monotonic() + _AWAY_S
    said = False
    while True:
        try:
            replace(address, avoid=frozenset()).registered()
            break
        except DeviceError as error:
            if error.kind is not Kind.LINK or time.monotonic() > end:
                raise
            if not said:
                say(f"{error}; waiting for it, {_AWAY_S:.0f} s at most")
                pool.restart(pool.size)
                said = True
        time.sleep(_LOOK_S)
    return address.registered()


@dataclass
class Farm:
    """Measures jobs on every board of `address`, with a worker for each board.

    All must be such machines as `machine`: times of others do not rank with theirs.
    """

    address: Address  # it avoids the boards that were dropped
    target: Target
    machine: Machine
    pool: WorkerPool
    say: Callable[[str], None]
    _there: list[str] = field(default_factory=list)

    def measure(self, jobs: list[Job]) -> Candidates:
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
            if isinstance(second, Failure) and second.kind in _BLAMELESS:
                blameless.append(second)
            yield job, second
        if len(blameless) == len(jobs):
            raise UserError(f"no board could measure anything: {blameless[0]}")

    def _look_around(self) -> None:
        """Say which boards have left, and have a worker for each one that is new."""
        there, free = boards_there(self.address, self.pool, self.say)
        for board in Counter(self._there) - Counter(there):
            self.say(f"the board at {board} has left the tracker")
        self._there = there
        self.pool.grow(min(len(there), self.pool.size + free))

    def _run(self, jobs: list[Job], address: Address) -> Candidates:
        arguments = [(*job, address) for job in jobs]
        for number, result in self.pool.run(measure_on_board, arguments, _TIMEOUT_S):
            yield jobs[number], self._judged(result, jobs[number][0])

    def _judged(self, result: Result, layer: Layer) -> Result:
        if isinstance(result, Timing):
            there = replace(self.machine, cpu=result.cpu, emulated=result.emulated)
            if there != self.machine:
                words = f"it is another machine, {there}, than the first board, {self.machine}"
                return Failure(Kind.REFUSED, words, result.board)
        return judged(result, layer, self.target)

    def _second_try(self, job: Job, first: Result) -> Result:
        """Boards whose numbers were wrong are asked last, and dropped if another's are right."""
        suspects = {first.board} if _is_doubtful(first) else set()
        for _ in range(_TRIES):
            there = len(boards_there(self.address, self.pool, self.say)[0])
            others = there - len(suspects - self.address.avoid)
            address = self.address.without(suspects) if others else self.address
            ((_, second),) = self._run([job], address)
            if isinstance(second, Timing) and second.right:
                for board in suspects:
                    self._drop(board, "it gives wrong numbers where another gives right ones")
                return second
            if _is_doubtful(second):
                if not others:
                    return second
                suspects.add(second.board)
            elif isinstance(second, Failure):
                self._tell(second)
                if second.kind is not Kind.LINK:
                    return second
        if isinstance(second, Failure) and not _is_doubtful(second):
            raise UserError(f"no board could measure anything: {second}")
        return second

    def _tell(self, result: Result) -> None:
        """Say what happened to a board."""
        if isinstance(result, Timing) or not result.board:
            return
        if result.kind is Kind.REFUSED:
            self._drop(result.board, str(result))
        elif result.kind in (Kind.LINK, Kind.TIMEOUT):
            self.say(f"{result}; what it had is tried again")
            self._forget(result.board)

    def _drop(self, board: str, why: str) -> None:
        if board not in self.address.avoid:
            self.say(f"the board at {board} is not used any more: {why}")
            self.address = self.address.without({board})
            self._forget(board)

    def _forget(self, board: str) -> None:
        """What was said of it is enough: no line when it leaves the tracker."""
        self._there = [one for one in self._there if one != board.split()[0]]


def _is_doubtful(result: Result) -> bool:
    """Wrong numbers or an impossible time: the fault of the candidate, or of the board."""
    if isinstance(result, Timing):
        return not result.right
    return result.kind is Kind.IMPOSSIBLE
