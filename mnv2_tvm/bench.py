"""`python -m mnv2_tvm.bench`: check the numbers of a built library, then measure it."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mnv2_tvm import cli
from mnv2_tvm.build import build, build_program
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.open import HERE, check_ways, open_device
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder, write_whole
from mnv2_tvm.host_target import HOST
from mnv2_tvm.measure.bench import Plan, measure
from mnv2_tvm.measure.bench_result import BenchResult, layer_table, summary
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

_PLAIN_COLUMNS = 100  # of a table that goes into a file or a pipe
_MOST_RUNS = 1_000_000  # as mnv2_bench takes them


def bench(
    folder: Path,
    source: SourceNetwork,
    plan: Plan | None = None,
    *,
    on: str = HERE,
    runner: str | None = None,
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
) -> BenchResult:
    """Check the library in `folder` against `source`, then time it on the device `on`, as `--on`.

    `threads` is by default the count of the build; with `cpus` there is one on each of these of
    this machine. Raises UserError for wrong numbers, and where the library cannot be loaded or is
    of another shape.
    """
    key = Manifest.read(folder).target
    with open_device(on, key, lambda: Target.load(key), runner=runner, cpus=cpus) as device:
        return measure(device, folder, source, plan or Plan(), len(cpus) if cpus else threads)


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
    on: cli.On = None,
    runner: cli.Runner = None,
    tracker: cli.Tracker = None,
    via: cli.Via = None,
    program: Annotated[
        Path | None, typer.Option(help="Write a static program that measures itself; run nothing.")
    ] = None,
) -> None:
    """Check the numbers of a built library, or of one built for a target, and measure it."""
    ways = cli.ways(on, tracker, via)
    check_ways(ways, runner, named=bool(library or program or target not in (None, HOST)))
    if library and (target or program):
        raise UserError("give either --library DIR or --target NAME, of which --program is one")
    if program:
        idle = ["runs", "warmup", "per_layer", "json_file", "on", "tracker", "via", "cpus"]
        _refuse(context, idle, "measures, and --program only writes a program: leave one out")
    if cpus is not None:
        elsewhere = "is not for --cpus, which places this host's threads: leave one out"
        _refuse(context, ("threads", "on", "tracker", "via"), elsewhere)
    if json_file is not None:
        if len(ways) > 1:
            raise UserError("--json holds one result: give --on once")
        cli.check_writable(json_file)
    plan = Plan(runs, warmup, seed, per_layer)
    pinned = None if cpus is None else cli.cpu_list(cpus)
    with ExitStack() as stack:
        told = ""
        if library:
            why = "goes with --target: a library has its own already"
            _refuse(context, ("width", "resolution", "classes", "batch", "log_dir"), why)
            folder = library
            source = SourceNetwork.of_library(Manifest.read(library), weights, state)
            cli.tell(source.notes)
        else:
            machine = cli.load_target(target or HOST)
            network = Architecture(width, resolution, classes, batch)
            source = SourceNetwork.make(network, weights, seed, state)
            cli.tell(source.notes)
            threads = len(pinned) if pinned else threads or 1
            decisions = Decisions.load(machine, threads, log_dir)
            if program:
                build_program(
                    machine, source, program, threads=threads, seed=seed, decisions=decisions
                )
                print(f"{program} measures itself on a machine of {machine.name}; see its --help")
                return
            if ways == [HERE]:
                machine.require_here()
            folder = stack.enter_context(scratch_folder()) / "library"
            with cli.progress("building") as say:
                manifest = build(
                    machine, source, folder, threads=threads, decisions=decisions, say=say
                )
            told = decisions.told(layer["name"] for layer in manifest.layers)
        for way in ways:
            result = bench(
                folder, source, plan, on=way, runner=runner, threads=threads, cpus=pinned
            )
            _show(result, told, json_file)


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
