"""The quantised network as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.layer import Layer
from mnv2_tvm.quantise import pixels as image
from mnv2_tvm.quantise import scheme
from mnv2_tvm.quantise.float_network import INPUT, branch
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.scheme import Quantisation, Singles


@dataclass(frozen=True, eq=False)
class QuantisedLayer:
    """One layer in integers; its tensors are in the network's table."""

    name: str
    layer: Layer
    reads: tuple[str, ...]  # tensors: its input, and what it adds
    weight: NDArray[np.int8] | None = None  # [taps, in of a group, out]; None: of pooling
    bias: NDArray[np.int32] | None = None  # [out]
    scales: Singles | None = None  # of the weights: [out]


@dataclass(frozen=True, eq=False)
class QuantisedNetwork:
    """From the bytes of an image to logits in float32; the last layer is the classifier.

    `tensors` holds every tensor between the layers: NAME for what the layer NAME writes, and
    NAME.branch for what it adds its residual to.
    """

    pixels: Pixels
    layers: tuple[QuantisedLayer, ...]
    tensors: Mapping[str, Quantisation]
    about: Mapping[str, Any] = field(default_factory=dict)  # JSON: where it comes from

    def x_scale(self, layer: QuantisedLayer) -> float:
        """Of what the layer reads."""
        name = layer.reads[0]
        return image.SCALE if name == INPUT else self.tensors[name].scale

    def product(self, layer: QuantisedLayer) -> Quantisation | None:
        """Of what the layer's accumulators become first; None: logits, which stay float."""
        name = branch(layer.name) if len(layer.reads) > 1 else layer.name
        return self.tensors.get(name)

    def multiplier(self, layer: QuantisedLayer) -> Singles:
        """What a kernel multiplies the accumulators by: [out]."""
        product = self.product(layer)
        assert layer.scales is not None
        return scheme.multiplier(
            self.x_scale(layer), layer.scales, 1.0 if product is None else product.scale
        )
