"""What a search knows of a layer: its times, its best, what was tried, and when it is done."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_search import SEARCHED, keep_failures, space_of

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.search.layers import LayerSearch, known_layers
from mnv2_tvm.search.records import Measurement, TuningLog
from mnv2_tvm.target import Target


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        ("wrong numbers: relative error 1.0e+00", False),
        ("timeout: no answer within 20 s", False),
        ("crash: the process ended with SIGSEGV.", False),
        ("error: UserError: ld.lld failed (_run in link.py:43)", True),
        ("link: no board is left", True),
        ("upload: the board cannot load it", True),
    ],
)
def test_what_failed_is_not_chosen(here: Target, tmp_path: Path, failure: str, again: bool) -> None:
    """Nor is it tried again, unless it was not the candidate that failed."""
    layer = next(iter(SEARCHED))
    space, log = space_of(layer, here), TuningLog.of(here, tmp_path)
    keep_failures(log, layer, space[:3], failure)
    slow = Measurement(layer, space[3], 1e9, 0.0, None)
    log.append(slow)
    (search,) = known_layers([layer, layer], here, log)
    assert search.best == slow
    assert search.near_best(9, 1e9) == [slow]
    assert search.unmeasured() == (space[:3] if again else []) + space[4:]


def test_a_point_that_left_the_space_is_not_chosen(here: Target, tmp_path: Path) -> None:
    layer = next(layer for layer in SEARCHED if layer.operator == "pwconv")
    log = TuningLog.of(here, tmp_path)
    log.open_for_writing()
    stale = replace(default_schedule(layer, here), tile_m=here.vector.registers + 1)  # type: ignore[call-arg]
    log.append(Measurement(layer, stale, 1e-3, 0.0, None))
    (search,) = known_layers([layer], here, log)
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
    return [Measurement(layer, schedule, 1.0, 0.0, None) for schedule in schedules]
