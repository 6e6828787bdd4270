"""Figures that cannot be: refused, or printed with a warning."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Built

from mnv2_tvm.deploy.loader import load
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError
from mnv2_tvm.measure.bench import Plan, measure
from mnv2_tvm.measure.bench_result import BenchResult
from mnv2_tvm.measure.peak import PeakProbe
from mnv2_tvm.numbers import Floats


class OddNetwork:
    """The tiny network with right numbers and made-up times, on a board of its own."""

    board, rest_s, threads = "board:9090", 0.0, 2
    told: dict[str, Any] = {"cpu": "a CPU", "cores": 1, "machine": "odd", "emulated": False}  # noqa: RUF012

    def __init__(self, tiny: Built, seconds: list[float], peak: float, layer_s: float) -> None:
        self._network, self._seconds, self._peak = load(tiny.folder), seconds, peak
        self._layer_s = layer_s
        self.manifest = tiny.manifest
        self.input_shape = self._network.input_shape
        self.output_shape = self._network.output_shape

    def __call__(self, images: Floats) -> Floats:
        return self._network(images)

    def times_s(self, images: Floats, runs: int) -> list[float]:
        return [self._seconds.pop(0) for _ in range(runs)]

    def layers_s(self, images: Floats, runs: int) -> np.ndarray:
        samples = np.ones((runs, len(self.manifest.layers)))
        samples[:, 0] = self._layer_s
        return samples

    def peak_gflop_per_s(self) -> float:
        return self._peak

    def memory(self) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return self.told | {"clock_mhz": 1500.0}


class OddDevice:
    """A device with one such network."""

    name = "tracker:odd"

    def __init__(self, network: OddNetwork) -> None:
        self._network = network

    @contextmanager
    def open(self, folder: Path, threads: int | None = None) -> Iterator[OddNetwork]:
        yield self._network


def bench(
    tiny: Built, times_s: list[float], peak: float, layer_s: float = 1e-9, per_layer: bool = True
) -> BenchResult:
    """What `bench` makes of the times that a device tells."""
    device: Any = OddDevice(OddNetwork(tiny, list(times_s), peak, layer_s))
    plan = Plan(len(times_s), 0, per_layer=per_layer)
    return measure(device, tiny.folder, tiny.network, plan)


def test_figures_above_the_peak_are_never_without_a_warning(tiny: Built) -> None:
    layer = tiny.manifest.layers[0]["name"]
    threads, network, rows = bench(tiny, [1e-12, 1e-12], 100).warnings
    assert "2 threads" in threads and "1 CPU" in threads
    assert "above the FMA peak" in network and "100.0 measured" in network
    assert layer in rows
    assert len(bench(tiny, [1], 1e12).warnings) == 1


def test_a_machine_that_slows_down_is_told(tiny: Built) -> None:
    result = bench(tiny, [1, 1, 1, 1, 1.1], 1e12)
    assert "slowed down by 10%" in result.warnings[0]
    assert result.host["clocks_mhz"] == [1500.0] * 5 and result.host["temperatures_c"] == []
    assert not any("slowed" in warning for warning in bench(tiny, [1, 1.04], 1e12).warnings)


@pytest.mark.parametrize("bad", [-1.0, 0.0, math.nan, math.inf])
def test_times_of_a_board_that_cannot_be(tiny: Built, bad: float) -> None:
    assert bench(tiny, [1.0, 2.0], 100, layer_s=0.0).layers[0].median_us == 0
    with pytest.raises(DeviceError, match="tracker:odd tells times that cannot be"):
        bench(tiny, [1.0, bad], 100)
    if bad != 0:
        with pytest.raises(DeviceError, match="tracker:odd tells times that cannot be"):
            bench(tiny, [1.0], 100, layer_s=bad)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 0.0, -1.0])
def test_a_clock_that_is_wrong_gives_no_peak(seconds: float) -> None:
    probe = PeakProbe.__new__(PeakProbe)  # without the library, whose answer is `seconds`
    probe._seconds, probe._flop_per_round = lambda *_: seconds, 1
    with pytest.raises(UserError, match=r"peak .*cannot be measured"):
        probe.gflop_per_s()
