"""Post-training quantisation from a user's own images: calibrate, convert, measure the loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mnv2_tvm.quantise.convert import quantise
from mnv2_tvm.quantise.float_network import FloatLayer
from mnv2_tvm.quantise.network import QuantisedNetwork
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.ranges import calibrate, hold_back
from mnv2_tvm.quantise.report import Loss, loss
from mnv2_tvm.quantise.scheme import Singles

T = TypeVar("T")

_BATCH = 4  # images at a time: the tensors of more only leave the caches


@dataclass(frozen=True, eq=False)
class Quantised:
    """A network, and what it loses on the images that were held back; None if none were."""

    network: QuantisedNetwork
    loss: Loss | None


def quantise_by_images(
    layers: tuple[FloatLayer, ...],
    items: Sequence[T],
    load: Callable[[T], Singles],
    pixels: Pixels,
    *,
    classes: Sequence[int] | None = None,
    correct_bias: bool = True,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Quantised:
    """Quantise with three of four images, and measure the loss on the others.

    `load` gives the normalised image [1, y, x, c] of an item, such as a path; `classes` are the
    right ones, of all items. `progress` is told how many images are done with, of how many. Raises
    UserError where there is no image, one is not normalised as `pixels` says, or the network cannot
    be quantised.
    """
    kept, held = hold_back(range(len(items)))

    def batches(numbers: Sequence[int], done: int) -> Iterator[Singles]:
        for start in range(0, len(numbers), _BATCH):
            batch = numbers[start : start + _BATCH]
            images = np.concatenate([load(items[number]) for number in batch])
            pixels.check(images)
            yield images
            progress(done + start + len(batch), len(kept) + len(held))

    statistics = calibrate(layers, batches(kept, 0))
    network = quantise(layers, statistics, pixels, correct_bias=correct_bias, about=about)
    if not held:
        return Quantised(network, None)
    known = None if classes is None else [classes[number] for number in held]
    return Quantised(network, loss(layers, network, batches(held, len(kept)), known))
