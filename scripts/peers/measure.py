"""One comparison: all peers converted, started, checked against the reference, and timed in rounds.

In each round all have their turn, so that a drift of the machine hits everyone; the ratio to ours
is taken round by round.
"""

import datetime
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from case import Case
from conversions import convert
from process import PeerProcess
from runners import OURS, PEERS

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host
from mnv2_tvm.measure.peak import PeakProbe
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class Settings:
    """What all comparisons of one sweep have in common."""

    target: Target
    threads: int
    rounds: int
    runs: int  # of one turn; their median counts
    seed: int
    avx2: bool
    peers: Sequence[str]  # beside ours
    litert_python: Path
    models: Path | None  # keeps the converted models

    @contextmanager
    def folder(self, width: float, resolution: int) -> Iterator[Path]:
        """Where the models of one network are."""
        if self.models is None:
            with tempfile.TemporaryDirectory(prefix="mnv2-peers-") as name:
                yield Path(name)
            return
        kind = f"{self.threads}t-avx2" if self.avx2 else f"{self.threads}t"
        folder = self.models.resolve() / f"{width}-{resolution}-{kind}-seed{self.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def prepare(settings: Settings, width: float, resolution: int) -> dict[str, str]:
    """Convert for all peers and measure nothing; the result says why for what cannot be had."""
    network = SourceNetwork.make(Architecture(width, resolution), None, settings.seed)
    with settings.folder(width, resolution) as folder:
        return _convert(settings, network, folder)[1]


def _convert(
    settings: Settings, network: SourceNetwork, folder: Path
) -> tuple[Case, dict[str, str]]:
    width, resolution = network.architecture.width, network.architecture.resolution
    threads, target = settings.threads, settings.target.name
    case = Case(width, resolution, settings.seed, threads, target, settings.avx2, folder)
    np.save(folder / "input.npy", network.images(settings.seed))
    formats = [PEERS[peer].format for peer in (OURS, *settings.peers)]
    return case, convert(case, formats, settings.litert_python)


def compare(settings: Settings, width: float, resolution: int) -> dict[str, Any]:
    """Time all peers; the result is what the JSON file holds. Times in milliseconds.

    Raises UserError where ours cannot be built, loaded, or is wrong.
    """
    network = SourceNetwork.make(Architecture(width, resolution), None, settings.seed)
    images = network.images(settings.seed)
    names = (OURS, *settings.peers)
    with settings.folder(width, resolution) as folder:
        case, unconverted = _convert(settings, network, folder)
        peers = [PeerProcess(peer, case, unconverted.get(PEERS[peer].format)) for peer in names]
        try:
            errors = _check(peers, network.reference(images))
            manifest = Manifest.read(case.folder / "library")
            samples, peak = _rounds(peers, settings)
            _check_ours(peers)
            rows = [_row(peer, samples, errors, settings.avx2) for peer in peers]
        finally:
            for peer in peers:
                peer.close()
    rate = manifest.flops / float(np.median(samples[OURS])) * 1e-6
    return {
        "network": f"{width}-{resolution}",
        "threads": settings.threads,
        "target": settings.target.name,
        "peers_held_to_avx2": settings.avx2,
        "flops_share": manifest.flops_share,
        "cpu": this_host().cpu,
        "cores": this_host().cores,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rounds": settings.rounds,
        "runs_per_round": settings.runs,
        "peak_gflops": round(peak, 1),
        "our_share_of_peak": round(rate / peak, 4),
        "rows": rows,
    }


def _check(peers: list[PeerProcess], reference: np.ndarray) -> dict[str, float]:
    """Relative errors by name; who is wrong has failed. Raises UserError where ours has."""
    errors = {}
    for peer in peers:
        if peer.failed is None:
            error = relative_error(peer.output.reshape(reference.shape), reference)
            errors[peer.name] = error
            if error > TOLERANCE:
                peer.failed = f"wrong numbers: relative error {error:.0e} against the reference"
    _check_ours(peers)
    return errors


def _check_ours(peers: list[PeerProcess]) -> None:
    """Raises UserError where ours has failed: there is nothing to compare with."""
    for peer in peers:
        if peer.name == OURS and peer.failed is not None:
            raise UserError(f"{OURS}: {peer.failed}")


def _rounds(peers: list[PeerProcess], settings: Settings) -> tuple[dict[str, list[float]], float]:
    """The median of each turn by name, and the best FMA peak of all rounds in GFLOP/s."""
    samples: dict[str, list[float]] = {peer.name: [] for peer in peers}
    peaks, probe = [], PeakProbe(settings.target)
    for number in range(settings.rounds):
        print(f"round {number + 1} of {settings.rounds}", file=sys.stderr)
        peaks.append(probe.gflop_per_s(settings.threads))
        for peer in peers:
            if peer.failed is None and (times := peer.time(settings.runs)):
                samples[peer.name].append(float(np.median(times)))
    return samples, max(peaks)


def _row(
    peer: PeerProcess, samples: dict[str, list[float]], errors: dict[str, float], avx2: bool
) -> dict[str, Any]:
    growth = peer.peak_growth_bytes() if peer.failed is None else 0
    if peer.failed is not None:
        return {"name": peer.name, "failed": peer.failed}
    times = np.array(samples[peer.name])
    ratios = times / np.array(samples[OURS])
    low, high = interval(ratios)
    return {
        "name": peer.name,
        "version": peer.version,
        "remark": PEERS[peer.name].avx512 if avx2 else "",
        "median_ms": round(float(np.median(times)), 4),
        "min_ms": round(float(times.min()), 4),
        "ratio_to_ours": round(float(np.median(ratios)), 4),
        "ratio_interval_95": [round(low, 4), round(high, 4)],
        "peak_growth_mb": round(growth / 1e6, 1),
        "relative_error": errors[peer.name],
        "samples_ms": [round(value, 4) for value in times.tolist()],
    }


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    random = np.random.default_rng(0)
    draws = random.choice(ratios, size=(2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return float(low), float(high)
