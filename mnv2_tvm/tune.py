"""`python -m mnv2_tvm.tune`: search the schedules of a network on its target, keep the best."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mnv2_tvm import cli
from mnv2_tvm.deploy.library import MAX_THREADS
from mnv2_tvm.devices.open import HERE, check_ways, open_devices
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import crowd_warning
from mnv2_tvm.host_target import HOST
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.measure.workers import WorkerPool, pace
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import Source, SourceNetwork
from mnv2_tvm.pipeline import network_blocks, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Record
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.search.candidate_bench import BUILDERS, Tally
from mnv2_tvm.search.in_network import RESERVE_S, InNetwork, measure_in_network
from mnv2_tvm.search.layers import LayerSearch, known_layers, search_layers
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class TuneReport:
    """What a search did and found."""

    records: list[Record]
    folder: Path  # of the log that keeps them
    tally: Tally
    result: InNetwork
    seconds: float


def tune(
    target: Target,
    architecture: Architecture,
    *,
    threads: int = 1,
    trials: int = 64,
    time_budget_s: float = 600.0,
    layer: str = "*",
    log_dir: Path | None = None,
    seed: int = 0,
    on: Sequence[str] = (HERE,),
    runner: str | None = None,
    console: Console | None = None,
) -> TuneReport:
    """Search the layers whose names match the glob `layer`, at most `trials` points of each.

    Goes on from the measurements in the log, appends each new one at once, and at the end keeps
    what was fastest inside the whole network, all within `time_budget_s`. Measures on the devices
    that `on` names, as `--on`. Raises UserError, before any work, for options that cannot be, where
    the target cannot run there, nothing matches or the log cannot be written; later, where nothing
    could be measured.
    """
    start = time.monotonic()
    _check_numbers(threads, trials, time_budget_s)
    check_ways(on, runner, named=True)
    source = SourceNetwork.make(architecture, None, seed)
    wanted, blocks = _wanted(source, layer)
    with ExitStack() as stack:
        screen = console or cli.plain_console(stderr=True)
        progress = stack.enter_context(Progress(screen, time_budget_s))
        device = stack.enter_context(
            open_devices(on, target.name, lambda: target, runner, progress.line)
        )
        machine = device.machine()
        _check_log(machine, log_dir, device.name)
        log = TuningLog.to_write(target, log_dir)
        searches = known_layers(wanted, target, log, machine)
        progress.line(_opening(target, machine, searches, threads, log))
        for warning in crowd_warning(threads, device.cores()):
            progress.line(f"warning: {warning}")
        builders = stack.enter_context(WorkerPool(BUILDERS))
        tally = search_layers(
            searches,
            target,
            log,
            machine,
            trials=trials,
            seed=seed,
            reserve_s=min(RESERVE_S * pace(), time_budget_s / 2),
            progress=progress,
            device=device,
            builders=builders,
        )
        base = Decisions.load(target, threads, log_dir, machine.cpu)
        if known := base.told(one.name for one in wanted):
            progress.line(f"records until now: {known}")
        measured = [search for search in searches if search.best]
        result = measure_in_network(
            measured,
            target,
            source,
            blocks,
            base,
            threads=threads,
            seed=seed,
            progress=progress,
            device=device,
            builders=builders,
        )
    records = _records(measured, result, threads, machine)
    log.keep(records)
    return TuneReport(records, log.folder, tally, result, time.monotonic() - start)


def _check_numbers(threads: int, trials: int, time_budget_s: float) -> None:
    """What a caller from Python may get wrong; on the command line typer knows the same."""
    if not 1 <= threads <= MAX_THREADS:
        raise UserError(f"{threads} threads: give 1 to {MAX_THREADS}")
    if trials < 1:
        raise UserError(f"{trials} trials: give 1 or more")
    if not 0 < time_budget_s < float("inf"):
        raise UserError(f"a time budget of {time_budget_s} s: give the seconds, such as 600")


def _wanted(source: Source, layer: str) -> tuple[list[Layer], list[Layer]]:
    """The layers and blocks whose names match, and all blocks of the network."""
    module = source.relax()
    blocks = network_blocks(module)
    layers = network_layers(module) + blocks
    wanted = [one for one in layers if fnmatchcase(one.name, layer)]
    if not wanted:
        names = "\n  ".join(sorted({one.name for one in layers}))
        raise UserError(f"no layer matches '{layer}'; the network has\n  {names}")
    return wanted, blocks


def _check_log(machine: Machine, log_dir: Path | None, name: str) -> None:
    """Raises UserError where emulated times would go into the logs of real machines."""
    if machine.emulated and log_dir is None:
        raise UserError(
            f"{name} is emulated: its times must not stand among measured ones; give it a log "
            "of its own with --log-dir DIR"
        )


def _opening(
    target: Target, machine: Machine, searches: list[LayerSearch], threads: int, log: TuningLog
) -> str:
    points = sum(len(search.space) for search in searches)
    known = sum(len(search.times) for search in searches)
    others = sum(len(search.elsewhere) for search in searches)
    learnt = f" ({others} on another machine or by other versions)" if others else ""
    return (
        f"{target.name} on {machine}, {threads} thread(s): {len(searches)} layers, "
        f"{points} points, {known} of them measured before{learnt}; log in {log.folder}"
    )


def _records(
    searches: list[LayerSearch], result: InNetwork, threads: int, machine: Machine
) -> list[Record]:
    records = []
    for search in searches:
        kept = result.kept.get(search.layer)
        if kept is None:  # no variant of the network had it
            continue
        max_error = 0.0  # of a block layer by layer, which has no kernel of its own
        if kept.schedule is not None:
            max_error = search.times[kept.schedule].max_error or 0.0
        records.append(
            Record(
                layer=search.layer,
                threads=threads,
                schedule=kept.schedule,
                median_us=kept.samples_us[1],
                samples_us=kept.samples_us,
                max_error=max_error,
                provenance=machine.provenance(),
                emulated=machine.emulated,
            )
        )
    return records


def main(
    target: cli.Target = HOST,
    width: cli.Width = 1.0,
    resolution: cli.Resolution = 224,
    threads: cli.Threads = 1,
    trials: Annotated[int, typer.Option(min=1, help="Points measured of each layer.")] = 64,
    time_budget: Annotated[float, typer.Option(min=1, help="Seconds for everything.")] = 600.0,
    layer: Annotated[str, typer.Option(help="Only layers whose name matches this glob.")] = "*",
    log_dir: Annotated[
        Path | None,
        typer.Option(help="Tuning logs to read and write; default: your own."),
    ] = None,
    seed: cli.Seed = 0,
    on: cli.On = None,
    runner: cli.Runner = None,
    tracker: cli.Tracker = None,
    via: cli.Via = None,
) -> None:
    """Search the schedules of every layer, here or on boards, and keep the best as records."""
    ways = cli.ways(on, tracker, via)
    check_ways(ways, runner, named=target != HOST)
    machine = cli.load_target(target)
    report = tune(
        machine,
        Architecture(width, resolution),
        threads=threads,
        trials=trials,
        time_budget_s=time_budget,
        layer=layer,
        log_dir=log_dir,
        seed=seed,
        on=ways,
        runner=runner,
    )
    tally, result = report.tally, report.result
    rate = tally.measured / tally.seconds if tally.seconds else 0.0
    print(
        f"{tally.measured} candidates measured ({rate:.1f} a second), {tally.failed} failed; "
        f"{report.seconds:.0f} s in all"
    )
    print(f"whole network: {result.default_ms:.3f} ms by default, {result.tuned_ms:.3f} ms tuned")
    print(f"{len(report.records)} records kept in {report.folder}")


if __name__ == "__main__":
    cli.run_verb(main)
