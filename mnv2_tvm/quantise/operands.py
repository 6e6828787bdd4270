"""What kernels take of a quantised network: the constants of each layer, by their roles.

The numbers are those of `scheme`, in the form in which it costs a kernel least to use them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.layer import Role
from mnv2_tvm.quantise import scheme
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.reference import border
from mnv2_tvm.quantise.scheme import Singles

Operands = dict[Role, NDArray[Any]]


def operands(network: QuantisedNetwork, layer: QuantisedLayer) -> Operands:
    """The constants of a layer by their role, of the shapes and types of `layer.parameters`."""
    found: Operands = {}
    if layer.weight is None or layer.bias is None:
        found |= _of_mean(network, layer)
    else:
        found |= {"weight": layer.weight, "bias": layer.bias}
        found["multiplier"] = network.multiplier(layer)
    if (y := network.tensors.get(layer.name)) is not None:
        found["zeros"] = np.array([y.zero_point, *_outside(network, layer)], np.int32)
    if len(layer.reads) > 1:
        found["addition"] = _addition(network, layer)
    return found


def _of_mean(network: QuantisedNetwork, layer: QuantisedLayer) -> Operands:
    """The sum of a channel takes a bias and a multiplier, as those of a convolution do."""
    x, y = (network.tensors[name] for name in (layer.reads[0], layer.name))
    pixels = layer.layer.height * layer.layer.width
    return {
        "bias": np.array([-pixels * x.zero_point], np.int32),
        "multiplier": np.array([scheme.ratio(x.scale, pixels * y.scale)]),
    }


def _outside(network: QuantisedNetwork, layer: QuantisedLayer) -> list[int]:
    """What lies outside the input, for each channel of a group, where a window reaches there."""
    shape = layer.layer
    if shape.weight_shape is None or shape.window.size == 1:
        return []
    values: list[int] = border(network, layer)[: shape.weight_shape[1]].tolist()
    return values


def _addition(network: QuantisedNetwork, layer: QuantisedLayer) -> Singles:
    """[least, most, zero point of x, s_p / s_y, s_x / s_y] of p and x, which are added to y."""
    p, x, y = network.product(layer), network.tensors[layer.reads[1]], network.tensors[layer.name]
    assert p is not None
    ratios = [scheme.ratio(tensor.scale, y.scale) for tensor in (p, x)]
    return np.array([-p.zero_point, 255 - p.zero_point, x.zero_point, *ratios], np.float32)
