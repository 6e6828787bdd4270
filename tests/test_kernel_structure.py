"""The emitted function of every kernel: accumulators, vectors, branches, and packed weights."""

from typing import Any

import numpy as np
import pytest
import tvm_ffi
from kernel_layers import SAMPLES, layers_of_kinds, sample
from tvm import tirx

from mnv2_tvm.kernels import schedule_class
from mnv2_tvm.kernels.registers import cut
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


@pytest.mark.parametrize(("target", "layer"), layers_of_kinds())
def test_accumulators_fit_the_register_file(target: Target, layer: Layer) -> None:
    """Counted in the emitted function, not asked of the schedule.

    Beside the accumulators an innermost loop holds a row of weight vectors and a broadcast pixel;
    a depthwise one an input and a weight vector, or all weights where FMAs read no memory;
    pooling reads its input from memory.
    """
    space = schedule_class(layer).space(layer, target)
    fullest = max(space, key=lambda point: point.registers(layer, target))
    for schedule in [fullest, *sample(layer, target, 2)]:
        largest = max(map(len, accumulators(schedule.emit(layer, target))))
        rest = layer.out_channels % schedule.panel
        assert largest > 0
        columns = len(cut(schedule.panel, target.vector.lanes))
        if len(cut(rest, target.vector.lanes)) <= columns:
            depthwise = 2 if target.vector.memory_operands else 10 * columns
            if getattr(schedule, "order", None) in ("cyx", "ycx") and depthwise > 2:
                depthwise += 2  # the bounds of ReLU6
            operands = {"dwconv": depthwise, "avgpool": 0}.get(layer.operator, columns + 1)
            assert largest + operands == schedule.registers(layer, target)
            if len(space) > 1:  # where nothing fits, the smallest tile alone is there
                assert largest + operands <= target.vector.registers


@pytest.mark.parametrize("operator", ["conv", "pwconv"])
def test_accumulators_of_a_left_over_panel_fit_too(here: Target, operator: str) -> None:
    """Channels past the last full panel are cut into more and narrower vectors."""
    channels = 2 * here.vector.lanes - 1
    layer = Layer.parse(
        f"f32-{operator}-{'3x3s1-' if operator == 'conv' else ''}3x31x3-{channels}-linear"
    )
    for schedule in schedule_class(layer).space(layer, here):
        largest = max(map(len, accumulators(schedule.emit(layer, here))))
        assert largest <= here.vector.registers, str(schedule)


@pytest.mark.parametrize(("target", "layer"), layers_of_kinds())
def test_vectors_are_as_wide_as_the_panel_allows(target: Target, layer: Layer) -> None:
    for schedule in sample(layer, target, 2):
        stores = found(tirx.BufferStore, schedule.emit(layer, target).body)
        indices = [store.indices[0] for store in stores]
        lanes = [int(index.lanes) if isinstance(index, tirx.Ramp) else 1 for index in indices]
        assert max(lanes) == max(width for _, width in cut(schedule.panel, target.vector.lanes))


@pytest.mark.parametrize(("target", "layer"), layers_of_kinds())
def test_branches_stand_around_whole_tiles(target: Target, layer: Layer) -> None:
    """No branch inside the taps: each holds a tile's accumulators, each innermost loop none."""
    for schedule in sample(layer, target, 2):
        body = schedule.emit(layer, target).body
        for branch in found(tirx.IfThenElse, body):
            if "isnan" in str(branch.condition):  # after the taps, where a maximum drops NaN
                assert target.vector.max_of_nan == "number"
                assert not found(tirx.For, branch)
                continue
            assert found(tirx.stmt.AllocBuffer, branch.then_case)
            assert branch.else_case is None
        for loop in found(tirx.For, body):
            if not found(tirx.stmt.AllocBuffer, loop.body):
                assert not found(tirx.IfThenElse, loop.body)


@pytest.mark.parametrize(("target", "layer"), layers_of_kinds())
def test_packing_keeps_every_weight_once_and_panels_together(target: Target, layer: Layer) -> None:
    if layer.weight_shape is None:
        return
    taps, depth, channels = layer.weight_shape
    weight = np.arange(taps * depth * channels, dtype=np.float32).reshape(layer.weight_shape)
    for schedule in sample(layer, target, SAMPLES):
        (packed,) = schedule.pack(layer, [weight])
        np.testing.assert_array_equal(np.sort(packed), weight.reshape(-1))
        first = min(schedule.panel, channels)
        panel = packed[: taps * depth * first].reshape(taps, depth, first)
        np.testing.assert_array_equal(panel, weight[:, :, :first])


@pytest.mark.parametrize(
    ("channels", "lanes", "pieces"),
    [
        (16, 16, [(0, 16)]),
        (24, 16, [(0, 16), (16, 8)]),
        (7, 16, [(0, 4), (4, 2), (6, 1)]),
        (33, 16, [(0, 16), (16, 16), (32, 1)]),
        (5, 1, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]),
    ],
)
def test_channels_are_cut_into_the_widest_vectors(
    channels: int, lanes: int, pieces: list[tuple[int, int]]
) -> None:
    assert cut(channels, lanes) == pieces


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
    schedule = schedule_class(layer).default(layer, machine)
    assert ("prefetch" in str(schedule.emit(layer, machine))) == fetches
