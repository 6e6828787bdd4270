"""The last pass of the search: near-best candidates inside the whole network.

A layer measured alone finds its operands in the caches; in the network it finds what the layer
before it left there. So the best few of each layer and block are built into whole libraries, which
run in turn; each layer keeps what was fastest there, and each block whichever is faster, its own
kernel or its layers. Blocks whose layers one by one would make the workspace larger stay kernels,
unless that makes the whole network slower.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mnv2_tvm.build import build
from mnv2_tvm.device.failure import DeviceError, Failure, Kind
from mnv2_tvm.device.remote_network import RemoteNetwork, open_networks
from mnv2_tvm.device.session import Address
from mnv2_tvm.device.workers import WorkerPool
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork, relative_error
from mnv2_tvm.search.layers import LayerSearch
from mnv2_tvm.search.problem import TOLERANCE
from mnv2_tvm.search.progress import Progress
from mnv2_tvm.search.records import Decisions
from mnv2_tvm.search.variants import Choice, Kept, Samples, choose, memory_savers, variants
from mnv2_tvm.target import Target

RESERVE_S = 90.0  # what this pass takes at most, of the search's budget
_ROUNDS, _RUNS = 12, 12  # each round runs every library this many times
_TIMEOUT_S = 120.0
_BOARD_TIMEOUT_S = 3600.0  # the last resort: each step on a board has a deadline of its own
_TRIES = 3  # boards that may be lost here
_TIE = 1.02  # so much slower the network may be for the memory that it saves


Network = tuple[str, Architecture, int, int]  # target, architecture, seed, threads


class Board(Protocol):
    """What measures whole networks that `build_variant`, a worker's job, wrote into folders."""

    @property
    def build_variant(self) -> Callable[[Choice, Network, Path], Path]:
        """Builds the network of its arguments into the folder, and returns that."""

    def profile(self, folders: list[Path]) -> list[Samples]:
        """The times of each layer of each network, run in turn, after their numbers are checked."""

    def time(self, folders: list[Path]) -> list[float]:
        """Median milliseconds of a whole run of each, in turn."""


@dataclass(frozen=True)
class InNetwork:
    """The choice of every layer, and the whole network with defaults and with the choice."""

    kept: dict[Layer, Kept]
    default_ms: float
    tuned_ms: float


def measure_in_network(
    searches: list[LayerSearch],
    target: Target,
    architecture: Architecture,
    blocks: list[Layer],
    base: Decisions,
    *,
    threads: int,
    seed: int,
    progress: Progress,
    address: Address | None = None,
    board: Board | None = None,
) -> InNetwork:
    """Choose for each searched layer among its near-best; other layers follow `base`.

    On this host, on one board of `address`, or on `board`. Raises UserError where no variant could
    be built and run.
    """
    wanted = variants(searches, blocks, base)
    network = (target.name, architecture, seed, threads)
    with scratch_folder() as name, WorkerPool(2) as workers:
        board = board or _Libraries(workers, seed, address, progress)
        job = board.build_variant
        folders = _build(job, wanted, network, Path(name), workers, progress)
        progress.now("measuring the variants inside the network")
        profiles = board.profile(list(folders.values()))
        profiled = [(wanted[n], samples) for n, samples in zip(folders, profiles, strict=True)]
        options = [
            choose(searches, profiled, fused=memory_savers(blocks)),
            choose(searches, profiled),
        ]
        if options[0] == options[1]:
            options.pop()
        final = [{}, *({**base.tuned, **_schedules(option)} for option in options)]
        folders = _build(job, final, network, Path(name) / "final", workers, progress)
        if len(folders) < len(final):
            raise UserError("the network of the chosen schedules could not be built, see above")
        default_ms, *times_ms = board.time(list(folders.values()))
    best = least_memory(times_ms)
    if len(options) > 1:
        small_ms, fast_ms = times_ms
        progress.line(
            f"network with every block fused that saves memory: {small_ms:.3f} ms; with all layer "
            f"by layer that are faster so: {fast_ms:.3f} ms; kept the {('first', 'second')[best]}"
        )
    return InNetwork(options[best], default_ms, times_ms[best])


def _schedules(chosen: dict[Layer, Kept]) -> Choice:
    return {layer: kept.schedule for layer, kept in chosen.items()}


def least_memory(times_ms: list[float]) -> int:
    """Which network is kept: the first, as they come by memory, that ties with the fastest."""
    return next(i for i, ms in enumerate(times_ms) if ms <= _TIE * min(times_ms))


def build_variant(
    schedules: Choice,
    network: Network,
    folder: Path,
) -> Path:
    """A worker's job: build the network with these schedules; other layers have defaults."""
    target_name, architecture, seed, threads = network
    target = Target.load(target_name)
    source = SourceNetwork.make(architecture, None, seed)
    build(target, source, folder, threads=threads, decisions=Decisions(target, schedules))
    return folder


def profile_libraries(folders: list[Path], seed: int, address: Address | None) -> list[Samples]:
    """A worker's job: check and run the libraries in turn; the times of each layer of each."""
    with open_networks(folders, address) as networks:
        return _profile(folders, networks, seed)


def _profile(folders: list[Path], networks: list[Any], seed: int) -> list[Samples]:
    images = _checked_images(folders, networks, seed)
    samples: list[Samples] = [defaultdict(list) for _ in networks]
    for _ in range(_ROUNDS):
        for network, sample in zip(networks, samples, strict=True):
            for run in range(_RUNS):
                times: dict[Layer, list[float]] = defaultdict(list)
                for number, seconds in network.profile(images).items():
                    layer = Layer.parse(network.manifest.layers[number]["name"])
                    times[layer].append(seconds * 1e6)
                if run:  # the first finds another library's data in the caches
                    for layer, values in times.items():
                        sample[layer].append(float(np.mean(values)))
    return [dict(sample) for sample in samples]


def time_libraries(folders: list[Path], seed: int, address: Address | None) -> list[float]:
    """A worker's job: median milliseconds of a whole run of each library, in turn."""
    with open_networks(folders, address) as networks:
        return _time(folders, networks, seed)


def _time(folders: list[Path], networks: list[Any], seed: int) -> list[float]:
    images = _checked_images(folders, networks, seed)
    samples: list[list[float]] = [[] for _ in networks]
    for _ in range(_ROUNDS):
        for network, sample in zip(networks, samples, strict=True):
            times = [sum(network.profile(images).values()) for _ in range(_RUNS)]
            sample.extend(times[1:])
    return [float(np.median(sample)) * 1e3 for sample in samples]


def _checked_images(folders: list[Path], networks: list, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """The input of all runs, after each library gave torch's answer to it."""
    manifest = networks[0].manifest
    batch = manifest.input_shape[0]
    architecture = Architecture(manifest.width, manifest.resolution, manifest.classes, batch)
    source = SourceNetwork.make(architecture, None, seed)
    images = source.images(seed)
    reference = source.reference(images)
    for folder, network in zip(folders, networks, strict=True):
        error = relative_error(network(images), reference)
        if not error <= TOLERANCE:
            board = network.session.board if isinstance(network, RemoteNetwork) else ""
            where = f" on the board at {board}" if board else ""
            words = f"the library in {folder} is off by {error:.1e}{where}"
            raise DeviceError(Kind.WRONG_NUMBERS, words, board)
    return images


def _build(
    job: Callable[[Choice, Network, Path], Path],
    wanted: list[Choice],
    network: Network,
    folder: Path,
    workers: WorkerPool,
    progress: Progress,
) -> dict[int, Path]:
    """Build all variants at once; those that failed are left out and said."""
    jobs = [(variant, network, folder / str(i)) for i, variant in enumerate(wanted)]
    built: dict[int, Path] = {}
    failure = None
    for number, result in workers.run(job, jobs, _TIMEOUT_S):
        progress.now(f"building variant {len(built) + 1} of {len(jobs)} of the network")
        if isinstance(result, Failure):
            failure = result
            progress.line(f"variant {number} could not be built: {result}")
        else:
            built[number] = result
    if not built:
        raise UserError(f"no variant of the network could be built: {failure}")
    return dict(sorted(built.items()))


@dataclass(frozen=True)
class _Libraries:
    """Runs a job on the libraries in a worker: on this host, or on a board."""

    build_variant = staticmethod(build_variant)

    workers: WorkerPool
    seed: int
    address: Address | None
    progress: Progress

    def profile(self, folders: list[Path]) -> list[Samples]:
        """The times of each layer of each library."""
        samples: list[Samples] = self._measure(profile_libraries, folders)
        return samples

    def time(self, folders: list[Path]) -> list[float]:
        """Median milliseconds of a whole run of each."""
        medians: list[float] = self._measure(time_libraries, folders)
        return medians

    def _measure(self, function: Callable[..., Any], folders: list[Path]) -> Any:
        """Its result. Says which boards are lost or wrong, and tries others. Raises UserError."""
        address = self.address
        timeout_s = _BOARD_TIMEOUT_S if address else _TIMEOUT_S
        for _ in range(_TRIES):
            ((_, result),) = self.workers.run(function, [(folders, self.seed, address)], timeout_s)
            if not isinstance(result, Failure):
                return result
            if not (result.board and address and address.boards() > 1):
                break
            self.progress.line(f"{result}; what it had is tried again")
            address = address.without({result.board})
        raise UserError(f"the network could not be measured: {result}")
