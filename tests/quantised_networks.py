"""Small quantised networks for tests."""

from functools import cache

import numpy as np

from mnv2_tvm.images import MEAN, STD
from mnv2_tvm.model import Architecture, random_images, random_state
from mnv2_tvm.numbers import Floats
from mnv2_tvm.quantise.convert import quantise
from mnv2_tvm.quantise.float_network import FloatLayer, float_network
from mnv2_tvm.quantise.network import QuantisedNetwork
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.ranges import Statistics, calibrate

PIXELS = Pixels.of(MEAN, STD)


def images_of(architecture: Architecture, count: int, seed: int = 1) -> Floats:
    """Normalised images [n, y, x, 3] that came from bytes."""
    random = np.random.default_rng(seed)
    return PIXELS.normalise(
        PIXELS.bytes_of(random_images(count, architecture.resolution, random) * 0.5)
    )


@cache
def float_layers(architecture: Architecture) -> tuple[FloatLayer, ...]:
    return float_network(architecture, random_state(architecture, 0))


@cache
def statistics_of(architecture: Architecture) -> Statistics:
    """Of sixteen images."""
    batches = [images_of(architecture, 4, seed) for seed in range(4)]
    return calibrate(float_layers(architecture), batches)


@cache
def quantised(architecture: Architecture, correct_bias: bool = True) -> QuantisedNetwork:
    return quantise(
        float_layers(architecture),
        statistics_of(architecture),
        PIXELS,
        correct_bias=correct_bias,
        about={"kind": "mobilenet_v2", "resolution": architecture.resolution},
    )
