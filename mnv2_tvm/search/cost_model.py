"""The cost model: XGBoost over all layers of a target, from every measurement in its log.

What it sees of a candidate, its features, comes from the candidate's kernel.

It predicts how far a candidate is from the best of its own layer, so that what one layer teaches
about tiles and registers helps to rank the next. Times of other machines are scaled to one first.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log
from statistics import median

import numpy as np
import xgboost

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.records.entries import Measurement
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.target import Target

_FEWEST_ROWS = 16  # below this a model knows less than chance

Features = Mapping[str, float]  # by name


class CostModel:
    """Ranks candidates; until it has been fitted to enough rows it gives them all the same."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._model: xgboost.Booster | None = None
        self._columns: list[str] = []  # names of the features it knows

    def fit(self, measurements: Iterable[Measurement]) -> None:
        """Learn from all measurements that have a time."""
        times: dict[Layer, dict[Machine, dict[Schedule, float]]] = {}
        for measurement in measurements:
            if measurement.median_us is not None:
                machines = times.setdefault(measurement.layer, {})
                mine = machines.setdefault(measurement.machine, {})
                mine[measurement.schedule] = measurement.median_us
        rows, labels = list[Features](), list[float]()
        for layer, pairs in [(layer, on_one_scale(table)) for layer, table in times.items()]:
            best = min(time for _, time in pairs)
            for schedule, time in pairs:
                rows.append(schedule.features(layer, self._target))
                labels.append(log(best / time))
        if len(rows) < _FEWEST_ROWS:
            return
        parameters = {"max_depth": 6, "eta": 0.12, "seed": self._seed, "nthread": 1}
        self._columns = sorted({name for row in rows for name in row})
        data = xgboost.DMatrix(self._matrix(rows), np.array(labels))
        self._model = xgboost.train(parameters, data, num_boost_round=150)

    def rank(self, layer: Layer, candidates: list[Schedule]) -> list[Schedule]:
        """The candidates, the most promising first."""
        if self._model is None or not candidates:
            return candidates
        rows = self._matrix([c.features(layer, self._target) for c in candidates])
        order = np.argsort(-self._model.predict(xgboost.DMatrix(rows)), kind="stable")
        return [candidates[index] for index in order]

    def _matrix(self, rows: Sequence[Features]) -> np.ndarray:
        return np.array([[row.get(name, 0.0) for name in self._columns] for row in rows])


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
