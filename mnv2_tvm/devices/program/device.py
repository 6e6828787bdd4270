"""A device that runs static programs, reached over ssh or adb: nothing is installed on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from mnv2_tvm.deploy.load_program import PROGRAM, write_load_program
from mnv2_tvm.devices.program.candidates import (
    build_candidate_object,
    read_results,
    write_candidates_program,
)
from mnv2_tvm.devices.program.network import ProgramNetwork
from mnv2_tvm.devices.program.remote import Remote
from mnv2_tvm.failures import DeviceError, Failure, Kind
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import MAX_RUNS, Timing
from mnv2_tvm.measure.device import Builder, Candidates, Job
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.measure.turns import profile_in_turn
from mnv2_tvm.records.machine import Machine, board_cpu, least_us

_ROUNDS, _RUNS = 6, 24  # each round starts a process for every library
_AGAIN = (Kind.LINK, Kind.TIMEOUT, Kind.UPLOAD)  # worth a second try: the device may be back

T = TypeVar("T")


class ProgramDevice:
    """Measures on `remote`; a lost device is tried again once, then that is the end."""

    def __init__(self, remote: Remote, say: Callable[[str], None]) -> None:
        self.name = remote.name
        self._remote, self._say = remote, say
        self._load = ""  # where `mnv2_load` is, on a device that has it

    def __enter__(self) -> "ProgramDevice":
        """Raises DeviceError where there is no way to it, or it cannot run programs."""
        self._remote.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._remote.__exit__(*error)

    @property
    def builder(self) -> Builder:
        """Objects, which `candidates` links into one program."""
        return build_candidate_object

    def machine(self) -> Machine:
        """What the device tells, with what compiles here."""
        return Machine.of_board(self._remote.info)

    def cores(self) -> int | None:
        """As the device tells."""
        cores: int | None = self._remote.info["cores"]
        return cores

    @contextmanager
    def open(self, folder: Path, threads: int | None = None) -> Iterator[ProgramNetwork]:
        """The library beside the program that runs it."""
        network = ProgramNetwork(self._remote, self._loader(), folder, threads)
        yield network
        network.remove()

    def candidates(self, jobs: list[Job], left_s: float) -> Candidates:
        """All by one program. Raises DeviceError for a lost device."""
        if not jobs:
            return
        layer = jobs[0][0]
        candidates = [(schedule, built) for _, schedule, built in jobs]
        with scratch_folder() as scratch:
            program = scratch / "mnv2_candidates"
            write_candidates_program(layer, candidates, self._remote.target, program)
            results = self._with_second_try(lambda: self._run(program, layer, len(jobs)))
        for number, job in enumerate(jobs):
            yield job, self._result(results.get(number))

    def _run(self, program: Path, layer: Layer, count: int) -> dict[int, dict[str, float]]:
        each_s = round(patience_s(flops=MAX_RUNS * layer.flops))
        remote = self._remote.upload(program)
        done = self._remote.run(remote, ["--each", str(each_s)], count * each_s)
        if done.code:
            raise DeviceError(Kind.ERROR, f"{self.name} says: {done.words}")
        return read_results(done.stdout, count, least_us(layer.flops, self._remote.target))

    def _result(self, values: dict[str, float] | None) -> Timing | Failure:
        if values is None:
            return Failure(Kind.ERROR, f"{self.name} printed no result")
        if "signal" in values:
            error = self._remote.ended_by(int(values["signal"]))
            return Failure(error.kind, error.message)
        return Timing(
            median_us=values.get("median_us"),
            max_error=values["relative_error"],
            board=self.name,
            cpu=board_cpu(self._remote.info),
            emulated=bool(self._remote.info["emulated"]),
        )

    def profiles(self, folders: list[Path], seed: int, seconds: float) -> list[np.ndarray]:
        """A process of its own for each library in each round."""
        return self._with_second_try(lambda: self._turns(folders, seed, seconds))

    def _turns(self, folders: list[Path], seed: int, seconds: float) -> list[np.ndarray]:
        load = self._loader()
        networks = [ProgramNetwork(self._remote, load, folder) for folder in folders]
        runs = profile_in_turn(folders, networks, seed, seconds, rounds=_ROUNDS, runs=_RUNS)
        for network in networks:
            network.remove()
        return runs

    def _loader(self) -> str:
        """Where the program is that runs libraries; it goes there once."""
        if not self._load:
            with scratch_folder() as scratch:
                write_load_program(self._remote.target, scratch / PROGRAM)
                self._load = self._remote.upload(scratch / PROGRAM)
        return self._load

    def _with_second_try(self, measure: Callable[[], T]) -> T:
        try:
            return measure()
        except DeviceError as error:
            if error.kind not in _AGAIN:
                raise
            self._say(f"{error}; what it had is tried again")
        self._remote.reenter()
        self._load = ""
        return measure()
