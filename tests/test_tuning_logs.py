"""The shipped records: current, complete, and right when they are built again."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tvm
from conftest import machines

from mnv2_tvm.data import data_folder
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import build_candidate, measure_candidate
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE
from mnv2_tvm.pipeline import network_blocks, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Record
from mnv2_tvm.records.tuning_log import RECORDS
from mnv2_tvm.target import Target

COMMAND = "python -m mnv2_tvm.tune --log-dir tuning_logs --target"
FILES = sorted(data_folder("tuning_logs").glob(f"*/{RECORDS}"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)


def records_of(path: Path) -> list[Record]:
    """Not one line may be broken: `TuningLog.records` would only skip it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Record.from_json(json.loads(line)) for line in lines]


def tuned_layers() -> list[Any]:
    """(target, layer) for each with a schedule; one skip for a target that this host cannot run."""
    parameters = []
    for path in FILES:
        target = Target.load(path.parent.name)
        if lacking := target.missing_here():
            skip = pytest.mark.skip(reason=f"{target.name} needs {', '.join(lacking)}")
            parameters.append(pytest.param(path, None, id=target.name, marks=skip))
            continue
        layers = dict.fromkeys(r.layer for r in records_of(path) if r.schedule is not None)
        parameters += [pytest.param(path, lay, id=f"{target.name}-{lay.name}") for lay in layers]
    return parameters


@functools.cache
def layer_names() -> set[str]:
    """The layers and blocks of MobileNetV2-1.0-224."""
    module = SourceNetwork.make(Architecture(1.0, 224), None, 0).relax()
    return {layer.name for layer in network_layers(module) + network_blocks(module)}


@pytest.mark.parametrize("target_name", ["x86-avx2", "x86-avx512"])
def test_records_cover_the_network(target_name: str) -> None:
    """Every layer and every block of it has one of its own."""
    path = data_folder("tuning_logs") / target_name / RECORDS
    assert path.is_file(), f"run {COMMAND} {target_name}"
    tuned = {record.layer.name for record in records_of(path) if record.threads == 1}
    assert layer_names() - tuned == set()


def test_logs_are_of_targets() -> None:
    assert {path.parent.name for path in FILES} <= set(machines())


@each_file
def test_one_record_for_each_layer_thread_count_and_cpu(path: Path) -> None:
    keys = [record.key for record in records_of(path)]
    assert keys == sorted(set(keys))


@each_file
def test_records_are_current(path: Path) -> None:
    """And a block without a schedule, faster layer by layer, has layers that are tuned."""
    target = Target.load(path.parent.name)
    decisions = Decisions.load(target, 1)
    for record in records_of(path):
        layer = record.layer
        if record.schedule is None:
            assert layer.parts != (layer,), layer.name
            assert all(decisions.source(part) != "default" for part in layer.parts), layer.name
            continue
        space = list(search_space(layer, target))
        assert record.schedule in space, f"{layer.name} is stale: run {COMMAND} {target.name}"


@each_file
def test_records_say_where_they_come_from(path: Path) -> None:
    for record in records_of(path):
        assert record.provenance["cpu"], record.key
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", record.provenance["date"]), record.key
        assert record.provenance["apache-tvm"] == tvm.__version__, record.key
        low, middle, high = record.samples_us
        assert 0 < low <= middle == record.median_us <= high, record.key
        assert 0 <= record.max_error <= TOLERANCE, record.key


@pytest.mark.parametrize(("path", "layer"), tuned_layers())
def test_records_give_the_right_numbers(path: Path, layer: Layer, tmp_path: Path) -> None:
    target = Target.load(path.parent.name)
    schedules = {record.schedule for record in records_of(path) if record.layer == layer} - {None}
    assert schedules
    for number, schedule in enumerate(schedules):
        library = build_candidate(layer, schedule, target, tmp_path / f"record{number}.so")
        assert measure_candidate(layer, schedule, library).max_error <= TOLERANCE, str(schedule)
