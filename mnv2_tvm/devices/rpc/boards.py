"""All boards that a tracker lists under a target's name, as one device."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.devices.board.words import address_text
from mnv2_tvm.devices.rpc.farm import Farm, boards_there
from mnv2_tvm.devices.rpc.remote_network import RemoteNetwork
from mnv2_tvm.devices.rpc.session import Address, Session
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.measure.candidate import build_candidate
from mnv2_tvm.measure.device import Builder, Candidates, Job
from mnv2_tvm.measure.turns import profile_in_turn
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.target import Target

_TIMEOUT_S = 3600.0  # the last resort: each step on a board has a deadline of its own
_LATE, _GRACE_S = 2, 10.0  # over the time given: loading them, and one run of each at least
_TRIES = 3  # boards that may be lost here


class Boards:
    """Every board of `address`: candidates on all at once, whole networks on one of them."""

    def __init__(self, address: Address, say: Callable[[str], None]) -> None:
        self.name = f"tracker:{address_text(*address.tracker)}"
        self._address, self._say = address, say
        self._pool = WorkerPool(1)
        self._farm: Farm | None = None
        self._told: dict[str, Any] = {}

    def __enter__(self) -> "Boards":
        """Raises DeviceError where no board is registered."""
        self._address.boards()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()

    @property
    def builder(self) -> Builder:
        """Libraries of one kernel."""
        return build_candidate

    def machine(self) -> Machine:
        """That of the first board that is free."""
        return Machine.of_board(self._first())

    def cores(self) -> int | None:
        """Those of the first board."""
        cores: int | None = self._first()["cores"]
        return cores

    def _first(self) -> dict[str, Any]:
        if not self._told:
            with closing(Session(self._address)) as session:
                self._told = session.info
        return self._told

    @contextmanager
    def open(self, folder: Path, threads: int | None = None) -> Iterator[RemoteNetwork]:
        """The library on a board, which is this process's own meanwhile."""
        with closing(Session(self._address)) as session:
            yield RemoteNetwork(session, folder, threads)

    def candidates(self, jobs: list[Job], left_s: float) -> Candidates:
        """On whichever board is free, with a second try for what fails."""
        if self._farm is None:
            target = Target.load(self._address.key)
            self._farm = Farm(self._address, target, self.machine(), self._pool, self._say)
        yield from self._farm.measure(jobs)
        self._address = self._farm.address

    def profiles(self, folders: list[Path], seed: int, seconds: float) -> list[np.ndarray]:
        """On one board. Says which boards are lost or wrong, and tries others."""
        self._pool.restart(1)  # what the others hold is free again
        result: Any = None
        for _ in range(_TRIES):
            job = (folders, seed, self._address, seconds)
            run = self._pool.run(_profile, [job], _TIMEOUT_S, _LATE * seconds + _GRACE_S)
            result = next((result for _, result in run), None)
            if result is not None and not isinstance(result, Failure):
                profiles: list[np.ndarray] = result
                return profiles
            if result is None:
                break
            others = len(boards_there(self._address, self._pool, self._say)[0]) > 1
            if not (others if result.board else result.kind is Kind.LINK):
                break
            self._say(f"{result}; what it had is tried again")
            self._address = self._address.without({result.board} - {""})
        late = "the time budget was used up. Run the command again, with a longer --time-budget"
        raise UserError(f"the network could not be measured: {result or late}")


def _profile(folders: list[Path], seed: int, address: Address, seconds: float) -> list[np.ndarray]:
    """A worker's job."""
    with closing(Session(address)) as session:
        networks = [RemoteNetwork(session, folder) for folder in folders]
        return profile_in_turn(folders, networks, seed, seconds)
