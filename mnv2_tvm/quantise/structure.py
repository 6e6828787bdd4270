"""Whether the layers of a quantised network fit together: needed where they come from a file."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.dtype import QS8
from mnv2_tvm.quantise.float_network import INPUT, branch
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork

_OPERATORS = ("conv", "dwconv", "pwconv", "avgpool")


def misfit(network: QuantisedNetwork) -> str | None:
    """What does not fit; None if all does. `bounds.fault` asks about the numbers."""
    return next(_misfits(network), None)


def _misfits(network: QuantisedNetwork) -> Iterator[str]:
    if not network.layers:
        yield "it has no layer"
        return
    first, last = network.layers[0].layer, network.layers[-1]
    shapes = {INPUT: first.input_shape}
    channels = first.in_channels
    if len(network.pixels.mean) != channels or len(network.pixels.std) != channels:
        yield f"its image has {channels} channels and another number of means"
    for layer in network.layers:
        if layer.name in shapes:
            yield f"two layers are called {layer.name}"
        shape = layer.layer
        if shape.operator not in _OPERATORS or shape.batch != 1 or shape.dtype != QS8:
            yield f"{layer.name} is {shape.name}, which is no single layer of one image in int8"
        yield from _misfits_of_reads(layer, shapes)
        yield from _misfits_of_weights(layer)
        shapes[layer.name] = layer.layer.output_shape
    for layer in network.layers:
        if (layer is last) != (layer.layer.epilogue == "logits"):
            yield "its last layer, and no other, has to give logits"
    if sorted(network.tensors) != sorted(_tensors(network)):
        yield "its scales are not those of its tensors"


def _misfits_of_reads(
    layer: QuantisedLayer, shapes: dict[str, tuple[int, int, int, int]]
) -> Iterator[str]:
    residual = layer.layer.epilogue == "residual"
    wanted = [layer.layer.input_shape] + [layer.layer.output_shape] * residual
    if [shapes.get(name) for name in layer.reads] != wanted:
        yield f"{layer.name} reads what no layer before it gives"
    elif INPUT in layer.reads and (residual or layer.layer.operator not in ("conv", "pwconv")):
        yield f"{layer.name} cannot read the image"


def _misfits_of_weights(layer: QuantisedLayer) -> Iterator[str]:
    out = (layer.layer.out_channels,)
    pooling = layer.layer.weight_shape is None
    if pooling and layer.layer.epilogue != "linear":
        yield f"the pooling {layer.name} has an activation"
    shapes = [None] * 3 if pooling else [layer.layer.weight_shape, out, out]
    arrays: list[NDArray[np.generic] | None] = [layer.weight, layer.bias, layer.scales]
    if [a if a is None else a.shape for a in arrays] != shapes:
        yield f"the weights of {layer.name} have other shapes than {layer.layer.name}"


def _tensors(network: QuantisedNetwork) -> Iterator[str]:
    for layer in network.layers[:-1]:
        yield layer.name
        if len(layer.reads) > 1:
            yield branch(layer.name)
