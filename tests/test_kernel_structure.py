"""The emitted function of every kernel: accumulators, vectors, branches, and packed weights."""

from typing import Any

import numpy as np
import pytest
import tvm_ffi
from kernel_layers import SAMPLES, each_kind, sample, tile_layers
from tvm import tirx

from mnv2_tvm.dtype import F32
from mnv2_tvm.kernels import Schedule, default_schedule
from mnv2_tvm.kernels.registers import cut
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


def found(kind: type, root: Any) -> list[Any]:
    """All nodes of a kind below `root`."""
    nodes: list[Any] = []
    tvm_ffi.structural_walk(root, [(kind, lambda node: nodes.append(node))])
    return nodes


def accumulators(function: tirx.PrimFunc) -> list[set[str]]:
    """The vectors that are stored to each accumulator buffer of a kernel."""
    vectors: dict[Any, set[str]] = {}
    for store in found(tirx.BufferStore, function.body):
        (index,) = store.indices
        if store.buffer.scope() == "local":
            start = index.base if isinstance(index, tirx.Ramp) else index
            assert isinstance(start, tirx.IntImm), "LLVM keeps it in registers by constants only"
            vectors.setdefault(store.buffer, set()).add(str(index))
    assert set(vectors) == {node.buffer for node in found(tirx.stmt.AllocBuffer, function.body)}
    return list(vectors.values())


@each_kind
def test_emitted_functions_keep_to_the_register_file(target: Target) -> None:
    """Counted in the emitted functions, not asked of the schedules."""
    for layer in tile_layers(target.vector.lanes(F32)):
        space = list(search_space(layer, target))
        fullest = max(space, key=lambda point: point.registers(layer, target))
        few = sample(layer, target, 2)
        for schedule in dict.fromkeys([fullest, *few]):
            case = f"{layer.name}: {schedule}"
            function = schedule.emit(layer, target)
            check_accumulators(function, layer, schedule, target, case)
            if len(space) > 1:  # where nothing fits, the smallest tile alone is there
                assert schedule.registers(layer, target) <= target.vector.registers, case
            check_vectors(function, schedule, target, case)
            check_branches(function, target, case)


def check_accumulators(
    function: tirx.PrimFunc, layer: Layer, schedule: Schedule, target: Target, case: str
) -> None:
    """What a schedule says it takes is what its function holds.

    Beside the accumulators an innermost loop holds a row of weight vectors and a broadcast pixel;
    a depthwise one an input and a weight vector, or all weights where FMAs read no memory;
    pooling reads its input from memory.
    """
    largest = max(map(len, accumulators(function)))
    rest = layer.out_channels % schedule.panel
    assert largest > 0, case
    columns = len(cut(schedule.panel, target.vector.lanes(F32)))
    if len(cut(rest, target.vector.lanes(F32))) <= columns:
        depthwise = 2 if target.vector.memory_operands else 10 * columns
        if getattr(schedule, "order", None) in ("cyx", "ycx") and depthwise > 2:
            depthwise += 2  # the bounds of ReLU6
        operands = {"dwconv": depthwise, "avgpool": 0}.get(layer.operator, columns + 1)
        assert largest + operands == schedule.registers(layer, target), case


def check_vectors(function: tirx.PrimFunc, schedule: Schedule, target: Target, case: str) -> None:
    """They are as wide as the panel allows."""
    indices = [store.indices[0] for store in found(tirx.BufferStore, function.body)]
    lanes = [int(index.lanes) if isinstance(index, tirx.Ramp) else 1 for index in indices]
    widest = max(width for _, width in cut(schedule.panel, target.vector.lanes(F32)))
    assert max(lanes) == widest, case


def check_branches(function: tirx.PrimFunc, target: Target, case: str) -> None:
    """No branch inside the taps: each holds a tile's accumulators, each innermost loop none."""
    for branch in found(tirx.IfThenElse, function.body):
        if "isnan" in str(branch.condition):  # after the taps, where a maximum drops NaN
            assert target.vector.max_of_nan == "number", case
            assert not found(tirx.For, branch), case
            continue
        assert found(tirx.stmt.AllocBuffer, branch.then_case), case
        assert branch.else_case is None, case
    for loop in found(tirx.For, function.body):
        if not found(tirx.stmt.AllocBuffer, loop.body):
            assert not found(tirx.IfThenElse, loop.body), case


@pytest.mark.parametrize("operator", ["conv", "pwconv"])
def test_accumulators_of_a_left_over_panel_fit_too(here: Target, operator: str) -> None:
    """Channels past the last full panel are cut into more and narrower vectors."""
    channels = 2 * here.vector.lanes(F32) - 1
    layer = Layer.parse(
        f"f32-{operator}-{'3x3s1-' if operator == 'conv' else ''}3x31x3-{channels}-linear"
    )
    for schedule in search_space(layer, here):
        largest = max(map(len, accumulators(schedule.emit(layer, here))))
        assert largest <= here.vector.registers, str(schedule)


@each_kind
def test_packing_keeps_every_weight_once_and_panels_together(target: Target) -> None:
    for layer in tile_layers(target.vector.lanes(F32)):
        if layer.weight_shape is None:
            continue
        taps, depth, channels = layer.weight_shape
        weight = np.arange(taps * depth * channels, dtype=np.float32).reshape(layer.weight_shape)
        for schedule in sample(layer, target, SAMPLES):
            case = f"{layer.name}: {schedule}"
            bias = np.zeros(channels, np.float32)
            packed, _ = schedule.pack(layer, [weight, bias])
            np.testing.assert_array_equal(np.sort(packed), weight.reshape(-1), case)
            first = min(schedule.panel, channels)
            panel = packed[: taps * depth * first].reshape(taps, depth, first)
            np.testing.assert_array_equal(panel, weight[:, :, :first], case)


def test_channels_are_cut_into_the_widest_vectors() -> None:
    assert cut(16, 16) == [(0, 16)]
    assert cut(24, 16) == [(0, 16), (16, 8)]
    assert cut(7, 16) == [(0, 4), (4, 2), (6, 1)]
    assert cut(33, 16) == [(0, 16), (16, 16), (32, 1)]
    assert cut(5, 1) == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]


@pytest.mark.parametrize(
    ("target", "name", "fetches"),
    [
        ("x86-avx512", "f32-pwconv-7x7x160-960", True),
        ("rasp4", "f32-pwconv-7x7x160-960", True),
        ("x86-avx512", "f32-pwconv-112x112x32-16-linear", False),  # 2 KiB of weights
        ("x86-avx512", "f32-pwconv-1x1x1280-1000-linear", False),  # no time to spare
        ("cortex-m7", "f32-pwconv-7x7x160-960", False),  # no cache to fetch into
    ],
)
def test_far_weights_are_fetched_a_panel_ahead(target: str, name: str, fetches: bool) -> None:
    machine, layer = Target.load(target), Layer.parse(name)
    schedule = default_schedule(layer, machine)
    assert ("prefetch" in str(schedule.emit(layer, machine))) == fetches
