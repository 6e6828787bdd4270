"""A search on some tiny layers: its network, its logs, and what holds of every log."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mnv2_tvm.devices.here import Here
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import network_blocks, network_layers
from mnv2_tvm.records.entries import Measurement
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.records.tuning_log import MEASUREMENTS, TuningLog
from mnv2_tvm.search.candidate_bench import BUILDERS, Tally
from mnv2_tvm.search.layers import known_layers, search_layers
from mnv2_tvm.target import Target
from mnv2_tvm.tune import TuneReport, tune

SMALL = Architecture(0.35, 32)
SIZE = ["--width", "0.35", "--resolution", "32"]
MODULE = SourceNetwork.make(SMALL, None, 0).relax()
LAYERS, BLOCKS = network_layers(MODULE), network_blocks(MODULE)
GLOB = "f32-*conv-*1x1x336*"  # depthwise, linear and residual
SEARCHED = {layer for layer in LAYERS if fnmatchcase(layer.name, GLOB)}
TRIALS = 4
HERE = Machine.here()


@dataclass(frozen=True)
class Tuned:
    """A search that is over, and the folder of its logs. Copy the folder to go on from there."""

    log_dir: Path
    report: TuneReport


def short_tune(target: Target, architecture: Architecture, **options: Any) -> TuneReport:
    """`tune`, with two of the near-best in its last pass and not six: each is a whole network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnv2_tvm.search.variants._VARIANTS", 2)
        patch.setattr("mnv2_tvm.search.variants._FUSED", 2)
        return tune(target, architecture, **options)


def measure_alone(layers: Iterable[Layer], target: Target, log: TuningLog, trials: int) -> Tally:
    """The first pass of a search alone: candidates, and no whole network."""
    searches = known_layers(list(layers), target, log, HERE)
    with (
        Progress(Console(file=StringIO()), 600.0) as progress,
        Here(lambda: target) as device,
        WorkerPool(BUILDERS) as builders,
    ):
        options: dict[str, Any] = {"seed": 0, "reserve_s": 0.0, "progress": progress}
        options |= {"device": device, "builders": builders}
        return search_layers(searches, target, log, HERE, trials=trials, **options)


def lines_of(log: TuningLog) -> list[str]:
    """The whole lines of the measurements."""
    path = log.folder / MEASUREMENTS
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def parsed(lines: list[str]) -> list[Measurement]:
    return [Measurement.from_json(json.loads(line)) for line in lines]


def assert_nothing_twice(measurements: list[Measurement]) -> None:
    counts = Counter((m.layer, m.schedule) for m in measurements)
    assert max(counts.values(), default=1) == 1, counts.most_common(1)


def space_of(layer: Layer, target: Target) -> list[Schedule]:
    return list(search_space(layer, target))


def trials_of(target: Target, trials: int) -> Counter[Layer]:
    """How many points of each layer a search measures: a small space has fewer than asked for."""
    return Counter({layer: min(trials, len(space_of(layer, target))) for layer in SEARCHED})


def keep_failures(log: TuningLog, layer: Layer, schedules: list[Schedule], kind: Kind) -> None:
    """Write a measurement that failed here for each schedule."""
    log.open_for_writing()
    failure = Failure(kind, "of a test")
    for schedule in schedules:
        log.append(Measurement(layer, schedule, None, None, failure, False, HERE.provenance()))


def timed(
    layer: Layer, schedule: Schedule, median_us: float, machine: Machine | None = None
) -> Measurement:
    """A time of this host, or of another machine."""
    machine = machine or HERE
    provenance = machine.provenance()
    return Measurement(layer, schedule, median_us, 0.0, None, machine.emulated, provenance)
