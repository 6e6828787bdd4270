"""Check the numbers of a built library on a device, then time it there."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.host import crowd_warning
from mnv2_tvm.measure.bench_result import BenchResult, Latency, layer_times, rate_warnings
from mnv2_tvm.measure.check import check_library
from mnv2_tvm.measure.device import Device, Network
from mnv2_tvm.model.source import Source
from mnv2_tvm.numbers import Floats
from mnv2_tvm.versions import versions

_ROUNDS = 5
# Of the last round over the first: said above this, for rounds of half a second and more.
_DRIFT, _LONG_S = 1.05, 0.5


@dataclass(frozen=True)
class Plan:
    """How often what is timed. Raises UserError for counts that cannot be."""

    runs: int = 100
    warmup: int = 10
    seed: int = 0  # of the input
    per_layer: bool = False

    def __post_init__(self) -> None:
        if self.runs < 1 or self.warmup < 0:
            words = f"{self.runs} runs after {self.warmup} to warm up"
            raise UserError(f"{words}: give 1 or more, and 0 or more")


def measure(
    device: Device,
    folder: Path,
    source: Source,
    plan: Plan,
    threads: int | None = None,
) -> BenchResult:
    """Check the library in `folder` against `source`, then time it on `device`.

    `threads` is by default the count of the build. Raises UserError for wrong numbers, for times
    that cannot be, and where the library cannot run there or is of another shape.
    """
    with device.open(folder, threads) as network:
        images = source.images(plan.seed)
        error = check_library(folder, network, source, images)
        memory = network.memory()
        before = network.peak_gflop_per_s()
        if plan.warmup:
            network.times_s(images, plan.warmup)
        rounds, states = _rounds(network, images, plan.runs)
        samples = network.layers_s(images, plan.runs) if plan.per_layer else np.empty((0, 0))
        peak = max(before, network.peak_gflop_per_s())
        told, manifest, used = network.told, network.manifest, network.threads
    times_s = [one for times in rounds for one in times]
    _check_possible(device.name, times_s, samples)
    latency = Latency.of([1e3 * one for one in times_s])
    rate = manifest.flops / latency.median_ms / 1e6
    medians_us = 1e6 * np.median(samples, axis=0) if plan.per_layer else None
    layers = () if medians_us is None else layer_times(manifest, medians_us, peak)
    return BenchResult(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        host=told | _courses(states),
        versions=versions(),
        manifest=manifest,
        threads=used,
        runs=plan.runs,
        warmup=plan.warmup,
        seed=plan.seed,
        relative_error=error,
        latency=latency,
        gflop_per_s=rate,
        peak_gflop_per_s=peak,
        peak_share=rate / peak,
        memory=memory,
        layers=layers,
        emulated=bool(told["emulated"]),
        warnings=(
            *_warnings(rounds, bool(told["emulated"])),
            *crowd_warning(max(threads or 1, used), told["cores"]),
            *rate_warnings(rate, peak, layers),
        ),
    )


def _rounds(
    network: Network, images: Floats, runs: int
) -> tuple[list[list[float]], list[dict[str, Any]]]:
    """The seconds of all runs in rounds, and what the machine told of itself after each."""
    rounds, states = [], []
    for number in range(min(_ROUNDS, runs)):
        if number:
            time.sleep(network.rest_s)
        share = runs // _ROUNDS + (number < runs % _ROUNDS)
        rounds.append(network.times_s(images, share))
        states.append(network.state())
    return rounds, states


def _courses(states: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Clock and temperature over the rounds; empty where the machine does not tell."""
    keys = {"clocks_mhz": "clock_mhz", "temperatures_c": "temperature_c"}
    return {name: [one[key] for one in states if one.get(key)] for name, key in keys.items()}


def _warnings(rounds: list[list[float]], emulated: bool) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    if emulated:
        found.append("emulated: the numbers are real, the times are not those of a board")
    drift = float(np.median(rounds[-1]) / np.median(rounds[0]))
    if drift > _DRIFT and sum(rounds[0]) > _LONG_S:
        found.append(
            f"the machine slowed down by {drift - 1:.0%} while measured: let it cool, or fix its "
            "clock with the performance governor"
        )
    return found


def _check_possible(name: str, times_s: list[float], layers_s: np.ndarray) -> None:
    """Raises DeviceError for times that a run cannot take, of a broken clock or by intent.

    A layer may take 0: the steps of a clock can be coarse.
    """
    whole = np.array(times_s)
    sound = np.isfinite(whole).all() and np.isfinite(layers_s).all()
    if not (sound and np.all(whole > 0) and np.all(layers_s >= 0)):
        words = f"{name} tells times that cannot be; is its clock right?"
        raise DeviceError(Kind.ERROR, words, name)
