"""A quantised network in plain numpy, by `scheme` to the last bit: what every kernel is held to.

The sums are of integers held as floats: below 2^53 in float64, and below 2^24 in float32, each is
exact in whatever order they are added, and can be left to a fast matrix multiplication.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.quantise import scheme
from mnv2_tvm.quantise.convolve import convolve
from mnv2_tvm.quantise.float_network import INPUT
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.scheme import Bytes, Singles


def logits(network: QuantisedNetwork, images: Bytes) -> Singles:
    """float32 [n, classes] for the bytes of images [n, y, x, c]."""
    for _, y in outputs(network, images):
        last = y
    return last.reshape(len(images), -1)  # type: ignore[return-value]


def outputs(
    network: QuantisedNetwork, images: Bytes
) -> Iterator[tuple[QuantisedLayer, Bytes | Singles]]:
    """Each layer with what it gives for the bytes of images [n, y, x, c]: bytes, or the logits.

    A tensor is let go as soon as no later layer reads it.
    """
    tensors: dict[str, Bytes] = {INPUT: images}
    last = {name: layer.name for layer in network.layers for name in layer.reads}
    for layer in network.layers:
        y = output(network, layer, *(tensors[name] for name in layer.reads))
        yield layer, y
        tensors[layer.name] = y  # type: ignore[assignment]
        for name in layer.reads:
            if last[name] == layer.name:
                tensors.pop(name, None)


def output(
    network: QuantisedNetwork, layer: QuantisedLayer, x: Bytes, residual: Bytes | None = None
) -> Bytes | Singles:
    """What one layer gives for x [n, y, x, c]: bytes [n, y, x, c], or the logits in float32."""
    if layer.scales is None:
        return _mean(network, layer, x)
    acc = accumulators(network, layer, x)
    product = network.product(layer)
    if product is None:
        return scheme.logits(acc, network.x_scale(layer), layer.scales)
    p = scheme.requantise(acc, network.multiplier(layer), product)
    if residual is None:
        return p
    x_as, y_as = network.tensors[layer.reads[1]], network.tensors[layer.name]
    return scheme.add_residual(p, product, residual, x_as, y_as)


def accumulators(network: QuantisedNetwork, layer: QuantisedLayer, x: Bytes) -> NDArray[np.int32]:
    """bias + sum x * w: int32 [n, y, x, out]."""
    assert layer.weight is not None and layer.bias is not None
    largest = 255 * np.abs(layer.weight.astype(np.int64)).sum(axis=(0, 1)).max()
    exact = np.float32 if largest < 2**24 else np.float64
    operands = (array.astype(exact) for array in (x, layer.weight, border(network, layer)))
    x_as_floats, weight, outside = operands
    sums = convolve(x_as_floats, layer.layer, weight, outside)
    return sums.astype(np.int32) + layer.bias


def border(network: QuantisedNetwork, layer: QuantisedLayer) -> Bytes:
    """What lies outside the layer's input: [in]."""
    name = layer.reads[0]
    if name == INPUT:
        return network.pixels.border
    return np.full(layer.layer.in_channels, network.tensors[name].zero_point, np.uint8)


def _mean(network: QuantisedNetwork, layer: QuantisedLayer, x: Bytes) -> Bytes:
    sums = x.astype(np.int64).sum(axis=(1, 2), keepdims=True)
    pixels = layer.layer.height * layer.layer.width
    return scheme.mean(sums, pixels, network.tensors[layer.reads[0]], network.tensors[layer.name])
