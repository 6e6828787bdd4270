"""Layers and blocks in every relation to the vector width, and points of their spaces."""

import functools
import random

import pytest
from conftest import machines

from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.target import Target

SAMPLES = 6  # points of each space beside the default


def tile_layers(lanes: int) -> list[Layer]:
    """Layers whose channels are ==, %, < and > `lanes`, with odd and tiny images, and batches."""
    half = max(1, lanes // 2)
    return [
        Layer.of("conv", 1, 9, 11, 3, lanes, 2),
        Layer.of("conv", 1, 8, 8, 3, 2 * lanes, 1),
        Layer.of("conv", 1, 5, 7, 1, half, 1, "linear"),
        Layer.of("conv", 1, 1, 1, 3, lanes + half, 2),
        Layer.of("conv", 2, 3, 3, 3, lanes + 3, 2),
        Layer.of("conv", 1, 2, 2, 4, 3, 1),
        Layer.of("dwconv", 1, 8, 8, lanes, lanes, 1),
        Layer.of("dwconv", 1, 8, 8, 2 * lanes, 2 * lanes, 2),
        Layer.of("dwconv", 1, 9, 11, lanes + half, lanes + half, 1),
        Layer.of("dwconv", 1, 11, 9, lanes + 3, lanes + 3, 2),
        Layer.of("dwconv", 1, 5, 4, half, half, 1, "linear"),
        Layer.of("dwconv", 1, 1, 1, lanes, lanes, 1),
        Layer.of("dwconv", 1, 2, 2, max(1, lanes - 1), max(1, lanes - 1), 2),
        Layer.of("dwconv", 1, 3, 3, 3, 3, 1),
        Layer.of("dwconv", 2, 7, 5, 2 * lanes, 2 * lanes, 2),
        Layer.of("dwconv", 1, 2, 3, 5 * lanes, 5 * lanes, 1),  # more panels than rows
        Layer.of("pwconv", 1, 4, 4, lanes, lanes),
        Layer.of("pwconv", 1, 5, 7, 8, 2 * lanes, 1, "linear"),
        Layer.of("pwconv", 1, 3, 3, 12, half, 1, "residual"),
        Layer.of("pwconv", 1, 2, 2, 7, 3 * lanes + half + 3),
        Layer.of("pwconv", 1, 7, 5, lanes, lanes + 4, 1, "residual"),
        Layer.of("pwconv", 2, 3, 5, 16, 5 * lanes, 1, "residual"),
        Layer.of("pwconv", 1, 1, 1, 40, 10 * lanes + 1, 1, "linear"),
        Layer.of("pwconv", 2, 1, 3, 6, 1),
        Layer.of("avgpool", 1, 7, 7, lanes, lanes, 1, "linear"),
        Layer.of("avgpool", 1, 1, 1, 5 * lanes + 3, 5 * lanes + 3, 1, "linear"),
        Layer.of("avgpool", 2, 3, 5, half, half, 1, "linear"),
        Layer.of("avgpool", 1, 2, 2, 20 * lanes, 20 * lanes, 1, "linear"),
    ]


def block_layers(lanes: int) -> list[Layer]:
    """Blocks with odd and tiny images, batches, and channels in every relation to `lanes`."""
    half = max(1, lanes // 2)
    return [
        Layer.of("irb", 1, 9, 11, half, half, 1, "residual", 3 * lanes),
        Layer.of("irb", 1, 8, 8, 5, lanes + half, 2, "linear", 2 * lanes + 3),
        Layer.of("irb", 2, 7, 5, lanes, half, 2, "linear", 6 * lanes),
        Layer.of("irb", 1, 1, 1, 3, 3, 1, "residual", lanes),
        Layer.of("irb", 1, 2, 17, lanes, 2 * lanes, 1, "linear", half),
        Layer.of("irb", 2, 15, 3, 4, 4, 1, "residual", 4 * lanes + 1),
        Layer.of("irb", 1, 5, 6, half, lanes + 3, 1, "relu6", 3 * lanes),
        Layer.of("stem", 1, 9, 9, 3, lanes, 2, "relu6", 2 * lanes),
        Layer.of("stem", 1, 17, 13, 3, half, 2, "linear", 2 * lanes),
        Layer.of("stem", 2, 8, 12, 3, 7, 2, "linear", half),
        Layer.of("stem", 1, 3, 3, 1, lanes, 1, "linear", lanes + 4),
    ]


def kinds() -> list[Target]:
    """A target for each size of the register file."""
    targets = map(Target.load, machines())
    return list({(t.vector.lanes(F32), t.vector.registers): t for t in targets}.values())


each_kind = pytest.mark.parametrize("target", kinds(), ids=lambda target: target.name)


@functools.cache
def sample(layer: Layer, target: Target, count: int) -> tuple[Schedule, ...]:
    """The default and `count` other points of the space, the same in every run."""
    default = default_schedule(layer, target)
    others = [p for p in search_space(layer, target) if p != default]
    return default, *random.Random(layer.name).sample(others, min(count, len(others)))
