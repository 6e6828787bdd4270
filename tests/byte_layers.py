"""Quantised layers in every relation to the vectors, and points of their spaces."""

import functools
import random

import pytest
from conftest import machines

from mnv2_tvm.host import this_host
from mnv2_tvm.kernels import Schedule, default_schedule
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

SAMPLES = 5  # points of each space beside the default

# Inputs of one and of many words, with left-over values; channels ==, %, < and > the vectors.
LAYERS = (
    "qs8-pwconv-4x4x16-16",
    "qs8-pwconv-5x7x8-32-linear",
    "qs8-pwconv-3x3x12-5-residual",
    "qs8-pwconv-2x2x7-59",
    "qs8-pwconv-7x5x24-24-residual",
    "qs8-pwconv-2x3x5x17-81-residual",
    "qs8-pwconv-1x1x40-161-linear",
    "qs8-pwconv-2x3x3-1",
    "qs8-pwconv-3x1x1-2-linear",
    "qs8-pwconv-1x1x133-45-logits",
    "qs8-pwconv-2x1x1x32-8-logits",
    "qs8-pwconv-6x6x96-144",
    "qs8-dwconv-3x3s1-8x8x16",
    "qs8-dwconv-3x3s2-9x11x40",
    "qs8-dwconv-3x3s1-5x7x13-linear",
    "qs8-dwconv-3x3s2-11x9x67",
    "qs8-dwconv-3x3s1-1x1x32",
    "qs8-dwconv-3x3s2-2x2x7",
    "qs8-dwconv-3x3s1-2x3x144",  # more panels than rows
    "qs8-dwconv-3x3s2p0x1-2x8x8x24",
    "qs8-conv-3x3s2-9x11x3-16",
    "qs8-conv-3x3s1-8x8x3-32-linear",
    "qs8-conv-3x3s1-5x7x1-5",
    "qs8-conv-3x3s2-1x1x3-24",
    "qs8-conv-3x3s2-2x3x3x3-11",
    "qs8-conv-3x3s1-2x2x4-3",
    "qs8-conv-3x3s2p0x1-12x12x3-24",
    "qs8-avgpool-7x7x32",
    "qs8-avgpool-2x3x5x13",
    "qs8-avgpool-1x1x83",
    "qs8-avgpool-33x33x8",  # sums past 16 bits
)


def with_a_dot() -> list[Target]:
    """Targets whose file names the instruction for quantised layers."""
    return [t for t in map(Target.load, machines()) if t.vector.dot.qs8 is not None]


def of_this_machine() -> list[Target]:
    """Those of them that a machine of this kind may run; its CPU may still lack something."""
    return [t for t in with_a_dot() if t.host.machine == this_host().machine]


each_layer = pytest.mark.parametrize("name", LAYERS)
each_target = pytest.mark.parametrize("target", with_a_dot(), ids=lambda target: target.name)
each_target_here = pytest.mark.parametrize(
    "target", of_this_machine(), ids=lambda target: target.name
)


@functools.cache
def schedules(name: str, target: Target) -> list[Schedule]:
    """The default and a few others, of every kernel; the same in every run."""
    layer = Layer.parse(name)
    default = default_schedule(layer, target)
    others = [p for p in search_space(layer, target) if p != default]
    few = random.Random(name).sample(others, min(SAMPLES, len(others)))
    return [default, *few]
