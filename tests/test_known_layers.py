"""What a search knows of a layer: its times, its best, what was tried, and when it is done."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_search import HERE, SEARCHED, keep_failures, space_of, timed

from mnv2_tvm.failures import Kind
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.records.entries import Measurement
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.search.layers import LayerSearch, known_layers
from mnv2_tvm.target import Target


@pytest.mark.parametrize(
    ("kind", "again"),
    [
        (Kind.WRONG_NUMBERS, False),
        (Kind.CRASH, False),
        (Kind.TIMEOUT, True),
        (Kind.ERROR, True),
        (Kind.LINK, True),
        (Kind.UPLOAD, True),
        (Kind.IMPOSSIBLE, True),
    ],
)
def test_what_failed_is_not_chosen(here: Target, tmp_path: Path, kind: Kind, again: bool) -> None:
    """Nor is it tried again, unless it was not the candidate that failed, or may not have been."""
    layer = next(iter(SEARCHED))
    space, log = space_of(layer, here), TuningLog.of(here, tmp_path)
    keep_failures(log, layer, space[:3], kind)
    slow = timed(layer, space[3], 1e9)
    log.append(slow)
    (search,) = known_layers([layer, layer], here, log, HERE)
    assert search.best == slow
    assert search.near_best(9, 1e9) == [slow]
    assert search.unmeasured() == (space[:3] if again else []) + space[4:]


def test_a_point_that_left_the_space_is_not_chosen(here: Target, tmp_path: Path) -> None:
    layer = next(layer for layer in SEARCHED if layer.operator == "pwconv")
    log = TuningLog.of(here, tmp_path)
    log.open_for_writing()
    stale = replace(default_schedule(layer, here), tile_m=here.vector.registers + 1)  # type: ignore[call-arg]
    log.append(timed(layer, stale, 99.0))
    (search,) = known_layers([layer], here, log, HERE)
    assert search.best is None
    assert search.times == {}


def test_a_layer_is_done_after_its_trials_or_without_gain(here: Target) -> None:
    layer = next(iter(SEARCHED))
    space = space_of(layer, here)
    search = LayerSearch(layer, space, space[0])
    assert not search.done(trials=1)
    assert len(space) > 2
    search.times = {m.schedule: m for m in measured_alike(layer, space[:2])}
    assert search.done(trials=2) and not search.done(trials=3)
    search.idle_batches = 2
    assert search.done(trials=3)
    search.idle_batches = 0
    search.times = {m.schedule: m for m in measured_alike(layer, space)}
    assert search.done(trials=len(space) + 100)
    assert search.unmeasured() == []


def measured_alike(layer: Layer, schedules: list[Schedule]) -> list[Measurement]:
    return [timed(layer, schedule, 99.0) for schedule in schedules]
