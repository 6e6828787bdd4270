"""Which records a build takes, where there is none for its number of threads."""

from pathlib import Path

import pytest

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Record
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.target import Target

BLOCK = Layer.parse("f32-irb-3x3s1-7x7x160-960-160-residual")


@pytest.fixture
def target() -> Target:
    return Target.load("x86-avx2")


@pytest.fixture
def log(target: Target, tmp_path: Path) -> TuningLog:
    log = TuningLog.of(target, tmp_path)
    log.open_for_writing()
    return log


def schedule_with(tasks: int, target: Target) -> Schedule:
    """One whose strips are so many."""
    space = list(search_space(BLOCK, target))
    return next(schedule for schedule in space if schedule.tasks(BLOCK) == tasks)


def keep(log: TuningLog, schedule: Schedule, threads: int) -> None:
    log.keep([Record(BLOCK, threads, schedule, 500.0, (499.0, 500.0, 501.0), 0.0, {})])


@pytest.mark.parametrize(
    ("tasks", "threads", "used"),
    [(1, 1, True), (1, 2, False), (7, 2, True), (7, 4, True), (7, 5, False), (7, 7, True)],
)
def test_a_record_for_one_thread_is_for_more_where_they_can_share_it(
    log: TuningLog, target: Target, tasks: int, threads: int, used: bool
) -> None:
    keep(log, schedule_with(tasks, target), 1)
    assert (BLOCK in Decisions.load(target, threads, log.folder.parent).tuned) == used


def test_a_record_for_the_very_number_of_threads_is_always_taken(
    log: TuningLog, target: Target
) -> None:
    whole_image = schedule_with(1, target)
    keep(log, whole_image, 2)
    assert Decisions.load(target, 2, log.folder.parent).tuned[BLOCK] == whole_image
