"""`python -m mnv2_tvm.bench`: check the numbers of a built library, then measure it."""

import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import typer

from mnv2_tvm import cli
from mnv2_tvm.deploy.build import build, build_program
from mnv2_tvm.deploy.loader import load
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.program.bench import bench_on_device
from mnv2_tvm.devices.program.device import Device, check_options, parse_via
from mnv2_tvm.devices.rpc.remote_bench import BoardTimes, bench_on_board
from mnv2_tvm.devices.rpc.session import Address
from mnv2_tvm.devices.rpc.tracker import parse_address
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder, write_whole
from mnv2_tvm.host import crowd_warning, this_host
from mnv2_tvm.host_target import HOST
from mnv2_tvm.measure.bench_result import (
    BenchResult,
    Latency,
    layer_table,
    layer_times,
    rate_warnings,
    summary,
)
from mnv2_tvm.measure.check import check_library
from mnv2_tvm.measure.memory import measure_in_child
from mnv2_tvm.measure.peak import PeakProbe
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target
from mnv2_tvm.versions import versions

_PLAIN_COLUMNS = 100  # of a table that goes into a file or a pipe
_MOST_RUNS = 1_000_000  # as mnv2_bench takes them


def bench(
    folder: Path,
    source: SourceNetwork,
    *,
    threads: int | None = None,
    runs: int = 100,
    warmup: int = 10,
    seed: int = 0,
    per_layer: bool = False,
    cpus: Sequence[int] | None = None,
) -> BenchResult:
    """Check the library in `folder` against `source`, then time it.

    `threads` is by default the count of the build; with `cpus` there is one on each of these.
    Raises UserError for wrong numbers, and where the library cannot be loaded or is of another
    shape.
    """
    _check_counts(runs, warmup)
    network = load(folder, threads)
    usable = len(os.sched_getaffinity(0))
    if cpus:
        network.pin(cpus)
        os.sched_setaffinity(0, cpus)  # until the peak is measured: its threads inherit this
    manifest, target = network.manifest, Target.load(network.manifest.target)
    images, result = source.images(seed), np.empty(network.output_shape, np.float32)
    error = check_library(folder, network, source, images)
    memory = measure_in_child(folder, network.threads)

    def run() -> None:
        network.run(images, result)

    probe = PeakProbe(target)
    before = probe.gflop_per_s(network.threads)
    if cpus:
        network.pin(cpus)
    for _ in range(warmup):
        run()
    times_ms = [_run_ms(run) for _ in range(runs)]
    profiles = [list(network.profile(images).values()) for _ in range(runs if per_layer else 0)]
    if cpus:
        os.sched_setaffinity(0, cpus)
    peak = max(before, probe.gflop_per_s(network.threads))
    latency = Latency.of(times_ms)
    rate = manifest.flops / latency.median_ms / 1e6
    layers = layer_times(manifest, 1e6 * np.median(profiles, axis=0), peak) if profiles else ()
    asked = max(threads or 1, network.threads)
    host = this_host()
    return BenchResult(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        host={"cpu": host.cpu, "cores": host.cores, "machine": host.machine},
        versions=versions(),
        manifest=manifest,
        threads=network.threads,
        runs=runs,
        warmup=warmup,
        seed=seed,
        relative_error=error,
        latency=latency,
        gflop_per_s=rate,
        peak_gflop_per_s=peak,
        peak_share=rate / peak,
        memory=memory,
        layers=layers,
        warnings=(
            *crowd_warning(asked, None if cpus else usable),
            *rate_warnings(rate, peak, layers),
        ),
    )


def bench_remotely(
    folder: Path,
    source: SourceNetwork,
    address: Address,
    *,
    threads: int | None = None,
    runs: int = 100,
    warmup: int = 10,
    seed: int = 0,
    per_layer: bool = False,
) -> BenchResult:
    """The same on a board: the library that `build` wrote is uploaded, checked and timed there."""
    options = {"threads": threads, "runs": runs, "warmup": warmup, "seed": seed}
    times = bench_on_board(folder, source, address, per_layer=per_layer, **options)  # type: ignore[arg-type]
    return _of_board(times, Manifest.read(folder), runs, warmup, seed)


def bench_via(
    target: Target,
    source: SourceNetwork,
    via: str,
    *,
    runner: str | None = None,
    threads: int = 1,
    runs: int = 100,
    warmup: int = 10,
    seed: int = 0,
    per_layer: bool = False,
    decisions: Decisions | None = None,
) -> BenchResult:
    """The same on a device with nothing installed, by a static program over ssh or adb."""
    _check_counts(runs, warmup)
    device = Device(parse_via(via), target, runner)
    options = {"threads": threads, "runs": runs, "warmup": warmup, "seed": seed}
    times, manifest = bench_on_device(
        device, source, per_layer=per_layer, decisions=decisions, **options
    )
    return _of_board(times, manifest, runs, warmup, seed)


def _run_ms(run: Callable[[], None]) -> float:
    start = perf_counter()
    run()
    return 1e3 * (perf_counter() - start)


def _check_counts(runs: int, warmup: int) -> None:
    if runs < 1 or warmup < 0:
        raise UserError(f"{runs} runs after {warmup} to warm up: give 1 or more, and 0 or more")


def _of_board(
    times: BoardTimes, manifest: Manifest, runs: int, warmup: int, seed: int
) -> BenchResult:
    latency = Latency.of(times.times_ms)
    rate, peak = manifest.flops / latency.median_ms / 1e6, times.peak_gflop_per_s
    medians = np.array(times.layers_us)
    layers = layer_times(manifest, medians, peak) if times.layers_us else ()
    crowded = crowd_warning(times.threads, times.board["cores"])
    return BenchResult(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        host=times.board | {"clocks_mhz": times.clock_mhz, "temperatures_c": times.temperature_c},
        versions=versions(),
        manifest=manifest,
        threads=times.threads,
        runs=runs,
        warmup=warmup,
        seed=seed,
        relative_error=times.relative_error,
        latency=latency,
        gflop_per_s=rate,
        peak_gflop_per_s=peak,
        peak_share=rate / peak,
        memory=times.memory,
        layers=layers,
        emulated=times.emulated,
        warnings=(*times.warnings(), *crowded, *rate_warnings(rate, peak, layers)),
    )


def _refuse(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Raises UserError for an option of these that was given, and would be ignored."""
    for name in names:
        origin = context.get_parameter_source(name)
        if origin is not None and origin.name == "COMMANDLINE":
            option = name.removesuffix("_file").replace("_", "-")
            raise UserError(f"--{option} {why}")


def main(
    context: typer.Context,
    library: Annotated[Path | None, typer.Option(help="A folder that `build` wrote.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Without --library: built in scratch; default: host.")
    ] = None,
    width: cli.Width = 1.0,
    resolution: cli.Resolution = 224,
    classes: cli.Classes = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Images of one run.")] = 1,
    weights: Annotated[Path | None, typer.Option(help="A .pth or .safetensors file.")] = None,
    state: cli.State = None,
    seed: cli.Seed = 0,
    threads: Annotated[int | None, typer.Option(min=1, max=64, help="Default: as built.")] = None,
    log_dir: cli.LogDir = None,
    cpus: Annotated[
        str | None, typer.Option(help="A thread on each of these CPUs, such as 4,5,6,7.")
    ] = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Time every layer.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all of it here.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=_MOST_RUNS, help="Timed runs.")] = 100,
    warmup: Annotated[int, typer.Option(min=0, max=_MOST_RUNS, help="Runs before those.")] = 10,
    tracker: Annotated[
        str | None, typer.Option(help="HOST:PORT: on a board with the target's name.")
    ] = None,
    via: cli.Via = None,
    runner: cli.Runner = None,
    program: Annotated[
        Path | None, typer.Option(help="Write a static program that measures itself; run nothing.")
    ] = None,
) -> None:
    """Check the numbers of a built library, or of one built for a target, and measure it."""
    check_options(via, runner, tracker)
    if library and target:
        raise UserError("give either --library DIR or --target NAME")
    if library and (via or program):
        raise UserError("--via and --program build a program of their own; give --target NAME")
    if program:
        idle = ["runs", "warmup", "per_layer", "json_file", "tracker", "via", "cpus"]
        _refuse(context, idle, "measures, and --program only writes a program: leave one out")
    if cpus is not None:
        elsewhere = "is not for --cpus, which places this host's threads: leave one out"
        _refuse(context, ("threads", "tracker", "via"), elsewhere)
    pinned = None if cpus is None else cli.cpu_list(cpus)
    threads = len(pinned) if pinned else threads
    there = parse_address(tracker) if tracker else None
    if library is None:
        cli.check_named(target, tracker, via)
    if json_file is not None:
        cli.check_writable(json_file)
    options = {"runs": runs, "warmup": warmup, "seed": seed, "per_layer": per_layer}
    with scratch_folder() as scratch:
        if library:
            why = "goes with --target: a library has its own already"
            _refuse(context, ("width", "resolution", "classes", "batch", "log_dir"), why)
            folder, decisions = library, None
            source = SourceNetwork.of_library(Manifest.read(library), weights, state)
            cli.tell(source.notes)
        else:
            folder, machine = Path(scratch) / "library", cli.load_target(target or HOST)
            source = SourceNetwork.make(
                Architecture(width, resolution, classes, batch), weights, seed, state
            )
            cli.tell(source.notes)
            threads = 1 if threads is None else threads
            decisions = Decisions.load(machine, threads, log_dir)
            records = {"threads": threads, "decisions": decisions}
            if not (program or via or tracker):
                machine.require_here()
            if program:
                build_program(machine, source, program, seed=seed, **records)  # type: ignore[arg-type]
                print(f"{program} measures itself on a machine of {machine.name}; see its --help")
                return
            if not via:
                with cli.progress("building") as say:
                    build(machine, source, folder, say=say, **records)  # type: ignore[arg-type]
        if via:
            result = bench_via(machine, source, via, runner=runner, **records, **options)  # type: ignore[arg-type]
        elif there:
            key = Manifest.read(folder).target
            address = Address(there, key)
            result = bench_remotely(folder, source, address, threads=threads, **options)  # type: ignore[arg-type]
        else:
            here = {"threads": threads, "cpus": pinned}
            result = bench(folder, source, **here, **options)  # type: ignore[arg-type]
    names = [layer["name"] for layer in result.manifest.layers]
    _show(result, decisions.told(names) if decisions else "", json_file)


def _show(result: BenchResult, records: str, json_file: Path | None) -> None:
    console = cli.plain_console(
        width=None if sys.stdout.isatty() else _PLAIN_COLUMNS, soft_wrap=True
    )
    table = summary(result)
    if records:
        table.add_row("records", records)
    console.print(table)
    if result.layers:
        console.print(layer_table(result.layers))
    if json_file is not None:
        try:
            write_whole(json_file, result.to_json().encode())
        except OSError as error:
            raise UserError(f"cannot write {json_file}: {error.strerror or error}") from error


if __name__ == "__main__":
    cli.run_verb(main)
