"""From the float network to the quantised one: the recipe, each step of which is a file of its own.

ranges           least and greatest of each tensor       -> scales and zero points
scheme           largest weight of each output channel   -> scales of the weights, their bytes
bias_correction  mean error of the rounded weights       -> into the biases, unless switched off
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mnv2_tvm.dtype import QS8
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.quantise import pixels as image
from mnv2_tvm.quantise import scheme
from mnv2_tvm.quantise.bias_correction import corrected_bias
from mnv2_tvm.quantise.bounds import fault, least_scale, least_sum_scale
from mnv2_tvm.quantise.float_network import INPUT, FloatLayer, branch
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.ranges import Statistics
from mnv2_tvm.quantise.scheme import Doubles, Quantisation


def quantise(
    layers: tuple[FloatLayer, ...],
    statistics: Statistics,
    pixels: Pixels,
    *,
    correct_bias: bool = True,
    about: Mapping[str, Any] | None = None,
) -> QuantisedNetwork:
    """The network in integers, by the ranges and means of its tensors.

    Raises UserError where its numbers are too large for int8.
    """
    tensors: dict[str, Quantisation] = {}
    done: list[QuantisedLayer] = []
    for layer in layers:
        if layer.weight is None or layer.bias is None:
            now = QuantisedLayer(layer.name, _in_bytes(layer.layer), layer.reads)
        else:
            means = statistics.means[layer.name] if correct_bias else None
            now = _quantised(layer, layer.weight, layer.bias, means, tensors, pixels)
        if layer is layers[-1]:
            now = replace(now, layer=replace(now.layer, epilogue="logits"))
        else:
            _add_tensors(now, statistics, tensors)
        done.append(now)
    network = QuantisedNetwork(pixels, tuple(done), tensors, about or {})
    if (wrong := fault(network)) is not None:
        raise UserError(f"this network cannot be quantised: {wrong}")
    return network


def _quantised(
    layer: FloatLayer,
    weight: Doubles,
    bias: Doubles,
    means: Doubles | None,
    tensors: Mapping[str, Quantisation],
    pixels: Pixels,
) -> QuantisedLayer:
    first = layer.reads[0] == INPUT
    x_scale = image.SCALE if first else tensors[layer.reads[0]].scale
    stored = pixels.fold(weight) if first else weight
    scales = scheme.weight_scales(stored, bias, x_scale)
    q = scheme.quantise_weight(stored, scales)
    if means is not None:
        rounded = q.astype(np.float64) * scales.astype(np.float64)
        if first:
            rounded = pixels.unfold(rounded)
        bias = corrected_bias(layer.layer, bias, weight, rounded, means)
    if first:
        integers = pixels.integer_bias(bias, q, scales)
    else:
        integers = scheme.integer_bias(bias, q, tensors[layer.reads[0]], scales)
    if np.abs(integers).max() >= 2**31:
        raise UserError(
            f"this network cannot be quantised: the biases of {layer.name} are too large"
        )
    return QuantisedLayer(
        layer.name, _in_bytes(layer.layer), layer.reads, q, integers.astype(np.int32), scales
    )


def _in_bytes(layer: Layer) -> Layer:
    return replace(layer, dtype=QS8)


def _add_tensors(
    layer: QuantisedLayer, statistics: Statistics, tensors: dict[str, Quantisation]
) -> None:
    """The tensors that the layer writes, by their ranges, with scales that `bounds` allows."""
    x = tensors.get(layer.reads[0])
    x_scale = image.SCALE if x is None else x.scale
    low, high = statistics.ranges[layer.name]
    if len(layer.reads) > 1:
        p = Quantisation.of(*statistics.ranges[branch(layer.name)], least_scale(layer, x_scale))
        tensors[branch(layer.name)] = p
        least = least_sum_scale(p.scale, tensors[layer.reads[1]].scale)
    else:
        least = least_scale(layer, x_scale)
    tensors[layer.name] = Quantisation.of(low, high, least)
