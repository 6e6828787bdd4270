"""Timing in turn: as many rounds as fit into the time, and at least one run of each."""

import time
from collections.abc import Callable

import pytest

from mnv2_tvm.measure.turns import in_turn

RUN_S = 0.01


def network(calls: list[int]) -> Callable[[int], int]:
    def profile(runs: int) -> int:
        time.sleep((runs + 1) * RUN_S)
        calls.append(runs)
        return runs

    return profile


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0])
def test_the_time_bounds_the_rounds(seconds: float) -> None:
    calls: list[int] = []
    start = time.monotonic()
    first, second = in_turn([network(calls)] * 2, seconds, rounds=50, runs=12)
    took_s = time.monotonic() - start
    assert first == second and min(first) >= 1
    assert took_s < max(seconds, 4 * RUN_S) + 1.0  # a loaded machine sleeps longer
    assert sum(first) <= max(1, seconds / RUN_S / 2)


def test_with_time_enough_all_rounds_are_run() -> None:
    assert in_turn([lambda runs: runs], 60, rounds=5, runs=7) == [[7] * 5]
