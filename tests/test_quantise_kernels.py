"""A whole quantised network through the kernels, layer by layer: the bits of the reference."""

import functools

import numpy as np
import pytest
from byte_layers import each_target_here
from byte_runner import ByteLibrary, ByteOperands
from conftest import skip_if_not_runnable
from quantised_networks import PIXELS, images_of, quantised

from mnv2_tvm.kernels import default_schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.quantise import reference
from mnv2_tvm.quantise.network import QuantisedLayer
from mnv2_tvm.quantise.operands import operands
from mnv2_tvm.target import Target

SMALL = Architecture(0.35, 96, classes=10)
NETWORK = quantised(SMALL)


@functools.cache
def tensors() -> dict[str, np.ndarray]:
    """Of one image, by name: the reference's."""
    image = PIXELS.bytes_of(images_of(SMALL, 1, 77))
    found: dict[str, np.ndarray] = {"input": image}
    for layer, y in reference.outputs(NETWORK, image):
        found[layer.name] = y
    return found


@functools.cache
def library(layer: Layer, target: Target) -> ByteLibrary:
    """Of the default schedule; layers of a shape share it."""
    return ByteLibrary(layer, target, [default_schedule(layer, target)])


@each_target_here
@pytest.mark.parametrize("layer", NETWORK.layers, ids=lambda layer: layer.name)
def test_a_kernel_gives_the_bits_of_the_reference(layer: QuantisedLayer, target: Target) -> None:
    skip_if_not_runnable(target)
    own = operands(NETWORK, layer)
    x, *added = (tensors()[name] for name in layer.reads)
    parameters = [own[parameter.role] for parameter in layer.layer.parameters]
    given = ByteOperands(x, parameters, added[0] if added else None)
    got = library(layer.layer, target).run(0, given, 0x5A)
    np.testing.assert_array_equal(got, tensors()[layer.name])
