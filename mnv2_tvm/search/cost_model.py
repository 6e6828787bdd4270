"""The cost model: XGBoost over all layers of a target, from every measurement in its log.

It predicts how far a candidate is from the best of its own layer, so that what one layer teaches
about tiles and registers helps to rank the next. Times of other machines are scaled to one first.
"""

from collections.abc import Iterable
from math import log, log2, prod
from statistics import median
from typing import get_args

import numpy as np
import xgboost

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Epilogue, Layer, Operator
from mnv2_tvm.records.entries import Measurement
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.target import Target

_FEWEST_ROWS = 16  # below this a model knows less than chance
_NUMBERS = (
    *("tile_m", "tile_n", "tile_y", "tile_x", "tile_c", "unroll_k"),
    *("rows", "chunk", "expand_m", "expand_n", "project_m", "project_n"),
)
_ORDERS = ("mn", "nm", "cyx", "ycx", "yxc")


class CostModel:
    """Ranks candidates; until it has been fitted to enough rows it gives them all the same."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._model: xgboost.Booster | None = None

    def fit(self, measurements: Iterable[Measurement]) -> None:
        """Learn from all measurements that have a time."""
        times: dict[Layer, dict[Machine, dict[Schedule, float]]] = {}
        for measurement in measurements:
            if measurement.median_us is not None:
                machines = times.setdefault(measurement.layer, {})
                mine = machines.setdefault(measurement.machine, {})
                mine[measurement.schedule] = measurement.median_us
        rows, labels = [], []
        for layer, pairs in [(layer, on_one_scale(table)) for layer, table in times.items()]:
            best = min(time for _, time in pairs)
            for schedule, time in pairs:
                rows.append(features(layer, schedule, self._target))
                labels.append(log(best / time))
        if len(rows) < _FEWEST_ROWS:
            return
        parameters = {"max_depth": 6, "eta": 0.12, "seed": self._seed, "nthread": 1}
        data = xgboost.DMatrix(np.array(rows), np.array(labels))
        self._model = xgboost.train(parameters, data, num_boost_round=150)

    def rank(self, layer: Layer, candidates: list[Schedule]) -> list[Schedule]:
        """The candidates, the most promising first."""
        if self._model is None or not candidates:
            return candidates
        rows = np.array([features(layer, c, self._target) for c in candidates])
        order = np.argsort(-self._model.predict(xgboost.DMatrix(rows)), kind="stable")
        return [candidates[index] for index in order]


def on_one_scale(machines: dict[Machine, dict[Schedule, float]]) -> list[tuple[Schedule, float]]:
    """The times of a layer on all machines, as if on the one that measured most of it.

    The ratio of two machines is that of the schedules that both measured; without any, the best of
    both count as equally fast.
    """
    first, *others = sorted(machines.values(), key=len, reverse=True)
    pairs = list(first.items())
    for times in others:
        ratios = [first[schedule] / times[schedule] for schedule in times.keys() & first.keys()]
        ratio = median(ratios) if ratios else min(first.values()) / min(times.values())
        pairs += [(schedule, ratio * time) for schedule, time in times.items()]
    return pairs


def features(layer: Layer, schedule: Schedule, target: Target) -> list[float]:
    """What may decide a candidate's speed: the shape, the decisions, and what follows of both."""
    decisions = schedule.to_json()
    shape = [*layer.input_shape, layer.out_channels]
    extents = {
        "tile_m": prod(layer.input_shape[:3]),
        "tile_n": layer.out_channels,
        "tile_y": layer.out_height,
        "tile_x": layer.out_width,
        "tile_c": layer.hidden_channels or layer.out_channels,
        "unroll_k": layer.in_channels,
        "rows": layer.out_height,
        "chunk": layer.hidden_channels,
        "expand_m": layer.parts[0].out_width,
        "expand_n": layer.hidden_channels,
        "project_m": layer.out_height * layer.out_width,
        "project_n": layer.out_channels,
    }
    tiles = [int(decisions.get(name, 0)) for name in _NUMBERS]
    # The share of the last tile that is empty: what a left-over tile wastes.
    waste = [
        -extents[name] % tile / extents[name] if tile else 0.0
        for name, tile in zip(_NUMBERS, tiles, strict=True)
    ]
    panel_bytes = schedule.panel_bytes(layer)
    return [
        *(float(layer.operator == name) for name in get_args(Operator)),
        *(float(layer.epilogue == name) for name in get_args(Epilogue)),
        *(float(decisions.get("order") == name) for name in _ORDERS),
        *(log2(extent) for extent in shape),
        float(layer.window.stride),
        log2(layer.flops),
        *map(float, tiles),
        *waste,
        schedule.registers(layer, target) / target.vector.registers,
        log2(schedule.tasks(layer)),
        4 * schedule.scratch_floats(layer) / target.cache.l2_bytes,
        panel_bytes / target.cache.l1_bytes,
        panel_bytes / target.cache.l2_bytes,
    ]
