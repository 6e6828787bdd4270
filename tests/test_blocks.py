"""Whole blocks as one kernel: found in the network, chosen, built, and run by threads."""

import json
from pathlib import Path

import numpy as np
import pytest

from mnv2_tvm import load
from mnv2_tvm.build import build
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import Schedule, default_schedule
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.pipeline import compile_network, network_blocks, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Measurement, Record
from mnv2_tvm.search.in_network import least_memory
from mnv2_tvm.search.layers import LayerSearch
from mnv2_tvm.search.variants import choose, likely_first, memory_savers, variants
from mnv2_tvm.target import Target

SMALL = Architecture(0.35, 64, classes=10)
BLOCK = Layer.parse("f32-irb-3x3s1-14x14x8-48-8-residual")


def fused_defaults(layers: list[Layer], target: Target) -> dict[Layer, Schedule | None]:
    return {layer: default_schedule(layer, target) for layer in layers}


def test_a_network_has_the_stem_and_all_blocks_with_an_expansion() -> None:
    module = SourceNetwork.make(Architecture(), None, 0).relax()
    names = [block.name for block in network_blocks(module)]
    assert len(names) == 17
    assert names[0] == "f32-stem-3x3s2-224x224x3-32-16-linear"
    assert names[1] == "f32-irb-3x3s2-112x112x16-96-24-linear"
    assert names[2] == "f32-irb-3x3s1-56x56x24-144-24-residual"
    assert names[-1] == "f32-irb-3x3s1-7x7x160-960-320-linear"
    in_blocks = [part for block in network_blocks(module) for part in block.parts]
    assert network_layers(module)[: len(in_blocks)] == in_blocks


@pytest.mark.parametrize(("resolution", "batch"), [(64, 1), (47, 2)])
def test_fused_and_separate_networks_answer_as_torch_does(
    here: Target, tmp_path: Path, resolution: int, batch: int
) -> None:
    source = SourceNetwork.make(Architecture(0.35, resolution, 10, batch), None, 4)
    blocks = network_blocks(source.relax())
    images = source.images(1)
    workspace = []
    for name, tuned in [
        ("fused", fused_defaults(blocks, here)),
        ("separate", dict.fromkeys(blocks)),
    ]:
        folder = tmp_path / name
        manifest = build(here, source, folder, decisions=Decisions(here, tuned))
        workspace.append(manifest.workspace_bytes)
        network = load(folder)
        alone = network(images)
        assert relative_error(alone, source.reference(images)) < 1e-4
        for threads in (2, 3, 5):
            network.set_threads(threads)
            np.testing.assert_array_equal(network(images), alone)
        network.set_threads(1)
    assert workspace[0] < workspace[1]


def test_a_fused_network_names_its_blocks_and_leaves_out_their_layers(
    here: Target, tmp_path: Path
) -> None:
    source = SourceNetwork.make(SMALL, None, 0)
    blocks = network_blocks(source.relax())
    build(here, source, tmp_path / "out", decisions=Decisions(here, fused_defaults(blocks, here)))
    names = [layer["name"] for layer in Manifest.read(tmp_path / "out").layers]
    assert names[: len(blocks)] == [block.name for block in blocks]
    assert not any("dwconv" in name for name in names)


def test_by_default_a_block_whose_weights_exceed_the_cache_is_not_fused() -> None:
    target = Target.load("rasp4")
    decisions = Decisions(target, {})
    assert decisions(Layer.parse("f32-irb-3x3s2-112x112x16-96-24-linear")) is not None
    assert decisions(Layer.parse("f32-irb-3x3s1-7x7x160-960-160-residual")) is None


def test_memory_of_the_whole_network_with_the_decisions_of_a_board() -> None:
    """The expanded tensors are in scratch memory, a few rows at a time."""
    target = Target.load("rasp4")
    module = SourceNetwork.make(Architecture(), None, 0).relax()
    fused = compile_network(module, target, Decisions(target, {}))
    separate = compile_network(
        module, target, Decisions(target, dict.fromkeys(network_blocks(module)))
    )
    assert separate.plan.workspace_bytes > 6_000_000
    assert fused.plan.workspace_bytes <= 1_250_000
    assert 0 < fused.plan.scratch_bytes < 250_000


def test_the_layer_before_the_classifier_fetches_its_weights(here: Target) -> None:
    module = SourceNetwork.make(SMALL, None, 0).relax()
    compiled = compile_network(module, here, Decisions(here, {}))
    head, _, classifier = (step.kernel for step in compiled.steps[-3:])
    kernels = {
        name.name_hint: str(function) for name, function in compiled.module.functions.items()
    }
    assert "prefetch" in kernels[head]
    assert "prefetch" not in kernels[classifier]


def test_records_of_blocks_may_be_without_a_schedule() -> None:
    record = Record(BLOCK, 1, None, 5.0, (4.0, 5.0, 6.0), 0.0, {})
    table = json.loads(record.to_json())
    assert table["schedule"] is None and Record.from_json(table) == record
    with pytest.raises(UserError, match="only a block"):
        Record.from_json({**table, "layer": "f32-pwconv-4x4x8-8"})


def searched(layer: Layer, target: Target, times: list[float]) -> LayerSearch:
    space = list(search_space(layer, target))
    search = LayerSearch(layer, space, space[0])
    for schedule, time in zip(space, times, strict=False):
        search.times[schedule] = Measurement(layer, schedule, time, 0.0, None)
    return search


def test_variants_measure_every_layer_apart_and_every_block_fused(here: Target) -> None:
    dense = BLOCK.parts[0]
    searches = [searched(dense, here, [1.0, 1.1, 5.0]), searched(BLOCK, here, [3.0, 3.1, 3.2])]
    wanted = variants(searches, [BLOCK], Decisions(here, {}))
    assert [choice[BLOCK] is None for choice in wanted] == [True, True, False, False, False]
    assert len({choice[dense] for choice in wanted[:2]}) == 2


def test_where_time_is_short_the_best_of_layers_and_of_blocks_come_first(here: Target) -> None:
    """And a block whose kernel no variant had gets no record that says layer by layer."""
    dense = BLOCK.parts[0]
    searches = [searched(dense, here, [1.0, 1.1, 1.1]), searched(BLOCK, here, [3.0, 3.1])]
    wanted = variants(searches, [BLOCK], Decisions(here, {}))
    assert [choice[BLOCK] is None for choice in wanted] == [True, True, True, False, False]
    assert likely_first(wanted, [BLOCK]) == [0, 3, 1, 4, 2]
    apart = {part: [1.0] for part in BLOCK.parts}
    assert choose(searches, [(wanted[0], apart)]).keys() == {dense}


def test_the_last_variant_has_the_default_of_every_layer(here: Target) -> None:
    search = searched(BLOCK, here, [3.0, 3.1, 9.0])
    search.default = search.space[2]  # far from the best alone; inside the network it may be
    wanted = variants([search], [BLOCK], Decisions(here, {}))
    assert [choice[BLOCK] for choice in wanted] == [None, *search.space[:3]]


@pytest.mark.parametrize(("fused_us", "is_fused"), [(5.9, True), (6.1, False)])
def test_a_block_is_fused_where_it_beats_its_layers(
    here: Target, fused_us: float, is_fused: bool
) -> None:
    schedule = default_schedule(BLOCK, here)
    apart = {part: [time] for part, time in zip(BLOCK.parts, (1.0, 2.0, 3.0), strict=True)}
    profiled = [({BLOCK: None}, apart), ({BLOCK: schedule}, {BLOCK: [fused_us]})]
    searches = [searched(BLOCK, here, [1.0])]
    kept = choose(searches, profiled)[BLOCK]
    assert kept.schedule == (schedule if is_fused else None)
    assert kept.samples_us[1] == (fused_us if is_fused else 6.0)
    assert choose(searches, profiled, fused=[BLOCK])[BLOCK].schedule == schedule


def test_blocks_that_save_memory_are_those_of_large_images() -> None:
    module = SourceNetwork.make(Architecture(1.0, 224), None, 0).relax()
    blocks = network_blocks(module)
    savers = memory_savers(blocks)
    assert {block.height for block in savers} == {224, 112, 56, 28}
    assert all(block.window.stride == 1 for block in savers if block.height == 28)


@pytest.mark.parametrize(
    ("times_ms", "kept"), [([5.0], 0), ([5.0, 5.1], 0), ([5.1, 5.0], 0), ([5.2, 5.0], 1)]
)
def test_of_a_tie_the_network_with_less_memory_is_kept(times_ms: list[float], kept: int) -> None:
    assert least_memory(times_ms) == kept
