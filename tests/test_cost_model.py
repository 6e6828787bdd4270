"""The cost model: it learns the order of what it has not seen, from right numbers alone."""

import random
from math import isfinite
from typing import Any

import numpy as np
import pytest
from small_search import space_of

from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import network_layers
from mnv2_tvm.records.entries import Measurement
from mnv2_tvm.search.cost_model import CostModel
from mnv2_tvm.target import Target


def synthetic_time(schedule: Any, target: Target, layer: Layer) -> float:
    """A speed that follows from the decisions: full registers and few left-over rows are fast."""
    waste = -layer.height * layer.width % schedule.tile_m
    registers = schedule.registers(layer, target)
    return (40 - registers) * (1 + 0.1 * waste) * (1.3 if schedule.order == "mn" else 1.0)


def rank_correlation(target: Target, layer: Layer, ranked: list[Schedule]) -> float:
    """Spearman's, between the order of a ranking and the true times."""
    times = np.array([synthetic_time(schedule, target, layer) for schedule in ranked])
    places = np.argsort(np.argsort(times, kind="stable"))
    return float(np.corrcoef(places, np.arange(len(ranked)))[0, 1])


def measured(target: Target, layer: Layer, schedules: list[Schedule]) -> list[Measurement]:
    times = [synthetic_time(schedule, target, layer) for schedule in schedules]
    return [
        Measurement(layer, schedule, median_us, 0.0, None)
        for schedule, median_us in zip(schedules, times, strict=True)
    ]


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    """The distinct layers of MobileNetV2-1.0-224."""
    network = SourceNetwork.make(Architecture(1.0, 224), None, 0)
    return list(dict.fromkeys(network_layers(network.relax())))


@pytest.fixture(scope="module")
def pointwise(layers: list[Layer]) -> list[Layer]:
    """Layers with large spaces, of one kernel."""
    return [layer for layer in layers if layer.operator == "pwconv"][:6]


def shuffled(target: Target, layer: Layer) -> list[Schedule]:
    space = space_of(layer, target)
    random.Random(1).shuffle(space)
    return space


# The features take no more of a target than its registers and its caches.
two_targets = pytest.mark.parametrize("target", ["x86-avx2", "rasp4"], indirect=True)
one_target = pytest.mark.parametrize("target", ["x86-avx2"], indirect=True)


@two_targets
def test_model_ranks_what_it_has_not_seen(target: Target, pointwise: list[Layer]) -> None:
    """Other points of the same layer, and points of another layer, with a wide margin to chance."""
    *known, new = pointwise
    model = CostModel(target, seed=0)
    rows = []
    for layer in known:
        space = shuffled(target, layer)
        rows += measured(target, layer, space[: len(space) // 2])
    model.fit(rows)
    space = shuffled(target, known[0])
    unseen = space[len(space) // 2 :]
    ranked = model.rank(known[0], unseen)
    assert sorted(map(str, ranked)) == sorted(map(str, unseen))
    assert rank_correlation(target, known[0], unseen) < 0.5
    assert rank_correlation(target, known[0], ranked) > 0.8
    assert rank_correlation(target, new, model.rank(new, shuffled(target, new))) > 0.6


@one_target
def test_model_learns_nothing_from_failures(target: Target, pointwise: list[Layer]) -> None:
    layer = pointwise[0]
    space = shuffled(target, layer)
    failures = [
        Measurement(layer, schedule, None, None, Failure(Kind.CRASH, "x")) for schedule in space
    ]
    alone, beside = CostModel(target, seed=0), CostModel(target, seed=0)
    alone.fit(measured(target, layer, space[:30]))
    beside.fit(failures + measured(target, layer, space[:30]))
    assert beside.rank(layer, space) == alone.rank(layer, space) != space


@one_target
def test_model_with_too_few_rows_leaves_the_order(target: Target, pointwise: list[Layer]) -> None:
    layer = pointwise[0]
    space = shuffled(target, layer)
    model = CostModel(target, seed=0)
    assert model.rank(layer, space) == space
    model.fit([])
    model.fit(measured(target, layer, space[:15]))
    assert model.rank(layer, space) == space
    model.fit(measured(target, layer, space[:16]))
    assert model.rank(layer, space) != space
    assert model.rank(layer, []) == []


def test_features_are_finite_numbers_and_tell_candidates_apart(
    target: Target, layers: list[Layer]
) -> None:
    """Every decision shows: points that differ in one have other features."""
    blocks = [Layer.parse("f32-irb-3x3s1-14x14x64-384-64-residual")]
    assert {layer.operator for layer in layers} == {"conv", "dwconv", "pwconv", "avgpool"}
    for layer in layers + blocks:
        space = space_of(layer, target)
        some = random.Random(1).sample(space, min(len(space), 100))
        rows = [point.features(layer, target) for point in (*some, space[0], space[-1])]
        assert all(isfinite(value) for row in rows for value in row.values()), layer.name
        distinct = {tuple(sorted(row.items())) for row in rows}
        assert len(distinct) == len({*some, space[0], space[-1]}), layer.name
        for name, value in space[0].to_json().items():
            shown = rows[-2].get(f"{name}={value}", rows[-2].get(name))
            assert shown == (1.0 if isinstance(value, str) else value), f"{layer.name}: {name}"
