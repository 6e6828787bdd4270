"""What a quantised network must hold, so that every machine computes the same numbers from it.

An accumulator and each of its partial sums, in any order, fits int32. What is rounded to an integer
is below 2^31: beyond, the conversions of machines differ. A real network is far from both.
"""

from collections.abc import Iterator

import numpy as np

from mnv2_tvm.quantise.float_network import branch
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.scheme import LARGEST_WEIGHT, SMALLEST_SCALE, Doubles

LARGEST_SCALE = 2.0**30  # with the smallest, no ratio of two scales is a subnormal

_BYTE = 256  # more than any byte, also one stored as int8 whose bias takes the difference of 128
_LARGEST_INT32 = 2**31 - 1
_LARGEST_ROUNDED = 2.0**30  # of what is rounded; half of what can be, for f32() and the zero point
_LARGEST_RELU6 = 6 * (1 + 1e-6)  # 255 times a scale that is rounded to float32


def largest_accumulators(layer: QuantisedLayer) -> Doubles:
    """A bound of |acc| for each output channel, whatever the bytes: [out]."""
    assert layer.weight is not None and layer.bias is not None
    weights = np.abs(layer.weight.astype(np.int64)).sum(axis=(0, 1))
    bound: Doubles = (np.abs(layer.bias.astype(np.int64)) + _BYTE * weights).astype(np.float64)
    return bound


def least_scale(layer: QuantisedLayer, x_scale: float) -> float:
    """Of what the layer's accumulators, or the sums of the mean, are requantised to."""
    if layer.scales is None:
        return max(SMALLEST_SCALE, x_scale * _BYTE / _LARGEST_ROUNDED)
    largest = float((largest_accumulators(layer) * layer.scales.astype(np.float64)).max())
    return max(SMALLEST_SCALE, x_scale * largest / _LARGEST_ROUNDED)


def least_sum_scale(p_scale: float, x_scale: float) -> float:
    """Of the sum of a residual addition."""
    return max(SMALLEST_SCALE, (p_scale + x_scale) * _BYTE / _LARGEST_ROUNDED)


def fault(network: QuantisedNetwork) -> str | None:
    """What is beyond the bounds in a network whose layers fit together; None if nothing is."""
    return next(_faults(network), None)


def _faults(network: QuantisedNetwork) -> Iterator[str]:
    for name, tensor in network.tensors.items():
        if not SMALLEST_SCALE <= tensor.scale <= LARGEST_SCALE:
            yield f"the scale of {name} is {tensor.scale:g}"
        if not 0 <= tensor.zero_point <= 255:
            yield f"the zero point of {name} is {tensor.zero_point}"
    for layer in network.layers:
        yield from _faults_of_weights(layer)
        yield from _faults_of_output(network, layer)


def _faults_of_weights(layer: QuantisedLayer) -> Iterator[str]:
    if layer.weight is None or layer.scales is None:
        if _BYTE * layer.layer.height * layer.layer.width > _LARGEST_INT32:
            yield f"the sums of {layer.name} do not fit 32 bits"
        return
    if layer.weight.min(initial=0) < -LARGEST_WEIGHT:
        yield f"a weight of {layer.name} is below -{LARGEST_WEIGHT}"
    if not ((layer.scales >= SMALLEST_SCALE) & (layer.scales <= LARGEST_SCALE)).all():
        yield f"a scale of the weights of {layer.name} is not between 2^-60 and 2^30"
    elif largest_accumulators(layer).max() > _LARGEST_INT32:
        yield f"the sums of {layer.name} do not fit 32 bits"


def _faults_of_output(network: QuantisedNetwork, layer: QuantisedLayer) -> Iterator[str]:
    product = network.product(layer)
    if product is None:  # logits are not rounded
        return
    slack = 1 + 1e-6  # the scales were rounded to float32
    if product.scale * slack < least_scale(layer, network.x_scale(layer)):
        yield f"the scale of what {layer.name} gives is too small for its weights"
    y = network.tensors[layer.name]
    if len(layer.reads) > 1:
        p, x = network.tensors[branch(layer.name)], network.tensors[layer.reads[1]]
        if y.scale * slack < least_sum_scale(p.scale, x.scale):
            yield f"the scale of what {layer.name} gives is too small for what it adds"
    if layer.layer.epilogue == "relu6" and (y.zero_point or 255 * y.scale > _LARGEST_RELU6):
        yield f"what {layer.name} gives is not bounded by 0 and 6 as ReLU6 is"
