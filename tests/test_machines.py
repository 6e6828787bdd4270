"""Times of several machines in one log: each is served from its own, and learns from the others."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_search import HERE, SEARCHED, keep_failures, space_of, timed

from mnv2_tvm.cli import plain_console
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import Timing, judged
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Record
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.records.tuning_log import RECORDS, TuningLog
from mnv2_tvm.search.cost_model import CostModel
from mnv2_tvm.search.in_network import _possible
from mnv2_tvm.search.layers import known_layers
from mnv2_tvm.show import show
from mnv2_tvm.target import Target

LAYER = next(layer for layer in sorted(SEARCHED, key=str) if layer.operator == "pwconv")
OTHERS = [
    replace(HERE, cpu="A faster CPU"),
    replace(HERE, versions=("0.0.9", HERE.versions[1])),
    replace(HERE, versions=(HERE.versions[0], "0.26.0")),
    replace(HERE, emulated=True),
    Machine(),  # a line of 0.1.0, which does not tell
]


@pytest.fixture
def log(here: Target, tmp_path: Path) -> TuningLog:
    log = TuningLog.of(here, tmp_path)
    log.open_for_writing()
    return log


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_times_of_another_machine_do_not_rank(here: Target, log: TuningLog, other: Machine) -> None:
    first, second, *_ = space_of(LAYER, here)
    log.append(timed(LAYER, first, 50.0))
    log.append(timed(LAYER, second, 5.0, other))
    (mine,) = known_layers([LAYER], here, log, HERE)
    (theirs,) = known_layers([LAYER], here, log, other)
    assert (mine.best and mine.best.schedule, mine.best_us) == (first, 50.0)
    assert (theirs.best and theirs.best.schedule, theirs.best_us) == (second, 5.0)
    assert [m.schedule for m in mine.elsewhere] == [second] and second in mine.unmeasured()


def test_times_of_another_machine_teach_the_cost_model(here: Target) -> None:
    """Ten times as fast in all: raw times would teach the machine and not the schedule."""
    layer = Layer.parse("f32-pwconv-28x28x144-32-linear")
    space = space_of(layer, here)
    times = {schedule: 20.0 + 5 * index for index, schedule in enumerate(space)}
    slow, fast = OTHERS[0], HERE
    known = [timed(layer, s, times[s], slow) for s in space[::2]]
    model = CostModel(here, seed=0)
    model.fit([*known, *(timed(layer, s, times[s] / 10, fast) for s in space[-4:])])
    ranked = [times[schedule] for schedule in model.rank(layer, space[1:-4:2][::-1])]
    third = len(ranked) // 3
    assert third > 5 and sum(ranked[:third]) < sum(ranked[-third:])


def record(layer: Layer, target: Target, point: int, **changes: object) -> Record:
    """Of this host, unless `changes` say otherwise."""
    schedule = space_of(layer, target)[point]
    mine = Record(layer, 1, schedule, 50.0, (49.0, 50.0, 51.0), 0.0, HERE.provenance())
    return replace(mine, **changes)  # type: ignore[arg-type]


def test_each_machine_keeps_its_own_record(here: Target, log: TuningLog) -> None:
    mine = record(LAYER, here, 0)
    theirs = record(LAYER, here, 1, median_us=5.0, provenance={"cpu": "Z", "date": "2999-01-01"})
    log.keep([theirs])
    only_theirs = Decisions.load(here, 1, log.folder.parent)
    assert (only_theirs(LAYER), only_theirs.source(LAYER)) == (theirs.schedule, "tuned elsewhere")
    log.keep([mine])
    assert len((log.folder / RECORDS).read_text().splitlines()) == 2
    for cpu, wanted in ((None, mine), ("Z", theirs)):
        decisions = Decisions.load(here, 1, log.folder.parent, cpu)
        assert decisions.records[LAYER] == wanted
        assert (decisions(LAYER), decisions.source(LAYER)) == (wanted.schedule, "tuned")


def test_an_emulated_record_is_never_tuned_here(here: Target, log: TuningLog) -> None:
    log.keep([record(LAYER, here, 0, emulated=True)])
    assert Decisions.load(here, 1, log.folder.parent).source(LAYER) == "tuned elsewhere"


def test_show_names_the_record_that_is_used(here: Target, log: TuningLog) -> None:
    """Not one that `build` passes over: stale, impossible, or bad for so many threads."""
    layer = Layer.parse("f32-irb-3x3s1-7x7x160-960-160-residual")
    whole = next(i for i, s in enumerate(space_of(layer, here)) if s.tasks(layer) == 1)
    log.keep([record(layer, here, whole, median_us=9e3)])
    shown = {n: show(layer, here, threads=n, log_dir=log.folder.parent) for n in (1, 8)}
    assert shown[1].record is not None and shown[1].source == "tuned"
    assert shown[8].record is None and shown[8].source == "default"


IMPOSSIBLE_US = [-1.0, 0.0, 1e-7, float("inf"), float("nan")]


@pytest.mark.parametrize("us", IMPOSSIBLE_US)
def test_an_impossible_time_is_a_failure(here: Target, us: float) -> None:
    result = judged(Timing(us, 0.0, board="one"), LAYER, here)
    assert isinstance(result, Failure)
    assert (result.kind, result.board) == (Kind.IMPOSSIBLE, "one")
    assert judged(Timing(99.0, 0.0), LAYER, here) == Timing(99.0, 0.0)


@pytest.mark.parametrize("us", IMPOSSIBLE_US)
def test_a_variant_with_an_impossible_time_is_left_out(
    here: Target, us: float, quiet: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, bad = ({}, {LAYER: [99.0, 98.0]}), ({}, {LAYER: [us, us]})
    assert _possible([bad, sound], here, 1, quiet) == [sound]  # type: ignore[list-item]
    warning = capsys.readouterr().out
    assert warning.startswith("warning: ") and LAYER.name in warning
    with pytest.raises(UserError):
        _possible([bad], here, 1, quiet)  # type: ignore[list-item]


@pytest.fixture
def quiet() -> Progress:
    return Progress(plain_console(width=500), 60)


def test_impossible_times_in_a_log_are_not_used(
    here: Target, log: TuningLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log.append(timed(LAYER, space_of(LAYER, here)[0], 1e-7))
    (search,) = known_layers([LAYER], here, log, HERE)
    assert search.best is None and not search.elsewhere
    log.keep([record(LAYER, here, 0, median_us=1e-7)])
    assert Decisions.load(here, 1, log.folder.parent).source(LAYER) == "default"
    assert f"{log.folder / RECORDS}: the record of {LAYER.name}" in capsys.readouterr().err


def test_a_layer_without_a_right_candidate_is_tried_anew(here: Target, log: TuningLog) -> None:
    """And what timed out comes last, when it is tried again."""
    space = space_of(LAYER, here)
    keep_failures(log, LAYER, space[:2], Kind.WRONG_NUMBERS)
    (search,) = known_layers([LAYER], here, log, HERE)
    assert search.unmeasured() == space
    keep_failures(log, LAYER, space[2:3], Kind.TIMEOUT)
    log.append(timed(LAYER, space[3], 99.0))
    (search,) = known_layers([LAYER], here, log, HERE)
    assert search.times.keys() == {*space[:2], space[3]} and search.late == {space[2]}
