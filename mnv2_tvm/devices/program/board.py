"""A device as the search's board: measures candidates and whole networks by programs."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from mnv2_tvm.deploy.build import build_program
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.program.candidates import (
    build_candidate_object,
    read_results,
    write_candidates_program,
)
from mnv2_tvm.devices.program.device import Device
from mnv2_tvm.devices.program.network_program import NetworkProgram
from mnv2_tvm.devices.rpc.farm import Job
from mnv2_tvm.failures import DeviceError, Failure, Kind
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import MAX_RUNS, Result, Timing
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.measure.turns import in_turn
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.machine import board_cpu, least_us
from mnv2_tvm.search.variants import Choice, Network, Samples

_ROUNDS, _RUNS = 6, 24  # each round runs every program once, with so many runs if there is time
_AGAIN = (Kind.LINK, Kind.TIMEOUT, Kind.UPLOAD)  # worth a second try: the device may be back

T = TypeVar("T")


def build_variant_program(schedules: Choice, network: Network, folder: Path) -> Path:
    """A worker's job, as `build_variant` is: a program and its manifest in `folder`."""
    target, architecture, seed, threads = network
    source = SourceNetwork.make(architecture, None, seed)
    decisions = Decisions(target, schedules)
    manifest = build_program(
        target, source, _program(folder), threads=threads, seed=seed, decisions=decisions
    )
    manifest.write(folder)
    return folder


class ProgramBoard:
    """Measures on one entered device; a lost one is tried again once, then ends the search."""

    build = staticmethod(build_candidate_object)
    build_variant = staticmethod(build_variant_program)

    def __init__(self, device: Device, progress: Progress) -> None:
        self.device, self._progress = device, progress
        self.dropped: frozenset[str] = frozenset()  # there is no other one

    def measure(self, jobs: list[Job]) -> Iterator[tuple[Job, Result]]:
        """The candidates of one layer, by one program. Raises DeviceError for a lost device."""
        layer = jobs[0][0]
        candidates = [(schedule, built) for _, schedule, built in jobs]
        program = jobs[0][2].with_name("mnv2_candidates")
        write_candidates_program(layer, candidates, self.device.target, program)
        results = self._with_second_try(lambda: self._run(program, layer, len(jobs)))
        for number, job in enumerate(jobs):
            yield job, self._result(results.get(number))

    def _run(self, program: Path, layer: Layer, count: int) -> dict[int, dict[str, float]]:
        each_s = round(patience_s(flops=MAX_RUNS * layer.flops))
        remote = self.device.upload(program)
        done = self.device.run(remote, ["--each", str(each_s)], count * each_s)
        if done.code:
            raise DeviceError(Kind.ERROR, f"{self.device.name} says: {done.words}")
        return read_results(done.stdout, count, least_us(layer.flops, self.device.target))

    def _result(self, values: dict[str, float] | None) -> Result:
        if values is None:
            return Failure(Kind.ERROR, f"{self.device.name} printed no result")
        if "signal" in values:
            error = self.device.ended_by(int(values["signal"]))
            return Failure(error.kind, error.message)
        return Timing(
            median_us=values.get("median_us"),
            max_error=values["relative_error"],
            board=self.device.name,
            cpu=board_cpu(self.device.info),
            emulated=bool(self.device.info["emulated"]),
        )

    def profile(self, folders: list[Path], seconds: float) -> list[Samples]:
        """Run what `build_variant_program` wrote in turn; the times of each layer of each."""
        runs = self._with_second_try(lambda: self._turns(folders, seconds))
        return [_by_layer(*one) for one in runs]

    def time(self, folders: list[Path], seconds: float) -> list[float]:
        """Median milliseconds of a whole run of each program, in turn."""
        runs = self._with_second_try(lambda: self._turns(folders, seconds))
        return [float(np.median(layers_us.sum(axis=1))) / 1e3 for _, layers_us in runs]

    def _turns(self, folders: list[Path], seconds: float) -> list[tuple[Manifest, np.ndarray]]:
        """Manifest of each program and its layers' microseconds [run, layer]."""
        start = time.monotonic()
        programs = [
            NetworkProgram(self.device, _program(folder), Manifest.read(folder))
            for folder in folders
        ]
        left_s = seconds - (time.monotonic() - start)
        profiles = [program.profile for program in programs]
        rounds = in_turn(profiles, left_s, rounds=_ROUNDS, runs=_RUNS)
        for program in programs:
            program.remove()
        layers_us = [np.concatenate(parts) for parts in rounds]
        return [(one.manifest, us) for one, us in zip(programs, layers_us, strict=True)]

    def _with_second_try(self, measure: Callable[[], T]) -> T:
        try:
            return measure()
        except DeviceError as error:
            if error.kind not in _AGAIN:
                raise
            self._progress.line(f"{error}; what it had is tried again")
        self.device.reenter()
        return measure()


def _program(folder: Path) -> Path:
    """Under a name of its own, since all go into one folder of the device."""
    return folder / f"mnv2_bench-{folder.name}"


def _by_layer(manifest: Manifest, layers_us: np.ndarray) -> Samples:
    """One value a run for each distinct layer; repeats averaged."""
    columns: dict[Layer, list[int]] = defaultdict(list)
    for number, row in enumerate(manifest.layers):
        columns[Layer.parse(row["name"])].append(number)
    return {layer: layers_us[:, which].mean(axis=1).tolist() for layer, which in columns.items()}
