"""The last pass of the search: near-best candidates inside the whole network.

A layer measured alone finds its operands in the caches; in the network it finds what the layer
before it left there. So the best few of each layer and block are built into whole libraries, which
run in turn; each layer keeps what was fastest there, and each block whichever is faster, its own
kernel or its layers. Blocks whose layers one by one would make the workspace larger stay kernels,
unless that makes the whole network slower.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Failure
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.device import Device
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.model.source import Source
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.machine import is_possible
from mnv2_tvm.search.layers import LayerSearch
from mnv2_tvm.search.variants import (
    Choice,
    Kept,
    Network,
    Samples,
    build_variant,
    choose,
    likely_first,
    memory_savers,
    samples_of,
    variants,
)
from mnv2_tvm.target import Target

RESERVE_S = 90.0  # what this pass is left of the search's budget
# Shares of the time that is left when each begins: building the variants, timing their layers.
# The rest is for the network of the choice.
_BUILD, _PROFILE = 0.5, 0.5
_TIMEOUT_S = 120.0  # of one build
_GRACE_S = 5.0  # over the budget, for a build that has begun
_TIE = 1.02  # so much slower the network may be for the memory that it saves


@dataclass(frozen=True)
class InNetwork:
    """The choice of every layer, and the whole network with defaults and with the choice."""

    kept: dict[Layer, Kept]
    default_ms: float
    tuned_ms: float


def measure_in_network(
    searches: list[LayerSearch],
    target: Target,
    source: Source,
    blocks: list[Layer],
    base: Decisions,
    *,
    threads: int,
    seed: int,
    progress: Progress,
    device: Device,
    builders: WorkerPool,
) -> InNetwork:
    """Choose for each searched layer among its near-best; other layers follow `base`.

    On `device`, in the time that `progress` has left: where that is short, the less likely variants
    are left out. Raises UserError where no variant could be built and run in it.
    """
    wanted = variants(searches, blocks, base)
    network = (target, source.identity, threads)
    with scratch_folder() as scratch:
        builds = _Builds(network, builders, progress)
        until_s = (1 - _BUILD) * progress.left_s
        order = likely_first(wanted, blocks)
        folders = builds.build(wanted, order, scratch / "variants", until_s)
        progress.now("measuring the variants inside the network")
        libraries = list(folders.values())
        profiles = device.profiles(libraries, seed, _PROFILE * progress.left_s)
        samples = map(samples_of, map(Manifest.read, libraries), profiles)
        profiled = [(wanted[n], found) for n, found in zip(folders, samples, strict=True)]
        profiled = _possible(profiled, target, threads, progress)
        options = [
            choose(searches, profiled, fused=memory_savers(blocks)),
            choose(searches, profiled),
        ]
        if options[0] == options[1]:
            options.pop()
        final = [{}, *({**base.tuned, **_schedules(option)} for option in options)]
        folders = builds.build(final, range(len(final)), scratch / "final", None)
        progress.now("measuring the network of the choice")
        runs = device.profiles(list(folders.values()), seed, progress.left_s)
        default_ms, *times_ms = (1e3 * float(np.median(one.sum(axis=1))) for one in runs)
        flops = [Manifest.read(folder).flops for folder in folders.values()]
    for flop, ms in zip(flops, (default_ms, *times_ms), strict=True):
        if not is_possible(flop, 1e3 * ms, target, threads):
            raise UserError(
                f"a time of {ms:g} ms for the whole network is beyond any CPU of {target.name}: "
                "the clock of the machine that measured it is wrong; nothing is kept of it"
            )
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


def _possible(
    profiled: list[tuple[Choice, Samples]], target: Target, threads: int, progress: Progress
) -> list[tuple[Choice, Samples]]:
    """Those without a time that no CPU of the target can take; the others are named."""
    sound = []
    for choice, samples in profiled:
        medians_us = {layer: float(np.median(values)) for layer, values in samples.items()}
        for layer, us in medians_us.items():
            if not is_possible(layer.flops, us, target, threads):
                progress.line(
                    f"warning: a variant of the network is left out: {us:g} us for {layer.name} "
                    f"are beyond any CPU of {target.name}"
                )
                break
        else:
            sound.append((choice, samples))
    if not sound:
        raise UserError("no variant of the network has times that can be, see above")
    return sound


def least_memory(times_ms: list[float]) -> int:
    """Which network is kept: the first, as they come by memory, that ties with the fastest."""
    return next(i for i, ms in enumerate(times_ms) if ms <= _TIE * min(times_ms))


@dataclass(frozen=True)
class _Builds:
    """Builds variants of one network in workers."""

    network: Network
    workers: WorkerPool
    progress: Progress

    def build(
        self, wanted: list[Choice], order: Iterable[int], folder: Path, until_s: float | None
    ) -> dict[int, Path]:
        """Build the variants in `order`, by number; those that failed are left out and said.

        Stops where only `until_s` of the budget is left. Raises UserError where nothing could be
        built, and without `until_s` where not everything could.
        """
        numbers, built, failure = list(order), dict[int, Path](), None
        jobs = [(wanted[number], self.network, folder / str(number)) for number in numbers]
        left_s = self.progress.left_s + _GRACE_S
        with closing(self.workers.run(build_variant, jobs, _TIMEOUT_S, left_s)) as results:
            for place, result in results:
                self.progress.now(f"built variant {len(built) + 1} of {len(jobs)} of the network")
                if isinstance(result, Failure):
                    failure = result
                    self.progress.line(f"variant {numbers[place]} could not be built: {result}")
                else:
                    built[numbers[place]] = result
                if built and until_s is not None and self.progress.left_s <= until_s:
                    break
        if until_s is not None and failure is None and len(built) < len(jobs):
            left_out = len(jobs) - len(built)
            self.progress.line(
                f"{left_out} of {len(jobs)} variants of the network are left out: the time budget "
                "is too short for all"
            )
        if not built or (until_s is None and len(built) < len(jobs)):
            raise UserError(
                f"the network could not be built with what was found: {failure or 'no time left'}. "
                "All measurements are in the log: run the command again, with a longer "
                "--time-budget if it was the time"
            )
        return dict(sorted(built.items()))
