"""Numbers and structure of every kernel, for shapes in every relation to the vector width."""

import functools
import json
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tvm_ffi
from conftest import machines
from kernel_runner import KernelLibrary, Operands, torch_result
from tvm import tirx

from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import KERNELS, Schedule, schedule_class
from mnv2_tvm.kernels.registers import cut
from mnv2_tvm.layer import Layer, Operator
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork
from mnv2_tvm.pipeline import default_schedule, network_layers
from mnv2_tvm.target import Target

SAMPLES = 6  # points of each space beside the default


def tile_layers(lanes: int) -> list[Layer]:
    """Layers whose channels are ==, %, < and > `lanes`, with odd and tiny images, and batches."""
    half = lanes // 2
    return [
        Layer("conv", 1, 9, 11, 3, lanes, 2),
        Layer("conv", 1, 8, 8, 3, 2 * lanes, 1),
        Layer("conv", 1, 5, 7, 1, half, 1, "linear"),
        Layer("conv", 1, 1, 1, 3, lanes + half, 2),
        Layer("conv", 2, 3, 3, 3, lanes + 3, 2),
        Layer("conv", 1, 2, 2, 4, 3, 1),
        Layer("dwconv", 1, 8, 8, lanes, lanes, 1),
        Layer("dwconv", 1, 8, 8, 2 * lanes, 2 * lanes, 2),
        Layer("dwconv", 1, 9, 11, lanes + half, lanes + half, 1),
        Layer("dwconv", 1, 11, 9, lanes + 3, lanes + 3, 2),
        Layer("dwconv", 1, 5, 4, half, half, 1, "linear"),
        Layer("dwconv", 1, 1, 1, lanes, lanes, 1),
        Layer("dwconv", 1, 2, 2, lanes - 1, lanes - 1, 2),
        Layer("dwconv", 1, 3, 3, 3, 3, 1),
        Layer("dwconv", 2, 7, 5, 2 * lanes, 2 * lanes, 2),
        Layer("dwconv", 1, 2, 3, 5 * lanes, 5 * lanes, 1),  # more panels than rows
        Layer("pwconv", 1, 4, 4, lanes, lanes),
        Layer("pwconv", 1, 5, 7, 8, 2 * lanes, 1, "linear"),
        Layer("pwconv", 1, 3, 3, 12, half, 1, "residual"),
        Layer("pwconv", 1, 2, 2, 7, 3 * lanes + half + 3),
        Layer("pwconv", 1, 7, 5, lanes, lanes + 4, 1, "residual"),
        Layer("pwconv", 2, 3, 5, 16, 5 * lanes, 1, "residual"),
        Layer("pwconv", 1, 1, 1, 40, 10 * lanes + 1, 1, "linear"),
        Layer("pwconv", 2, 1, 3, 6, 1),
        Layer("avgpool", 1, 7, 7, lanes, lanes, 1, "linear"),
        Layer("avgpool", 1, 1, 1, 5 * lanes + 3, 5 * lanes + 3, 1, "linear"),
        Layer("avgpool", 2, 3, 5, half, half, 1, "linear"),
        Layer("avgpool", 1, 2, 2, 20 * lanes, 20 * lanes, 1, "linear"),
    ]


def block_layers(lanes: int) -> list[Layer]:
    """Blocks with odd and tiny images, batches, and channels in every relation to `lanes`."""
    half = lanes // 2
    return [
        Layer("irb", 1, 9, 11, half, half, 1, "residual", 3 * lanes),
        Layer("irb", 1, 8, 8, 5, lanes + half, 2, "linear", 2 * lanes + 3),
        Layer("irb", 2, 7, 5, lanes, half, 2, "linear", 6 * lanes),
        Layer("irb", 1, 1, 1, 3, 3, 1, "residual", lanes),
        Layer("irb", 1, 2, 17, lanes, 2 * lanes, 1, "linear", half),
        Layer("irb", 2, 15, 3, 4, 4, 1, "residual", 4 * lanes + 1),
        Layer("stem", 1, 17, 13, 3, half, 2, "linear", 2 * lanes),
        Layer("stem", 2, 8, 12, 3, 7, 2, "linear", half),
        Layer("stem", 1, 3, 3, 1, lanes, 1, "linear", lanes + 4),
    ]


def kinds() -> list[Target]:
    """A target for each size of the register file."""
    targets = map(Target.load, machines())
    return list({(t.vector.lanes, t.vector.registers): t for t in targets}.values())


def layers_of_kinds() -> list[Any]:
    """(target, layer) for each size of the register file, whether it is here or not."""
    return [
        pytest.param(target, layer, id=f"{target.name}-{layer.name}")
        for target in kinds()
        for layer in tile_layers(target.vector.lanes)
    ]


def layers_to_run() -> list[Any]:
    """(target, layer) for each target; one skip for a target that this host cannot run."""
    parameters = []
    for target in map(Target.load, machines()):
        lacking = target.missing_here()
        if lacking:
            skip = pytest.mark.skip(reason=f"{target.name} needs {', '.join(lacking)}")
            parameters.append(pytest.param(target, None, id=target.name, marks=skip))
            continue
        parameters += [
            pytest.param(target, layer, id=f"{target.name}-{layer.name}")
            for layer in tile_layers(target.vector.lanes) + block_layers(target.vector.lanes)
        ]
    return parameters


@functools.cache
def network_of_layers(width: float, resolution: int, batch: int) -> list[Layer]:
    """The distinct layers of a network."""
    architecture = Architecture(width, resolution, batch=batch)
    network = SourceNetwork.make(architecture, None, seed=0)
    return list(dict.fromkeys(network_layers(network.relax())))


def sample(layer: Layer, target: Target, count: int) -> list[Schedule]:
    """The default and `count` other points of the space, the same in every run."""
    default = default_schedule(layer, target)
    others = [p for p in schedule_class(layer).space(layer, target) if p != default]
    return [default, *random.Random(layer.name).sample(others, min(count, len(others)))]


@functools.cache
def library(layer: Layer, target: str) -> KernelLibrary:
    machine = Target.load(target)
    return KernelLibrary(layer, machine, sample(layer, machine, SAMPLES))


def shares(tasks: int, pieces: int) -> list[tuple[int, int]]:
    """Disjoint spans that cover all tasks, last first; some empty if there are few tasks."""
    bounds = [tasks * piece // pieces for piece in range(pieces + 1)]
    return list(pairwise(bounds))[::-1]


@pytest.mark.parametrize(("target", "layer"), layers_to_run())
def test_kernel_computes_what_torch_does(target: Target, layer: Layer) -> None:
    kernels, operands = library(layer, target.name), Operands.random(layer)
    wanted = torch_result(layer, operands)
    tolerance = 2e-6 * float(np.abs(wanted).max())
    for index, schedule in enumerate(kernels.schedules):
        np.testing.assert_allclose(
            kernels.run(index, operands), wanted, rtol=0, atol=tolerance, err_msg=str(schedule)
        )


@pytest.mark.parametrize(("target", "layer"), layers_to_run())
def test_spans_of_tasks_give_the_bits_of_one_call(target: Target, layer: Layer) -> None:
    """Threads rely on it: whoever does a task, and in whichever order, the result is the same."""
    kernels, operands = library(layer, target.name), Operands.random(layer)
    for index, schedule in enumerate(kernels.schedules):
        whole, tasks = kernels.run(index, operands), schedule.tasks(layer)
        for pieces in (2, 3, tasks):
            parts = kernels.run(index, operands, shares(tasks, pieces))
            np.testing.assert_array_equal(parts, whole, f"{schedule} in {pieces} spans")


@pytest.mark.parametrize(("target", "layer"), layers_to_run())
def test_every_element_belongs_to_one_task(target: Target, layer: Layer) -> None:
    """Tasks write disjoint elements: two threads never write the same one."""
    kernels, operands = library(layer, target.name), Operands.random(layer)
    for index, schedule in enumerate(kernels.schedules):
        writers = np.zeros(layer.output_shape, int)
        for task in range(schedule.tasks(layer)):
            written = ~np.isnan(kernels.run(index, operands, [(task, task + 1)]))
            assert written.any(), f"{schedule}: task {task} writes nothing"
            writers += written
        assert (writers == 1).all(), str(schedule)
        assert np.isnan(kernels.run(index, operands, [(0, 0)])).all()


@pytest.mark.parametrize(
    ("width", "resolution", "batch"), [(1.0, 224, 1), (0.35, 96, 1), (0.75, 47, 2)]
)
def test_spaces_of_networks_hold_distinct_points_inside_the_register_file(
    target: Target, width: float, resolution: int, batch: int
) -> None:
    for layer in network_of_layers(width, resolution, batch):
        space = schedule_class(layer).space(layer, target)
        assert len(set(space)) == len(space) > 0
        assert default_schedule(layer, target) in space
        for point in space:
            assert 0 < point.registers(layer, target) <= target.vector.registers
            assert 0 < point.panel <= layer.out_channels


@pytest.mark.parametrize(("target", "layer"), layers_of_kinds())
def test_spaces_at_the_edge_hold_the_default(target: Target, layer: Layer) -> None:
    space = schedule_class(layer).space(layer, target)
    assert len(set(space)) == len(space) > 0
    assert default_schedule(layer, target) in space
    if len(space) > 1:  # where nothing fits, the smallest tile alone is there
        assert all(p.registers(layer, target) <= target.vector.registers for p in space)


@pytest.mark.parametrize("operator", ["conv", "pwconv", "avgpool"])
def test_every_channel_count_has_a_default_in_its_space(target: Target, operator: Operator) -> None:
    for channels in range(1, 4 * target.vector.lanes + 2):
        layer = Layer(operator, 1, 3, 3, channels, channels)
        assert default_schedule(layer, target) in schedule_class(layer).space(layer, target)


def test_every_channel_count_has_a_default_in_its_space_depthwise() -> None:
    target = Target.load("x86-avx2")
    for channels in range(1, 4 * target.vector.lanes + 2):
        layer = Layer("dwconv", 1, 3, 3, channels, channels)
        assert default_schedule(layer, target) in schedule_class(layer).space(layer, target)


@pytest.mark.parametrize("operator", ["dwconv", "pwconv"])
def test_no_two_points_emit_the_same_kernel(here: Target, operator: str) -> None:
    lanes = here.vector.lanes
    layer = Layer.parse(
        f"f32-pwconv-4x4x8-{lanes}" if operator == "pwconv" else f"f32-dwconv-3x3s1-4x4x{lanes}"
    )
    space = schedule_class(layer).space(layer, here)
    emitted = {tvm_ffi.structural_hash(point.emit(layer, here)) for point in space}
    assert len(emitted) == len(space)


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
            assert found(tirx.stmt.AllocBuffer, branch.then_case)
            assert branch.else_case is None
        for loop in found(tirx.For, body):
            if not found(tirx.stmt.AllocBuffer, loop.body):
                assert not found(tirx.IfThenElse, loop.body)


@pytest.mark.parametrize(("target", "layer"), layers_of_kinds())
def test_decisions_survive_json(target: Target, layer: Layer) -> None:
    for point in sample(layer, target, SAMPLES):
        assert type(point).from_json(json.loads(json.dumps(point.to_json()))) == point


@pytest.mark.parametrize("target", kinds(), ids=lambda target: target.name)
def test_spaces_of_blocks_hold_points_inside_the_register_file(target: Target) -> None:
    for layer in block_layers(target.vector.lanes):
        space = schedule_class(layer).space(layer, target)
        assert len(set(space)) == len(space) > 0, layer.name
        assert default_schedule(layer, target) in space
        for chunk in {p.chunk for p in space}:
            taken = [p.registers(layer, target) for p in space if p.chunk == chunk]
            # A chunk of odd channels may need more: then only its smallest tiles are there.
            assert max(taken) <= max(min(taken), target.vector.registers), (layer.name, chunk)
        assert all(p.from_json(p.to_json()) == p for p in space[:5])


@pytest.mark.parametrize("operator", KERNELS)
@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, None, [1], "zz"])
def test_bad_decisions_are_refused(here: Target, operator: str, value: object) -> None:
    layer = next(lay for lay in tile_layers(8) + block_layers(8) if lay.operator == operator)
    good = default_schedule(layer, here).to_json()
    kernel = schedule_class(layer)
    for name in good:
        with pytest.raises(UserError, match=name):
            kernel.from_json({**good, name: value})
        with pytest.raises(UserError, match="are not"):
            kernel.from_json({key: good[key] for key in good if key != name})
    with pytest.raises(UserError, match="unknown_decision"):
        kernel.from_json({**good, "unknown_decision": 1})


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
