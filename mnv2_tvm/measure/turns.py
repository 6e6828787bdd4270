"""Timing several networks in turn, so that a moment's disturbance meets all of them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.device import Network
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE, relative_error

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


def profile_in_turn(
    folders: Sequence[Path],
    networks: Sequence[Network],
    seed: int,
    seconds: float,
    *,
    rounds: int = 12,
    runs: int = 11,
) -> list[np.ndarray]:
    """Seconds [run, layer] of each network, after its numbers were checked.

    `folders` are those of the networks, which are one network with other schedules and random
    weights. Raises DeviceError for wrong numbers.
    """
    source = SourceNetwork.of_library(networks[0].manifest, None)
    images = source.images(seed)
    reference = source.reference(images)
    for folder, network in zip(folders, networks, strict=True):
        error = relative_error(network(images), reference)
        if error > TOLERANCE:
            where = f" on the board at {network.board}" if network.board else ""
            words = f"the library in {folder} is off by {error:.1e}{where}"
            raise DeviceError(Kind.WRONG_NUMBERS, words, network.board)

    def profile(network: Network) -> Callable[[int], np.ndarray]:
        return lambda count: network.layers_s(images, count)

    turns = in_turn(list(map(profile, networks)), seconds, rounds=rounds, runs=runs)
    return [np.concatenate(parts) for parts in turns]
