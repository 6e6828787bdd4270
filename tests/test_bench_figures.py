"""Figures that cannot be: refused, or printed with a warning."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Built

from mnv2_tvm.bench import BenchResult, _of_board
from mnv2_tvm.devices.rpc.remote_bench import BoardTimes, _check_possible
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError
from mnv2_tvm.measure.peak import PeakProbe


def of_board(tiny: Built, times_ms: list[float], peak: float) -> BenchResult:
    """What `bench` makes of the times that a board tells."""
    manifest = tiny.manifest
    board = {"cpu": "a CPU", "cores": 1, "emulated": False}
    layers_us = [1e6] * len(manifest.layers)
    times = BoardTimes(board, [], [], 0, times_ms, [1e-3, *layers_us[1:]], 2, peak, 1)
    return _of_board(times, manifest, len(times_ms), 0, 0)


def test_figures_above_the_peak_are_never_without_a_warning(tiny: Built) -> None:
    layer = tiny.manifest.layers[0]["name"]
    threads, network, rows = of_board(tiny, [1e-9, 1e-9], 100).warnings
    assert "2 threads" in threads and "1 CPU" in threads
    assert "above the FMA peak" in network and "100.0 measured" in network
    assert layer in rows
    assert len(of_board(tiny, [1e3], 1e12).warnings) == 1


@pytest.mark.parametrize("bad", [-1.0, 0.0, math.nan, math.inf])
def test_times_of_a_board_that_cannot_be(bad: float) -> None:
    session: Any = SimpleNamespace(board="board:9090")
    _check_possible(session, [1.0, 2.0], [0.0, 1.0])
    with pytest.raises(DeviceError, match="board:9090 tells times that cannot be"):
        _check_possible(session, [1.0, bad], [])
    if bad != 0:
        with pytest.raises(DeviceError, match="board:9090 tells times that cannot be"):
            _check_possible(session, [1.0], [1.0, bad])


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 0.0, -1.0])
def test_a_clock_that_is_wrong_gives_no_peak(seconds: float) -> None:
    probe = PeakProbe.__new__(PeakProbe)  # without the library, whose answer is `seconds`
    probe._seconds, probe._flop_per_round = lambda *_: seconds, 1
    with pytest.raises(UserError, match=r"peak .*cannot be measured"):
        probe.gflop_per_s()
