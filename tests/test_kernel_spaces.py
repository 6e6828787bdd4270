"""Spaces and decisions: distinct points inside the register file, the default among them."""

import functools
import json
import re
from typing import get_args

import pytest
import tvm_ffi
from kernel_layers import SAMPLES, block_layers, each_kind, sample, tile_layers

from mnv2_tvm.dtype import F32
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer, Operator
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import default_schedule, network_layers
from mnv2_tvm.target import Target


@functools.cache
def layers_of_networks() -> list[Layer]:
    """The distinct layers of a large, a small and an odd network."""
    sizes = ((1.0, 224, 1), (0.35, 96, 1), (0.75, 47, 2))
    architectures = [Architecture(width, size, batch=batch) for width, size, batch in sizes]
    networks = [SourceNetwork.make(architecture, None, seed=0) for architecture in architectures]
    return list(dict.fromkeys(lay for net in networks for lay in network_layers(net.relax())))


def space_of(layer: Layer, target: Target) -> list[Schedule]:
    """The search space of a layer: distinct points, the default among them."""
    space = list(search_space(layer, target))
    assert len(set(space)) == len(space) > 0, layer.name
    assert default_schedule(layer, target) in space, layer.name
    return space


def test_spaces_of_networks_hold_distinct_points_inside_the_register_file(target: Target) -> None:
    for layer in layers_of_networks():
        space = space_of(layer, target)
        for point in space:
            assert 0 < point.registers(layer, target) <= target.vector.registers, (layer, point)
            assert 0 < point.panel <= layer.out_channels, (layer, point)


@each_kind
def test_spaces_at_the_edge_hold_the_default(target: Target) -> None:
    for layer in tile_layers(target.vector.lanes(F32)):
        space = space_of(layer, target)
        if len(space) > 1:  # where nothing fits, the smallest tile alone is there
            most = max(p.registers(layer, target) for p in space)
            assert most <= target.vector.registers, layer.name


def test_every_channel_count_has_a_default_in_its_space(target: Target) -> None:
    operators: tuple[Operator, ...] = ("conv", "pwconv", "avgpool", "dwconv")
    for operator in operators:
        for channels in range(1, 4 * target.vector.lanes(F32) + 2):
            layer = Layer.of(operator, 1, 3, 3, channels, channels)
            space = list(search_space(layer, target))
            assert default_schedule(layer, target) in space, layer.name


@pytest.mark.parametrize("operator", ["dwconv", "pwconv"])
def test_no_two_points_emit_the_same_kernel(here: Target, operator: str) -> None:
    lanes = here.vector.lanes(F32)
    layer = Layer.parse(
        f"f32-pwconv-4x4x8-{lanes}" if operator == "pwconv" else f"f32-dwconv-3x3s1-4x4x{lanes}"
    )
    space = list(search_space(layer, here))
    emitted = {tvm_ffi.structural_hash(point.emit(layer, here)) for point in space}
    assert len(emitted) == len(space)


@each_kind
def test_decisions_survive_json(target: Target) -> None:
    layers = tile_layers(target.vector.lanes(F32)) + block_layers(target.vector.lanes(F32))
    for point in (point for layer in layers for point in sample(layer, target, SAMPLES)):
        assert type(point).from_json(json.loads(json.dumps(point.to_json()))) == point


@each_kind
def test_spaces_of_blocks_hold_points_inside_the_register_file(target: Target) -> None:
    for layer in block_layers(target.vector.lanes(F32)):
        space = space_of(layer, target)
        for chunk in {p.chunk for p in space}:
            taken = [p.registers(layer, target) for p in space if p.chunk == chunk]
            # A chunk of odd channels may need more: then only its smallest tiles are there.
            assert max(taken) <= max(min(taken), target.vector.registers), (layer.name, chunk)


def test_spaces_of_blocks_have_light_tiles_beside_the_full_ones() -> None:
    target = Target.load("x86-avx512")
    layer = Layer.parse("f32-irb-3x3s1-56x56x24-144-24-residual")
    space = list(search_space(layer, target))
    for part in ("expand", "project"):
        tiles = {(getattr(point, f"{part}_m"), getattr(point, f"{part}_n")) for point in space}
        light = {(m, n) for m, n in tiles if n == target.vector.lanes(F32)}
        assert light and all(2 * m <= target.vector.registers for m, _ in light)
        assert any(n > target.vector.lanes(F32) for _, n in tiles)


@pytest.mark.parametrize("operator", get_args(Operator))
def test_bad_decisions_are_refused(here: Target, operator: str) -> None:
    layer = next(lay for lay in tile_layers(8) + block_layers(8) if lay.operator == operator)
    good = default_schedule(layer, here).to_json()
    kernel = type(default_schedule(layer, here))
    assert kernel.from_json(good) == default_schedule(layer, here)
    for name in good:
        for value in (0, -1, 1.0, "1", True, None, [1], "zz"):
            with pytest.raises(UserError, match=f"{name} = {re.escape(repr(value))}"):
                kernel.from_json({**good, name: value})
        with pytest.raises(UserError, match=name):
            kernel.from_json({key: good[key] for key in good if key != name})
    with pytest.raises(UserError, match="unknown_decision"):
        kernel.from_json({**good, "unknown_decision": 1})
