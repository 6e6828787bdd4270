"""Whole networks as libraries, built and timed by workers: on this host, or on a board."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.deploy.build import build
from mnv2_tvm.devices.rpc.farm import boards_there
from mnv2_tvm.devices.rpc.remote_network import RemoteNetwork, open_networks
from mnv2_tvm.devices.rpc.session import Address
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Failure, Kind
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.measure.turns import in_turn
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.search.variants import Choice, Network, Samples

_ROUNDS, _RUNS = 12, 12  # each round runs every library this many times, if there is time
_TIMEOUT_S = 120.0
_BOARD_TIMEOUT_S = 3600.0  # the last resort: each step on a board has a deadline of its own
_GRACE_S = 10.0  # over the time that is left: for loading the libraries and the reference's answer
_TRIES = 3  # boards that may be lost here


def build_variant(schedules: Choice, network: Network, folder: Path) -> Path:
    """A worker's job: build the network with these schedules; other layers have defaults."""
    target, architecture, seed, threads = network
    source = SourceNetwork.make(architecture, None, seed)
    build(target, source, folder, threads=threads, decisions=Decisions(target, schedules))
    return folder


def profile_libraries(
    folders: list[Path], seed: int, address: Address | None, seconds: float
) -> list[Samples]:
    """A worker's job: check and run the libraries in turn; the times of each layer of each."""
    turns = _turns(folders, seed, address, seconds)
    names = [[row["name"] for row in network.manifest.layers] for network, _ in turns]
    result = []
    for layers, (_, runs) in zip(names, turns, strict=True):
        samples: Samples = defaultdict(list)
        for times_s in runs:
            times_us: dict[Layer, list[float]] = defaultdict(list)
            for number, seconds_of in times_s.items():
                times_us[Layer.parse(layers[number])].append(seconds_of * 1e6)
            for layer, values in times_us.items():
                samples[layer].append(float(np.mean(values)))
        result.append(dict(samples))
    return result


def time_libraries(
    folders: list[Path], seed: int, address: Address | None, seconds: float
) -> list[float]:
    """A worker's job: median milliseconds of a whole run of each library, in turn."""
    turns = _turns(folders, seed, address, seconds)
    return [float(np.median([sum(run.values()) for run in runs])) * 1e3 for _, runs in turns]


def _turns(
    folders: list[Path], seed: int, address: Address | None, seconds: float
) -> list[tuple[Any, list[dict[int, float]]]]:
    """Each network with the seconds of its layers in every run, after its numbers were checked."""
    with open_networks(folders, address) as networks:
        images = _checked_images(folders, networks, seed)

        def profile(network: Any) -> Callable[[int], list[dict[int, float]]]:
            def run(count: int) -> list[dict[int, float]]:
                network.profile(images)  # finds another library's data in the caches
                return [network.profile(images) for _ in range(count)]

            return run

        turns = in_turn(list(map(profile, networks)), seconds, rounds=_ROUNDS, runs=_RUNS - 1)
    runs = [[run for turn in mine for run in turn] for mine in turns]
    return list(zip(networks, runs, strict=True))


def _checked_images(folders: list[Path], networks: list[Any], seed: int) -> Any:
    """The input of all runs, after each library gave the reference's answer to it."""
    manifest = networks[0].manifest
    batch = manifest.input_shape[0]
    architecture = Architecture(manifest.width, manifest.resolution, manifest.classes, batch)
    source = SourceNetwork.make(architecture, None, seed)
    images = source.images(seed)
    reference = source.reference(images)
    for folder, network in zip(folders, networks, strict=True):
        error = relative_error(network(images), reference)
        if error > TOLERANCE:
            board = network.session.board if isinstance(network, RemoteNetwork) else ""
            where = f" on the board at {board}" if board else ""
            words = f"the library in {folder} is off by {error:.1e}{where}"
            raise DeviceError(Kind.WRONG_NUMBERS, words, board)
    return images


@dataclass(frozen=True)
class Libraries:
    """Runs a job on the libraries in a worker: on this host, or on a board."""

    build_variant = staticmethod(build_variant)

    workers: WorkerPool
    seed: int
    address: Address | None
    progress: Progress

    def profile(self, folders: list[Path], seconds: float) -> list[Samples]:
        """The times of each layer of each library."""
        samples: list[Samples] = self._measure(profile_libraries, folders, seconds)
        return samples

    def time(self, folders: list[Path], seconds: float) -> list[float]:
        """Median milliseconds of a whole run of each."""
        medians: list[float] = self._measure(time_libraries, folders, seconds)
        return medians

    def _measure(self, function: Callable[..., Any], folders: list[Path], seconds: float) -> Any:
        """Its result. Says which boards are lost or wrong, and tries others. Raises UserError."""
        address = self.address
        most_s = _BOARD_TIMEOUT_S if address else _TIMEOUT_S
        late = Failure(
            Kind.TIMEOUT,
            "the time budget was used up. All measurements are in the log: run the command again, "
            "with a longer --time-budget",
        )
        for _ in range(_TRIES):
            job = (folders, self.seed, address, min(seconds, self.progress.left_s))
            left_s = self.progress.left_s + _GRACE_S
            result = next((r for _, r in self.workers.run(function, [job], most_s, left_s)), late)
            if not isinstance(result, Failure):
                return result
            if address is None:
                break
            others = len(boards_there(address, self.workers, self.progress)[0]) > 1
            if not (others if result.board else result.kind is Kind.LINK):
                break
            self.progress.line(f"{result}; what it had is tried again")
            address = address.without({result.board} - {""})
        raise UserError(f"the network could not be measured: {result}")
