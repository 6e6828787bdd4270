"""Timing several networks in turn, so that a moment's disturbance meets all of them."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turn(
    networks: Sequence[Callable[[int], T]], seconds: float, *, rounds: int, runs: int
) -> list[list[T]]:
    """What each gives in each round, called with a number of runs; one more warms it up.

    At most `rounds` of at most `runs`, and no more than fit into `seconds`; at least one run.
    """
    start = time.monotonic()
    turns = [[profile(1) for profile in networks]]
    took_s = time.monotonic() - start
    left_s = seconds - took_s
    count = max(1, min(runs, int(2 * left_s / took_s) - 1))
    took_s *= (count + 1) / 2
    for _ in range(rounds):
        before = time.monotonic()
        if before + took_s > start + seconds:
            break
        turns.append([profile(count) for profile in networks])
        took_s = time.monotonic() - before
    kept = turns[1:] or turns  # the first shows how long one takes; only if there is no other ...
    return [list(results) for results in zip(*kept, strict=True)]
