"""Measure a library on a board: its numbers first, then its times, in rounds that cool down."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.devices.rpc.remote_network import RemoteNetwork
from mnv2_tvm.devices.rpc.session import Address, Session
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure.check import check_library
from mnv2_tvm.measure.memory import Memory
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.measure.peak import PeakProbe
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.target import Target

_ROUNDS = 5
_COOL_S = 2.0  # between rounds, on real hardware
_DRIFT = 1.05  # of the last round over the first: said above this


@dataclass(frozen=True)
class BoardTimes:
    """What one board took, in the order of measurement, and what it told of itself."""

    board: dict[str, Any]  # its board_info before the first run
    clock_mhz: list[float]  # after each round; empty where the board does not tell
    temperature_c: list[float]
    relative_error: float
    times_ms: list[float]
    layers_us: list[float]  # medians in network order; empty unless asked for
    threads: int
    peak_gflop_per_s: float  # the FMA peak of as many threads, before or after the rounds
    drift: float  # median of the last round over that of the first
    memory: Memory | None = None  # of a program of its own

    @property
    def emulated(self) -> bool:
        """Whether the times say nothing about real hardware."""
        return bool(self.board["emulated"])

    def warnings(self) -> list[str]:
        """What a reader of the figures must know."""
        found = []
        if self.emulated:
            found.append("emulated: the numbers are real, the times are not those of a board")
        if self.drift > _DRIFT:
            found.append(
                f"the board slowed down by {self.drift - 1:.0%} while measured: let it cool, or "
                "fix its clock with the performance governor"
            )
        return found


def bench_on_board(
    folder: Path,
    source: SourceNetwork,
    address: Address,
    *,
    threads: int | None,
    runs: int,
    warmup: int,
    seed: int,
    per_layer: bool,
) -> BoardTimes:
    """Upload the library, check it against the reference, then time it on a board of `address`.

    Raises UserError without a board, for other versions there, and for wrong numbers.
    """
    with closing(Session(address)) as session:
        network = RemoteNetwork(session, folder, threads)
        images = source.images(seed)
        error = check_library(folder, network, source, images)
        probe = PeakProbe(Target.load(network.manifest.target), session.load)
        before = _peak(probe, network)
        if warmup:
            network.times_s(warmup)
        rounds: list[list[float]] = []
        clocks: list[float] = []
        temperatures: list[float] = []
        for number in range(min(_ROUNDS, runs)):
            if number and not session.info["emulated"]:
                time.sleep(_COOL_S)
            share = runs // _ROUNDS + (number < runs % _ROUNDS)
            rounds.append([1e3 * seconds for seconds in network.times_s(share)])
            told = session.ask()
            clocks += [told["clock_mhz"]] if told.get("clock_mhz") else []
            temperatures += [told["temperature_c"]] if told.get("temperature_c") else []
        profiles = [list(network.profile(images).values()) for _ in range(runs if per_layer else 0)]
        times_ms = [value for values in rounds for value in values]
        layers_us = (1e6 * np.median(profiles, axis=0)).tolist() if profiles else []
        _check_possible(session, times_ms, layers_us)
        return BoardTimes(
            board=session.info,
            clock_mhz=clocks,
            temperature_c=temperatures,
            relative_error=error,
            times_ms=times_ms,
            layers_us=layers_us,
            threads=network.threads,
            peak_gflop_per_s=max(before, _peak(probe, network)),
            drift=float(np.median(rounds[-1]) / np.median(rounds[0])),
        )


def _check_possible(session: Session, times_ms: list[float], layers_us: list[float]) -> None:
    """Raises DeviceError for times that a run cannot take, of a broken clock or by intent.

    A layer may take 0: the steps of a clock can be coarse.
    """
    whole, layers = np.array(times_ms), np.array(layers_us)
    if not (np.all(whole > 0) and np.all(layers >= 0) and np.isfinite([*whole, *layers]).all()):
        words = f"{session.board} tells times that cannot be; is its clock right?"
        raise DeviceError(Kind.ERROR, words, session.board)


def _peak(probe: PeakProbe, network: RemoteNetwork) -> float:
    with network.session.within(patience_s(), "measuring its FMA peak"):
        return probe.gflop_per_s(network.threads)
