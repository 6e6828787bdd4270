"""The constants that kernels get, against what the reference makes of the network itself."""

import numpy as np
import pytest
from quantised_networks import quantised

from mnv2_tvm.model import Architecture
from mnv2_tvm.quantise import reference, scheme
from mnv2_tvm.quantise.operands import operands

SMALL = Architecture(0.35, 96, classes=10)
NETWORK = quantised(SMALL)


@pytest.mark.parametrize("layer", NETWORK.layers, ids=lambda layer: layer.name)
def test_operands_are_those_of_the_layer(layer: reference.QuantisedLayer) -> None:
    found = operands(NETWORK, layer)
    wanted = {p.role: (p.shape, p.storage) for p in layer.layer.parameters}
    assert {role: (a.shape, str(a.dtype)) for role, a in found.items()} == wanted


@pytest.mark.parametrize("layer", NETWORK.layers, ids=lambda layer: layer.name)
def test_they_give_the_bits_of_the_reference(layer: reference.QuantisedLayer) -> None:
    """By the definition as kernels state it: nothing but the operands, x and the residual."""
    random = np.random.default_rng(0)
    own, shape = operands(NETWORK, layer), layer.layer
    inputs = [
        random.integers(0, 256, side).astype(np.uint8)
        for side in (shape.input_shape, shape.output_shape)[: len(layer.reads)]
    ]
    wanted = reference.output(NETWORK, layer, *inputs)
    if layer.weight is None:
        acc = inputs[0].astype(np.int32).sum(axis=(1, 2), keepdims=True) + own["bias"]
    else:
        acc = reference.accumulators(NETWORK, layer, inputs[0])
    scaled = acc.astype(np.float32) * own["multiplier"]
    if "addition" in own:
        least, most, zero, p_factor, x_factor = own["addition"]
        skip = (inputs[1].astype(np.float32) - zero) * x_factor
        scaled = scheme.fma(np.rint(scaled).clip(least, most), p_factor, skip)
    if "zeros" in own:
        assert (scheme.clamp(np.rint(scaled) + own["zeros"][0]) == wanted).all()
        assert set(own["zeros"][1:]) <= set(reference.border(NETWORK, layer).tolist())
    else:
        assert scaled.tobytes() == wanted.tobytes()
