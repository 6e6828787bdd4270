"""Several devices of one kind as one: a search measures on all of them at once."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Failure
from mnv2_tvm.measure.device import Builder, Candidates, Device, Job, Network

if TYPE_CHECKING:
    from mnv2_tvm.measure.candidate import Timing
    from mnv2_tvm.records.machine import Machine


class Several:
    """All must be alike, as times of two machines do not rank; a lost one is left out."""

    def __init__(self, devices: Sequence[Device], say: Callable[[str], None]) -> None:
        self._devices, self._say = list(devices), say
        self.name = ", ".join(device.name for device in devices)

    @property
    def builder(self) -> Builder:
        """That of all."""
        return self._devices[0].builder

    def machine(self) -> "Machine":
        """That of all. Raises UserError where they are not alike."""
        machines = [device.machine() for device in self._devices]
        if others := [one for one in machines if one != machines[0]]:
            raise UserError(
                f"{self.name} are different machines, {machines[0]} and {others[0]}: their times "
                "do not rank; search on one after the other"
            )
        return machines[0]

    def cores(self) -> int | None:
        """The fewest that one tells."""
        known = [cores for device in self._devices if (cores := device.cores()) is not None]
        return min(known, default=None)

    def open(self, folder: Path, threads: int | None = None) -> AbstractContextManager[Network]:
        """On the first that is left."""
        return self._devices[0].open(folder, threads)

    def candidates(self, jobs: list[Job], left_s: float) -> Candidates:
        """A share on each; what a lost one had goes to the others. Raises UserError without any."""
        waiting, devices = list(jobs), 0
        while waiting and devices != len(self._devices):  # as long as one was lost
            devices = len(self._devices)
            for job, result in self._at_once(list(waiting), left_s):
                waiting.remove(job)
                yield job, result

    def _at_once(self, jobs: list[Job], left_s: float) -> Candidates:
        """Results as they come, from a thread for each device; those of a lost one are missing."""
        results: queue.SimpleQueue[tuple[Job, Timing | Failure] | None] = queue.SimpleQueue()
        lost: dict[str, Exception] = {}

        def run(device: Device, share: list[Job]) -> None:
            try:
                for one in device.candidates(share, left_s):
                    results.put(one)
            except Exception as error:  # told by the thread that waits
                lost[device.name] = error
            finally:
                results.put(None)

        devices = list(self._devices)
        for number, device in enumerate(devices):
            share = jobs[number :: len(devices)]
            threading.Thread(target=run, args=(device, share), daemon=True).start()
        for _ in devices:
            yield from iter(results.get, None)
        self._leave_out(lost)

    def profiles(self, folders: list[Path], seed: int, seconds: float) -> list[np.ndarray]:
        """On the first that is not lost meanwhile."""
        while True:
            try:
                return self._devices[0].profiles(folders, seed, seconds)
            except DeviceError as error:
                self._leave_out({self._devices[0].name: error})

    def _leave_out(self, lost: Mapping[str, Exception]) -> None:
        """Raises the last error where no device is left, and whatever is no device's fault."""
        left = [device for device in self._devices if device.name not in lost]
        for error in lost.values():
            if not left or not isinstance(error, UserError):
                raise error
            self._say(f"{error}; the others go on")
        self._devices = left
