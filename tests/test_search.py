"""The search on tiny layers, with its real workers: what it measures and keeps; it goes on."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from small_search import (
    BLOCKS,
    GLOB,
    LAYERS,
    SEARCHED,
    SMALL,
    TRIALS,
    Tuned,
    assert_nothing_twice,
    lines_of,
    parsed,
    short_tune,
    space_of,
    trials_of,
)

from mnv2_tvm.build import build
from mnv2_tvm.deploy.loader import load
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.tuning_log import MEASUREMENTS, TuningLog
from mnv2_tvm.target import Target
from mnv2_tvm.tune import tune


def test_searched_layers_have_measurements_inside_their_space(here: Target, tuned: Tuned) -> None:
    measurements = parsed(lines_of(TuningLog.of(here, tuned.log_dir)))
    assert_nothing_twice(measurements)
    assert Counter(m.layer for m in measurements) == trials_of(here, TRIALS)
    for layer in SEARCHED:
        mine = [m for m in measurements if m.layer == layer]
        assert default_schedule(layer, here) in {m.schedule for m in mine}
        assert {m.schedule for m in mine} <= set(space_of(layer, here))
        for m in mine:
            assert m.failure is None and m.median_us is not None and m.max_error is not None
            assert m.median_us > 0 and 0 <= m.max_error <= TOLERANCE
    tally = tuned.report.tally
    assert (tally.measured, tally.failed) == (len(measurements), 0)


def test_records_are_near_the_fastest_or_the_default(here: Target, tuned: Tuned) -> None:
    log = TuningLog.of(here, tuned.log_dir)
    records, measurements = log.records(), log.measurements()
    assert records == sorted(tuned.report.records, key=lambda record: record.layer.name)
    assert {record.layer for record in records} == SEARCHED
    for record in records:
        times = {m.schedule: m.median_us for m in measurements if m.layer == record.layer}
        near_best = (times[record.schedule] or 0) <= 1.15 * min(t for t in times.values() if t)
        assert near_best or record.schedule == default_schedule(record.layer, here)
        low, middle, high = record.samples_us
        assert 0 < low <= middle == record.median_us <= high
        assert record.threads == 1
        assert record.provenance.keys() >= {"cpu", "date", "mnv2-tvm", "apache-tvm"}
    assert min(tuned.report.result.default_ms, tuned.report.result.tuned_ms) > 0


def test_records_replay(here: Target, tuned: Tuned, tmp_path: Path) -> None:
    decisions = Decisions.load(here, 1, tuned.log_dir)
    for record in tuned.report.records:
        assert decisions(record.layer) == record.schedule
    network = SourceNetwork.make(SMALL, None, 7)
    manifest = build(here, network, tmp_path / "out", decisions=decisions)
    sources = {Layer.parse(row["name"]): row["source"] for row in manifest.layers}
    assert {layer for layer, source in sources.items() if source == "tuned"} == SEARCHED
    images = network.images(1)
    logits = load(tmp_path / "out")(images)
    assert relative_error(logits, network.reference(images)) <= TOLERANCE


def test_second_search_goes_on_after_a_cut_line(
    here: Target, tuned: Tuned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine went down while it wrote the last line: that one is measured again."""
    log_dir = tmp_path / "logs"
    shutil.copytree(tuned.log_dir, log_dir)
    log = TuningLog.of(here, log_dir)
    path = log.folder / MEASUREMENTS
    path.write_bytes(path.read_bytes()[:-30])
    *whole, cut = lines_of(log)
    number = len(whole) + 1

    report = short_tune(here, SMALL, layer=GLOB, trials=TRIALS + 1, log_dir=log_dir)
    assert f"warning: {path}:{number}: skipped: " in capsys.readouterr().err
    lines = lines_of(log)
    assert lines[:number] == [*whole, f"{cut}\n"]
    measurements = parsed(whole + lines[number:])
    assert_nothing_twice(measurements)
    assert Counter(m.layer for m in measurements) == trials_of(here, TRIALS + 1)
    assert report.tally.measured == len(measurements) - len(whole) > 1
    assert {record.layer for record in log.records()} == SEARCHED


def test_layer_without_match_names_the_layers(here: Target, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no layer matches 'f32-lstm\*'") as caught:
        tune(here, SMALL, layer="f32-lstm*", log_dir=tmp_path)
    assert str(caught.value).splitlines()[1:] == sorted(
        {f"  {layer.name}" for layer in LAYERS + BLOCKS}
    )


def test_a_target_of_another_machine_is_refused(here: Target, tmp_path: Path) -> None:
    needs = replace(here.host, features=("avx1024",))
    with pytest.raises(UserError, match=f"cannot run {here.name}: it needs .*avx1024"):
        tune(replace(here, host=needs), SMALL, log_dir=tmp_path)
    assert not list(tmp_path.iterdir())
