"""Quantised kernels: the bits of the definition, for shapes in every relation to the vectors."""

import functools
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from byte_layers import LAYERS, each_layer, each_target, each_target_here, schedules
from byte_runner import ByteLibrary, ByteOperands, numpy_result
from conftest import skip_if_not_runnable

from mnv2_tvm.assembly import assembly, hot_loop
from mnv2_tvm.dtype import F32, QS8
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import default_schedule, kernels_for
from mnv2_tvm.kernels.dots import DOTS
from mnv2_tvm.kernels.loops import tile_count
from mnv2_tvm.kernels.pointwise_dot import PointwiseDot
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.candidate import build_candidate
from mnv2_tvm.passes.packed_entry import ENTRY
from mnv2_tvm.target import Target


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


@each_target_here
@each_layer
def test_kernels_have_the_bits_of_the_definition(name: str, target: Target) -> None:
    skip_if_not_runnable(target)
    operands = ByteOperands.random(Layer.parse(name))
    check(name, target, operands)
    wanted = numpy_result(Layer.parse(name), operands)
    if wanted.dtype == np.uint8 and wanted.size > 100:
        assert {0, 255} < set(wanted.reshape(-1).tolist()), "both bounds are met, and more"


@each_target_here
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


@each_target_here
@pytest.mark.parametrize("name", ["qs8-dwconv-3x3s2-11x9x67", "qs8-pwconv-3x3x12-5-residual"])
def test_biases_may_be_larger_than_float32_is_exact(name: str, target: Target) -> None:
    """Of channels whose weights are next to nothing beside their bias."""
    skip_if_not_runnable(target)
    operands = ByteOperands.random(Layer.parse(name))
    own = operands.by_role(Layer.parse(name))
    own["bias"][:] = np.random.default_rng(0).integers(-(2**30), 2**30, own["bias"].shape)
    own["multiplier"][:] = 2.0**-23
    check(name, target, operands)


@each_target_here
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


@each_target
@pytest.mark.parametrize(
    "name",
    [
        "qs8-pwconv-14x14x96-576",
        "qs8-pwconv-14x14x576-96-residual",
        "qs8-pwconv-56x56x144-24-linear",
        "qs8-pwconv-1x1x1280-1000-logits",
    ],
)
def test_inner_loops_are_dot_products_in_registers(name: str, target: Target) -> None:
    """Read from the assembly, so also where no CPU here can run it."""
    layer = Layer.parse(name)
    schedule = default_schedule(layer, target)
    assert isinstance(schedule, PointwiseDot)
    text, loop = assembly(layer, schedule, target), hot_loop(layer, schedule, target)
    assert loop is not None and loop.spills == 0
    columns, dot = tile_count(schedule.tile_n, schedule.lanes), DOTS[schedule.dot]
    assert loop.fmas == schedule.tile_m * columns * len(dot.groups)
    assert schedule.dot in text and "vpmaddubsw" not in text, "which saturates"
    if schedule.dot == "vpdpbusd":
        assert loop.fma_share == 1


def test_far_weights_are_fetched_a_panel_ahead() -> None:
    target = Target.load("x86-avx512-vnni")
    for name, fetches in (("qs8-pwconv-7x7x160-960", True), ("qs8-pwconv-14x14x64-384", False)):
        layer = Layer.parse(name)
        schedule = default_schedule(layer, target)
        assert ("prefetch" in str(schedule.emit(layer, target))) == fetches
        assert "prefetch" in str(schedule.emit(layer, target, ahead_bytes=2**20))


@each_target_here
def test_four_vectors_of_a_depthwise_panel_too(target: Target) -> None:
    """More channels than a sample of small layers is sure to have side by side."""
    skip_if_not_runnable(target)
    layer = Layer.parse("qs8-dwconv-3x3s1-3x4x64")
    wide = [p for p in search_space(layer, target) if p.panel > 2 * target.vector.lanes(QS8)]
    operands = ByteOperands.random(layer)
    kernels = ByteLibrary(layer, target, wide[::5])
    for index, schedule in enumerate(kernels.schedules):
        np.testing.assert_array_equal(
            kernels.run(index, operands, 0x5A), numpy_result(layer, operands), str(schedule)
        )


@each_target_here
@pytest.mark.parametrize("name", ["qs8-pwconv-3x3x12-5-residual", "qs8-pwconv-1x1x133-45-logits"])
def test_tvm_can_load_a_kernel_alone(name: str, target: Target, tmp_path: Path) -> None:
    skip_if_not_runnable(target)
    layer = Layer.parse(name)
    schedule, operands = default_schedule(layer, target), ByteOperands.random(layer)
    library = build_candidate(layer, schedule, target, tmp_path / "kernel.so")
    inputs = [operands.x, *schedule.pack(layer, operands.parameters)]
    if operands.residual is not None:
        inputs.append(operands.residual)
    y = tvm.runtime.tensor(np.zeros(layer.output_shape, layer.output_storage))
    tvm.runtime.load_module(str(library))[ENTRY](*map(tvm.runtime.tensor, inputs), y)
    np.testing.assert_array_equal(y.numpy(), numpy_result(layer, operands))
