"""Quantised kernels: the bits of the definition, for shapes in every relation to the vectors."""

import functools
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from byte_runner import ByteLibrary, ByteOperands, numpy_result
from conftest import machines, skip_if_not_runnable

from mnv2_tvm.dtype import F32, QS8
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import Schedule, default_schedule, kernels_for
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


each_layer = pytest.mark.parametrize("name", LAYERS)
each_target = pytest.mark.parametrize("target", with_a_dot(), ids=lambda target: target.name)


@functools.cache
def schedules(name: str, target: Target) -> list[Schedule]:
    """The default and a few others, of every kernel; the same in every run."""
    layer = Layer.parse(name)
    default = default_schedule(layer, target)
    others = [p for p in search_space(layer, target) if p != default]
    few = random.Random(name).sample(others, min(SAMPLES, len(others)))
    return [default, *few]


@functools.cache
def library(name: str, target: Target) -> ByteLibrary:
    return ByteLibrary(Layer.parse(name), target, schedules(name, target))


def shares(tasks: int, pieces: int) -> list[tuple[int, int]]:
    """Disjoint spans that cover all tasks, last first; some empty if there are few tasks."""
    bounds = [tasks * piece // pieces for piece in range(pieces + 1)]
    return list(pairwise(bounds))[::-1]


def check(name: str, target: Target, operands: ByteOperands) -> None:
    """All schedules of the layer give the bits of the definition."""
    kernels, wanted = library(name, target), numpy_result(Layer.parse(name), operands)
    for index, schedule in enumerate(kernels.schedules):
        for rubbish in (0x5A, 0xC3):  # two, so that neither is taken for a result
            np.testing.assert_array_equal(
                kernels.run(index, operands, rubbish), wanted, str(schedule)
            )


@each_target
@each_layer
def test_kernels_have_the_bits_of_the_definition(name: str, target: Target) -> None:
    skip_if_not_runnable(target)
    operands = ByteOperands.random(Layer.parse(name))
    check(name, target, operands)
    wanted = numpy_result(Layer.parse(name), operands)
    if wanted.dtype == np.uint8 and wanted.size > 100:
        assert {0, 255} < set(wanted.reshape(-1).tolist()), "both bounds are met, and more"


@each_target
@pytest.mark.parametrize("name", ["qs8-pwconv-2x2x7-59", "qs8-pwconv-1x1x133-45-logits"])
def test_the_largest_sums_are_exact(name: str, target: Target) -> None:
    """Inputs of 255 by weights of +-127: where instructions saturate, this shows."""
    skip_if_not_runnable(target)
    layer = Layer.parse(name)
    operands = ByteOperands.random(layer)
    own = operands.by_role(layer)
    operands.x[:] = 255
    for signs in (1, -1, (-1) ** np.arange(layer.out_channels)):
        own["weight"][:] = 127 * np.broadcast_to(signs, layer.out_channels)
        check(name, target, operands)


@each_target
@pytest.mark.parametrize("name", ["qs8-dwconv-3x3s2-11x9x67", "qs8-pwconv-3x3x12-5-residual"])
def test_biases_may_be_larger_than_float32_is_exact(name: str, target: Target) -> None:
    """Of channels whose weights are next to nothing beside their bias."""
    skip_if_not_runnable(target)
    operands = ByteOperands.random(Layer.parse(name))
    own = operands.by_role(Layer.parse(name))
    own["bias"][:] = np.random.default_rng(0).integers(-(2**30), 2**30, own["bias"].shape)
    own["multiplier"][:] = 2.0**-23
    check(name, target, operands)


@each_target
@each_layer
def test_threads_may_share_the_tasks(name: str, target: Target) -> None:
    """Whoever does a task, and in whichever order, the bits are the same, and nobody else's."""
    skip_if_not_runnable(target)
    layer, kernels = Layer.parse(name), library(name, target)
    operands = ByteOperands.random(layer)
    for index, schedule in enumerate(kernels.schedules):
        whole, tasks = kernels.run(index, operands, 0x5A), schedule.tasks(layer)
        for pieces in (2, 3, tasks):
            parts = kernels.run(index, operands, 0x5A, shares(tasks, pieces))
            np.testing.assert_array_equal(parts, whole, f"{schedule} in {pieces} spans")
        writers = np.zeros(layer.output_shape, int)
        for task in range(tasks):
            twice = [kernels.run(index, operands, r, [(task, task + 1)]) for r in (0x5A, 0xC3)]
            written = twice[0].view(f"u{whole.itemsize}") == twice[1].view(f"u{whole.itemsize}")
            assert written.any(), f"{schedule}: task {task} writes nothing"
            writers += written
        assert (writers == 1).all(), str(schedule)


@each_target
@each_layer
def test_spaces_hold_distinct_points_inside_the_register_file(name: str, target: Target) -> None:
    layer = Layer.parse(name)
    space = list(search_space(layer, target))
    assert len(set(space)) == len(space) > 0
    assert default_schedule(layer, target) in space
    for point in space:
        assert 0 < point.registers(layer, target) <= target.vector.registers, str(point)
        assert type(point).from_json(point.to_json()) == point


def test_a_target_without_a_dot_has_no_quantised_kernels(target: Target) -> None:
    layer = Layer.parse(LAYERS[0])
    assert bool(kernels_for(layer, target)) == (target.vector.dot.qs8 is not None)
    if not kernels_for(layer, target):
        with pytest.raises(UserError, match=f"no kernel for {layer.name} on {target.name}"):
            default_schedule(layer, target)


def test_float_and_quantised_kernels_keep_apart(here: Target) -> None:
    for name in LAYERS:
        for dtype in (F32, QS8):
            if not name.endswith("logits"):
                layer = Layer.parse(dtype.name + name.removeprefix(QS8.name))
                kernels: list[Any] = [kernel for kernel in kernels_for(layer, here)]
                assert kernels and all(kernel.computes(layer) for kernel in kernels)
                other = Layer.parse(({F32: QS8, QS8: F32}[dtype]).name + layer.name[3:])
                assert not any(kernel.computes(other) for kernel in kernels)
