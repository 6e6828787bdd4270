"""Tuning and benchmarking on an emulated board: the whole road, and what its times are not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from device_boards import wait_for_boards, way
from small_search import short_tune

from mnv2_tvm import load
from mnv2_tvm.bench import bench
from mnv2_tvm.build import build
from mnv2_tvm.devices.rpc.remote_network import RemoteNetwork
from mnv2_tvm.devices.rpc.session import Address, Session
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.bench import Plan
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Measurement
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.search.layers import known_layers
from mnv2_tvm.target import Target
from mnv2_tvm.tune import tune

TINY = Architecture(0.35, 32, classes=10)
LAYERS = "f32-dwconv-3x3s1-?x?x*"


def test_search_build_bench_and_run_on_an_emulated_board(rasp4: Address, tmp_path: Path) -> None:
    """The whole road: 40 candidates, then the library that `build` writes, uploaded and timed."""
    target = Target.load("rasp4")
    report = short_tune(
        target,
        TINY,
        trials=10,
        layer=LAYERS,
        log_dir=tmp_path / "logs",
        on=[way(rasp4)],
        time_budget_s=500,
    )
    assert report.tally.measured >= 40 and report.tally.failed == 0
    log = TuningLog.of(target, tmp_path / "logs")
    assert all(one.emulated for one in log.measurements())
    assert all(record.emulated and record.cpu for record in report.records)

    source = SourceNetwork.make(TINY, None, 3)
    decisions = Decisions.load(target, 1, tmp_path / "logs")
    manifest = build(target, source, tmp_path / "board", decisions=decisions)
    assert manifest.flops_share["tuned elsewhere"] > 0 == manifest.flops_share["tuned"]
    wait_for_boards(rasp4.tracker, rasp4.key)
    plan = Plan(6, 1, per_layer=True)
    result = bench(tmp_path / "board", source, plan, on=way(rasp4))
    assert result.emulated and any("emulated" in warning for warning in result.warnings)
    assert [row.name for row in result.layers] == [row["name"] for row in manifest.layers]
    assert json.loads(result.to_json())["emulated"] is True

    build(Target.load("host"), source, tmp_path / "here")
    images = source.images(1)
    wait_for_boards(rasp4.tracker, rasp4.key)
    remote = RemoteNetwork(Session(rasp4), tmp_path / "board")
    assert relative_error(remote(images), load(tmp_path / "here")(images)) < 1e-4


def test_emulated_times_stay_out_of_the_shipped_logs(rasp4: Address) -> None:
    wait_for_boards(rasp4.tracker, rasp4.key)
    with pytest.raises(UserError, match=r"tracker:\S+ is emulated.*--log-dir"):
        tune(Target.load("rasp4"), TINY, on=[way(rasp4)])


def test_emulated_times_are_not_known_to_a_search_on_hardware(tmp_path: Path) -> None:
    target = Target.load("rasp4")
    layer = Layer.parse("f32-pwconv-4x4x16-96")
    schedule = default_schedule(layer, target)
    log = TuningLog(tmp_path)
    machines = [replace(Machine.here(), emulated=emulated) for emulated in (False, True)]
    provenance = machines[0].provenance()
    log.append(Measurement(layer, schedule, 1.0, 0.0, None, True, provenance))
    (real,), (emulated,) = (known_layers([layer], target, log, one) for one in machines)
    assert not real.times and list(emulated.times) == [schedule]


def test_wrong_numbers_on_a_board_give_no_times(rasp4: Address, tmp_path: Path) -> None:
    build(Target.load("rasp4"), SourceNetwork.make(TINY, None, 1), tmp_path / "out")
    wait_for_boards(rasp4.tracker, rasp4.key)
    with pytest.raises(UserError, match="wrong numbers"):
        bench(tmp_path / "out", SourceNetwork.make(TINY, None, 2), Plan(2), on=way(rasp4))
