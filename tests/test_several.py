"""Several devices as one: who does what, and what a lost one leaves to the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv2_tvm.devices.several import Several
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.candidate import Timing
from mnv2_tvm.measure.device import Candidates, Job
from mnv2_tvm.records.machine import Machine

JOBS: list[Any] = [(None, None, Path(str(number))) for number in range(7)]


class Fake:
    """A device that is lost after so many candidates, and a network takes so long on it."""

    def __init__(self, name: str, lasts: int = 99, cpu: str = "a CPU") -> None:
        self.name, self._lasts, self._cpu = name, lasts, cpu
        self.done: list[Job] = []

    def machine(self) -> Machine:
        return Machine(self._cpu)

    def candidates(self, jobs: list[Job], left_s: float) -> Candidates:
        for job in jobs:
            self._work()
            self.done.append(job)
            yield job, Timing(1.0, 0.0, self.name)

    def profiles(self, folders: list[Path], seed: int, seconds: float) -> list[np.ndarray]:
        self._work()
        return [np.zeros((1, 1))]

    def _work(self) -> None:
        self._lasts -= 1
        if self._lasts == -100:
            raise ZeroDivisionError
        if self._lasts < 0:
            raise DeviceError(Kind.LINK, f"{self.name} is lost", self.name)


def measured(*devices: Any, said: list[str] | None = None) -> list[Job]:
    several = Several(devices, (said if said is not None else []).append)
    return [job for job, _ in several.candidates(JOBS, 60)]


def test_each_device_has_a_share() -> None:
    one, two = Fake("one"), Fake("two")
    assert sorted(map(str, measured(one, two))) == sorted(map(str, JOBS))
    assert (len(one.done), len(two.done)) == (4, 3)


def test_what_a_lost_device_had_goes_to_the_others() -> None:
    one, two, said = Fake("one", lasts=1), Fake("two"), list[str]()
    assert sorted(map(str, measured(one, two, said=said))) == sorted(map(str, JOBS))
    assert len(one.done) == 1 and len(two.done) == 6
    assert said == ["link: one is lost; the others go on"]


def test_without_any_device_the_search_ends() -> None:
    with pytest.raises(DeviceError, match="is lost"):
        measured(Fake("one", lasts=1), Fake("two", lasts=0))


def test_a_bug_is_no_lost_device() -> None:
    with pytest.raises(ZeroDivisionError):
        measured(Fake("one", lasts=-99), Fake("two"))


def test_whole_networks_run_on_the_first_that_is_left() -> None:
    said: list[str] = []
    devices: list[Any] = [Fake("one", lasts=0), Fake("two", lasts=1)]
    several = Several(devices, said.append)
    assert len(several.profiles([], 0, 1)) == 1 and len(said) == 1
    with pytest.raises(DeviceError, match="two is lost"):
        several.profiles([], 0, 1)


def test_times_of_two_machines_do_not_rank() -> None:
    devices: list[Any] = [Fake("one"), Fake("two", cpu="another")]
    with pytest.raises(UserError, match="a CPU and another"):
        Several(devices, print).machine()
    assert Several(devices[:1] * 2, print).machine() == Machine("a CPU")
