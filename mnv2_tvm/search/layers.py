"""The first pass of the search: candidates of each layer, measured alone."""

import itertools
import random
from dataclasses import dataclass, field

from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Kind
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.kernels import Schedule, default_schedule
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.device import Device
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.records.entries import RETRIED, Measurement
from mnv2_tvm.records.machine import Machine, is_possible
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.search.candidate_bench import CandidateBench, Tally
from mnv2_tvm.search.cost_model import CostModel
from mnv2_tvm.target import Target

_BATCH = 16
_EXPLORED = 4  # of a batch: drawn at random, where the model may be wrong
_PATIENCE = 2  # batches without a gain before a layer is done
_GAIN = 0.995


@dataclass
class LayerSearch:
    """What is known of one layer so far."""

    layer: Layer
    space: list[Schedule]
    default: Schedule
    times: dict[Schedule, Measurement] = field(default_factory=dict)  # of this machine
    elsewhere: list[Measurement] = field(default_factory=list)  # they teach the cost model
    late: set[Schedule] = field(default_factory=set)  # timed out in an earlier search
    idle_batches: int = 0

    @property
    def best(self) -> Measurement | None:
        """The fastest candidate with right numbers."""
        timed = [m for m in self.times.values() if m.median_us is not None]
        return min(timed, key=lambda m: m.median_us or 0.0, default=None)

    @property
    def best_us(self) -> float:
        """Its time; infinite if there is none."""
        return self.best.median_us or 0.0 if self.best else float("inf")

    @property
    def default_is_right(self) -> bool:
        """Whether the default schedule was measured, with right numbers."""
        return self.default in self.times and self.times[self.default].median_us is not None

    def unmeasured(self) -> list[Schedule]:
        """Points of the space that were not tried yet."""
        return [schedule for schedule in self.space if schedule not in self.times]

    def done(self, trials: int) -> bool:
        """Nothing more to try, or nothing gained of late."""
        enough = len(self.times) >= min(trials, len(self.space))
        return enough or self.idle_batches >= _PATIENCE

    def near_best(self, count: int, factor: float) -> list[Measurement]:
        """The fastest `count` candidates within `factor` of the best, the best first."""
        timed = [m for m in self.times.values() if m.median_us is not None]
        timed.sort(key=lambda m: m.median_us or 0.0)
        return [m for m in timed if (m.median_us or 0.0) <= factor * self.best_us][:count]


def known_layers(
    layers: list[Layer], target: Target, log: TuningLog, machine: Machine
) -> list[LayerSearch]:
    """A search for each distinct layer, with what the log already knows, costliest first.

    Only what was measured on `machine` counts as tried.
    """
    searches = {}
    for layer in sorted(set(layers), key=lambda one: -one.flops * layers.count(one)):
        default = default_schedule(layer, target)
        searches[layer] = LayerSearch(layer, list(search_space(layer, target)), default)
    for measurement in log.measurements():
        search = searches.get(measurement.layer)
        if search and measurement.schedule in search_space(search.layer, target):
            _remember(search, measurement, target, machine)
    for search in searches.values():
        if search.best is None:  # the machine was broken, perhaps, or is mended
            search.times.clear()
    return list(searches.values())


def _remember(
    search: LayerSearch, measurement: Measurement, target: Target, machine: Machine
) -> None:
    schedule, time_us = measurement.schedule, measurement.median_us
    if time_us is not None and not is_possible(search.layer.flops, time_us, target):
        return
    if measurement.machine != machine:
        search.elsewhere.append(measurement)
    elif measurement.failure is None or measurement.failure.kind not in RETRIED:
        search.times[schedule] = measurement
        search.late.discard(schedule)
    elif measurement.failure.kind is Kind.TIMEOUT and schedule not in search.times:
        search.late.add(schedule)


def search_layers(
    searches: list[LayerSearch],
    target: Target,
    log: TuningLog,
    machine: Machine,
    *,
    trials: int,
    seed: int,
    reserve_s: float,
    progress: Progress,
    device: Device,
    builders: WorkerPool,
) -> Tally:
    """Measure batches, layer after layer, until all are done or the time is up but `reserve_s`.

    On `device`, which is `machine`; `builders` compile. Raises UserError with the first failure if
    there is no time for any layer.
    """
    model, draw, tally = CostModel(target, seed), random.Random(seed), Tally()

    def left_s() -> float:
        """All of it until there is a measurement, without which the reserve is of no use."""
        return max(0.0, progress.left_s - (reserve_s if tally.measured else 0))

    with scratch_folder() as scratch:
        bench = CandidateBench(target, log, machine, scratch, builders, device, tally, left_s)
        while active := [s for s in searches if not s.done(trials)]:
            known = [[*search.times.values(), *search.elsewhere] for search in searches]
            model.fit(itertools.chain(*known))
            for search in active:
                if left_s() <= 0:
                    progress.line("the time budget is used up; the search ends here")
                    break
                before = search.best_us
                room = trials - len(search.times)
                batch = _propose(search, model, draw)[:room]
                for count, measurement in enumerate(bench.measure(search.layer, batch), start=1):
                    search.times[measurement.schedule] = measurement
                    progress.now(
                        f"{search.layer.name}: candidate {count} of {len(batch)}, "
                        f"best {search.best_us:.1f} us"
                    )
                gained = search.best_us < before * _GAIN
                search.idle_batches = 0 if gained else search.idle_batches + 1
                if search.times:  # else the time was up before the first
                    progress.line(_batch_line(search))
            else:
                continue
            break
    if not any(search.best for search in searches):
        late = "the time budget was used up before the first candidate; give a longer one"
        first = f"first failure: {tally.first_failure}" if tally.first_failure else late
        raise UserError(f"nothing could be measured; {first}")
    return tally


def _propose(search: LayerSearch, model: CostModel, draw: random.Random) -> list[Schedule]:
    """The next batch: the default first, then the model's favourites and a few at random.

    What timed out before comes last: it may cost the whole deadline again.
    """
    fresh = search.unmeasured()
    draw.shuffle(fresh)
    fresh = [s for s in fresh if s == search.default or s not in search.late] or fresh
    batch = [search.default] if search.default in fresh else []
    ranked = [schedule for schedule in model.rank(search.layer, fresh) if schedule not in batch]
    batch += ranked[: _BATCH - _EXPLORED - len(batch)]
    batch += [schedule for schedule in fresh if schedule not in batch][: _BATCH - len(batch)]
    return batch


def _batch_line(search: LayerSearch) -> str:
    if search.best is None:
        return f"{search.layer.name:<44} {len(search.times):>4} tried, none right yet"
    rate = search.layer.flops / search.best_us * 1e-3
    return (
        f"{search.layer.name:<44} {len(search.times):>4} tried, best {search.best_us:8.1f} us "
        f"{rate:5.0f} GFLOP/s  {search.best.schedule}"
    )
