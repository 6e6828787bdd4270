"""The float network that is to be quantised: layers by name, and every tensor of a forward pass."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture, Convolution, fold_batch_norm
from mnv2_tvm.quantise.convolve import convolve
from mnv2_tvm.quantise.scheme import Doubles, Singles

INPUT = "input"  # the tensor of the images; every other is named as the layer that writes it
POOL = "pool"


def branch(name: str) -> str:
    """The tensor that the layer `name` adds its residual to."""
    return f"{name}.branch"


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """One layer, BatchNorm folded. The last of a network gives the logits."""

    name: str
    layer: Layer
    reads: tuple[str, ...]  # tensors: its input, and what it adds
    weight: Doubles | None = None  # [taps, in of a group, out]; None: of pooling
    bias: Doubles | None = None  # [out]


@dataclass(frozen=True, eq=False)
class Visit:
    """What a layer reads and writes for a batch of images, float32 [n, y, x, c]."""

    layer: FloatLayer
    inputs: tuple[Singles, ...]  # of the tensors in `layer.reads`
    branch: Singles | None  # before the addition of a residual, if there is one
    y: Singles


def float_network(
    architecture: Architecture, state: Mapping[str, NDArray[Any]]
) -> tuple[FloatLayer, ...]:
    """MobileNetV2 with weights of torchvision's names, BatchNorm folded in float64."""
    params = fold_batch_norm(state, architecture, dtype="float64")
    layers: list[FloatLayer] = []
    now, block, block_input = INPUT, "", INPUT
    for conv in architecture.convolutions():
        if conv.block != block:
            block, block_input = conv.block, now
        if conv.norm is None:
            shape = layers[-1].layer.output_shape
            pooling = Layer.of("avgpool", *shape, shape[-1], epilogue="linear")
            layers.append(FloatLayer(POOL, pooling, (now,)))
            now = POOL
        reads = (now, block_input) if conv.residual else (now,)
        weight, bias = (params[f"{conv.name}.{leaf}"] for leaf in ("weight", "bias"))
        layers.append(FloatLayer(conv.name, _layer(conv), reads, _taps(weight), _wide(bias)))
        now = conv.name
    return tuple(layers)


def walk(layers: tuple[FloatLayer, ...], images: NDArray[np.floating[Any]]) -> Iterator[Visit]:
    """Each layer with its tensors, in float32, for normalised images [n, y, x, c].

    A tensor is let go as soon as no later layer reads it.
    """
    tensors: dict[str, Singles] = {INPUT: images.astype(np.float32)}
    last = {name: layer.name for layer in layers for name in layer.reads}
    for layer in layers:
        inputs = tuple(tensors[name] for name in layer.reads)
        y = product = _product(layer, inputs[0])
        if len(inputs) > 1:
            y = product + inputs[1]
        elif layer.layer.epilogue == "relu6":
            y = product.clip(0, 6)  # NaN stays NaN
        tensors[layer.name] = y
        yield Visit(layer, inputs, product if len(inputs) > 1 else None, y)
        for name in layer.reads:
            if last[name] == layer.name:
                tensors.pop(name, None)


def float_logits(layers: tuple[FloatLayer, ...], images: NDArray[np.floating[Any]]) -> Singles:
    """Logits [n, classes], in float32."""
    for visit in walk(layers, images):
        y = visit.y
    return y.reshape(len(images), -1)


def _product(layer: FloatLayer, x: Singles) -> Singles:
    if layer.weight is None or layer.bias is None:
        pooled: Singles = x.mean(axis=(1, 2), keepdims=True)
        return pooled
    weight, bias = layer.weight.astype(np.float32), layer.bias.astype(np.float32)
    border = np.zeros(layer.layer.in_channels, np.float32)
    product: Singles = convolve(x, layer.layer, weight, border) + bias
    return product


def _layer(conv: Convolution) -> Layer:
    return Layer.of(
        conv.kind,
        1,
        conv.height,
        conv.width,
        conv.in_channels,
        conv.out_channels,
        conv.stride,
        "relu6" if conv.relu6 else "residual" if conv.residual else "linear",
    )


def _taps(weight: NDArray[Any]) -> Doubles:
    """torch's [out, in of a group, k, k], or [out, in], as [taps, in of a group, out]."""
    out_channels, depth = weight.shape[:2]
    return _wide(weight).reshape(out_channels, depth, -1).transpose(2, 1, 0)


def _wide(array: NDArray[Any]) -> Doubles:
    return array.astype(np.float64)
