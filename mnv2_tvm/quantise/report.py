"""What int8 costs: its logits beside those of the float network, and the layers that lose most."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.errors import UserError
from mnv2_tvm.quantise import reference
from mnv2_tvm.quantise.float_network import INPUT, FloatLayer, Visit, walk
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.scheme import Bytes, Singles


@dataclass(frozen=True)
class LayerLoss:
    """Of one layer by itself: its input is the float network's, rounded to bytes."""

    name: str
    decibels: float  # signal to noise: the float network's output over the difference from it


@dataclass(frozen=True)
class Loss:
    """Over images that calibration did not see, if the caller kept them apart."""

    images: int
    agreeing: int  # images of which the best class is the float network's
    decibels: float  # signal to noise of the logits
    layers: tuple[LayerLoss, ...]  # the one that loses most first
    # Of images with known classes: how many of them each network names rightly.
    right: int | None = None
    float_right: int | None = None

    @property
    def agreement(self) -> float:
        """Share of the images with the same best class."""
        return self.agreeing / self.images


def loss(
    layers: tuple[FloatLayer, ...],
    network: QuantisedNetwork,
    batches: Iterable[Singles],
    classes: Sequence[int] | None = None,
) -> Loss:
    """The loss over normalised images, given in batches [n, y, x, c].

    `classes` are the right ones, an image each. Raises UserError where there is no image.
    """
    quantised = {layer.name: layer for layer in network.layers}
    logits = _Power()
    powers = {name: _Power() for name in quantised}
    best, float_best = list[int](), list[int]()
    for batch in batches:
        for visit in walk(layers, batch):
            alone = _alone(network, quantised[visit.layer.name], visit)
            powers[visit.layer.name].add(visit.y, alone)
        exact = visit.y.reshape(len(batch), -1)
        got = reference.logits(network, network.pixels.bytes_of(batch))
        logits.add(exact, got)
        best += got.argmax(axis=1).tolist()
        float_best += exact.argmax(axis=1).tolist()
    if not best:
        raise UserError("there is no image to measure the loss of int8 on; give two or more")
    found = [LayerLoss(name, power.decibels) for name, power in powers.items()]
    worst_first = tuple(sorted(found, key=lambda layer: layer.decibels))
    right = [None if classes is None else _equal(b, classes) for b in (best, float_best)]
    return Loss(len(best), _equal(best, float_best), logits.decibels, worst_first, *right)


def decibels(exact: NDArray[np.floating[Any]], got: NDArray[np.floating[Any]]) -> float:
    """Signal to noise: 10 log10(sum exact^2 / sum (got - exact)^2)."""
    power = _Power()
    power.add(exact, got)
    return power.decibels


def _equal(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


class _Power:
    """Of a signal and of the noise on it, summed over batches."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def add(self, exact: NDArray[np.floating[Any]], got: NDArray[np.floating[Any]]) -> None:
        wide = exact.astype(np.float64)
        self._signal += float((wide**2).sum())
        self._noise += float(((got - wide) ** 2).sum())

    @property
    def decibels(self) -> float:
        if not self._noise:
            return inf
        return 10 * log10(self._signal / self._noise) if self._signal else -inf


def _alone(network: QuantisedNetwork, layer: QuantisedLayer, visit: Visit) -> NDArray[Any]:
    """The layer's output in real numbers, for the float network's tensors rounded to bytes."""
    reads = zip(layer.reads, visit.inputs, strict=True)
    y = reference.output(network, layer, *(_stored(network, name, real) for name, real in reads))
    tensor = network.tensors.get(layer.name)
    return y if tensor is None else tensor.real(y)  # type: ignore[arg-type]


def _stored(network: QuantisedNetwork, name: str, real: Singles) -> Bytes:
    if name == INPUT:
        return network.pixels.bytes_of(real)
    return network.tensors[name].quantise(real)
