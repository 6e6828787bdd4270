"""The shipped records: current, complete, and right when they are built again."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tvm
from conftest import machines, skip_if_not_runnable

from mnv2_tvm.data import data_folder
from mnv2_tvm.kernels import schedule_class
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE
from mnv2_tvm.pipeline import network_blocks, network_layers
from mnv2_tvm.search.candidate import build_candidate, measure_candidate
from mnv2_tvm.search.entries import Record
from mnv2_tvm.search.records import RECORDS, Decisions
from mnv2_tvm.target import Target

COMMAND = "python -m mnv2_tvm.tune --log-dir tuning_logs --target"
FILES = sorted(data_folder("tuning_logs").glob(f"*/{RECORDS}"))
LINES = [
    pytest.param(path.parent.name, line, id=f"{path.parent.name}-{number}")
    for path in FILES
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
]


@functools.cache
def layer_names() -> set[str]:
    """The layers and blocks of MobileNetV2-1.0-224."""
    module = SourceNetwork.make(Architecture(1.0, 224), None, 0).relax()
    return {layer.name for layer in network_layers(module) + network_blocks(module)}


def record_of(line: str) -> Record:
    """Not one line may be broken: `TuningLog.records` would only skip it."""
    table: dict[str, Any] = json.loads(line)
    return Record.from_json(table)


@pytest.mark.parametrize("target_name", ["x86-avx2", "x86-avx512"])
def test_records_cover_the_network(target_name: str) -> None:
    """Every layer and every block of it has one of its own."""
    path = data_folder("tuning_logs") / target_name / RECORDS
    assert path.is_file(), f"run {COMMAND} {target_name}"
    records = [record_of(line) for line in path.read_text(encoding="utf-8").splitlines()]
    tuned = {record.layer.name for record in records if record.threads == 1}
    assert layer_names() - tuned == set()


def test_logs_are_of_targets() -> None:
    assert {path.parent.name for path in FILES} <= set(machines())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_one_record_for_each_layer_thread_count_and_cpu(path: Path) -> None:
    records = [record_of(line) for line in path.read_text(encoding="utf-8").splitlines()]
    keys = [record.key for record in records]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize(("target_name", "line"), LINES)
def test_record_is_current(target_name: str, line: str) -> None:
    record, target = record_of(line), Target.load(target_name)
    if record.schedule is None:  # a block that is faster layer by layer
        assert record.layer.parts != (record.layer,)
        return
    space = schedule_class(record.layer).space(record.layer, target)
    assert record.schedule in space, f"stale: run {COMMAND} {target_name}"


@pytest.mark.parametrize(("target_name", "line"), LINES)
def test_record_says_where_it_comes_from(target_name: str, line: str) -> None:
    record = record_of(line)
    assert record.provenance["cpu"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", record.provenance["date"])
    assert record.provenance["apache-tvm"] == tvm.__version__
    low, middle, high = record.samples_us
    assert 0 < low <= middle == record.median_us <= high
    assert 0 <= record.max_error <= TOLERANCE


@pytest.mark.parametrize(("target_name", "line"), LINES)
def test_record_gives_the_numbers_of_torch(target_name: str, line: str, tmp_path: Path) -> None:
    record, target = record_of(line), Target.load(target_name)
    skip_if_not_runnable(target)
    layer, schedule = record.layer, record.schedule
    if schedule is None:  # its layers have records of their own
        assert all(Decisions.load(target, 1).source(part) != "default" for part in layer.parts)
        return
    library = build_candidate(layer, schedule, target, tmp_path / "record.so")
    assert measure_candidate(layer, schedule, library).max_error <= TOLERANCE
