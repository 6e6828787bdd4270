"""Calibration: what the float network's tensors hold for some images.

The range of a tensor is its least and greatest value. Clipping to less (percentiles, least squared
error, KL divergence) loses accuracy in networks of this kind: the rare large values are what tells
classes apart. The same pass notes the mean of what each weight is multiplied with, for
`bias_correction`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from mnv2_tvm.errors import UserError
from mnv2_tvm.quantise.convolve import taps
from mnv2_tvm.quantise.float_network import FloatLayer, Visit, branch, walk
from mnv2_tvm.quantise.scheme import Doubles, Singles

T = TypeVar("T")

_HELD_BACK = 4  # one image of so many
_MOST = 64  # to calibrate with; more than 16 change the result by less than others in their place


@dataclass(eq=False)
class Statistics:
    """Of all images so far."""

    images: int = 0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # tensor: least, greatest
    # layer -> [taps, in]: the mean over images and places of what the weights are multiplied with
    means: dict[str, Doubles] = field(default_factory=dict)


def calibrate(
    layers: tuple[FloatLayer, ...],
    batches: Iterable[Singles],
) -> Statistics:
    """The statistics of normalised images, given in batches [n, y, x, c].

    Raises UserError where there is no image, or the network gives numbers that are not finite.
    """
    statistics = Statistics()
    for images in batches:
        for visit in walk(layers, images):
            _see(statistics, visit)
        statistics.images += len(images)
    if not statistics.images:
        raise UserError("there is no image to calibrate with; give one or more, best 16 or more")
    return statistics


def hold_back(items: Sequence[T]) -> tuple[list[T], list[T]]:
    """Images to calibrate with, and others to measure the loss on: every fourth is held back.

    Of a single one there is nothing to hold back. Of many, 64 from all of them calibrate.
    """
    held = [item for number, item in enumerate(items) if number % _HELD_BACK == 1]
    kept = [item for number, item in enumerate(items) if number % _HELD_BACK != 1]
    count = min(len(kept), _MOST)
    return [kept[number * len(kept) // count] for number in range(count)], held


def _see(statistics: Statistics, visit: Visit) -> None:
    _widen(statistics, visit.layer.name, visit.y)
    if visit.branch is not None:
        _widen(statistics, branch(visit.layer.name), visit.branch)
    if visit.layer.weight is not None:
        _average(statistics, visit)


def _widen(statistics: Statistics, name: str, values: Singles) -> None:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UserError(
            f"the float network gives numbers in {name} that are not finite; look at the weights "
            "and at how the images are normalised"
        )
    known = statistics.ranges.get(name, (low, high))
    statistics.ranges[name] = (min(known[0], low), max(known[1], high))


def _average(statistics: Statistics, visit: Visit) -> None:
    layer, x = visit.layer.layer, visit.inputs[0]
    border = np.zeros(layer.in_channels, np.float32)
    seen = np.stack(
        [t.mean(axis=(0, 1, 2), dtype=np.float64) for t in taps(x, layer.window, border)]
    )
    before, count, name = statistics.images, len(x), visit.layer.name
    if before:
        seen = (statistics.means[name] * before + seen * count) / (before + count)
    statistics.means[name] = seen
