"""`python -m mnv2_tvm.show`: the schedule of a layer, where it comes from, and its loop nest."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mnv2_tvm import cli
from mnv2_tvm.assembly import InnerLoop, hot_loop
from mnv2_tvm.errors import UserError
from mnv2_tvm.host_target import HOST
from mnv2_tvm.kernels import Schedule, default_schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import network_blocks, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Record
from mnv2_tvm.target import Target
from mnv2_tvm.untrusted import printable

_LINES_SHOWN = 2  # of a run of alike statements


@dataclass(frozen=True)
class Shown:
    """One layer: its schedule, the record it comes from if there is one, and its budgets."""

    layer: Layer
    schedule: Schedule
    fused: bool  # False for a block that is done layer by layer, so that this would be its kernel
    source: str  # tuned, tuned elsewhere or default
    record: Record | None
    file: Path | None  # where the record stands
    registers: int
    scratch_bytes: int  # of each thread
    panel_bytes: int  # packed weights that one pass of the innermost loops reads
    tasks: int
    hot_loop: InnerLoop | None  # None where all loops are unrolled, or none has FMAs
    loop_nest: str  # TVMScript, runs of alike statements folded


def show(layer: Layer, target: Target, *, threads: int = 1, log_dir: Path | None = None) -> Shown:
    """What `build` will run for the layer on the target, and why."""
    decisions = Decisions.load(target, threads, log_dir)
    chosen = decisions(layer)
    schedule = chosen or default_schedule(layer, target)
    return Shown(
        layer=layer,
        schedule=schedule,
        fused=chosen is not None,
        source=decisions.source(layer),
        record=decisions.records.get(layer),
        file=decisions.files.get(layer),
        registers=schedule.registers(layer, target),
        scratch_bytes=4 * schedule.scratch_floats(layer),
        panel_bytes=schedule.panel_bytes(layer),
        tasks=schedule.tasks(layer),
        hot_loop=hot_loop(layer, schedule, target),
        loop_nest=fold(schedule.emit(layer, target).script()),
    )


def fold(script: str) -> str:
    """The script with all but the first statements of each run of alike ones left out.

    Alike are neighbouring lines that read and write the same buffers: an unrolled loop.
    """
    folded: list[str] = []
    for _, group in groupby(script.splitlines(), key=_alike):
        lines = list(group)
        folded += lines[:_LINES_SHOWN]
        if len(lines) > _LINES_SHOWN:
            indent = re.match(r"\s*", lines[0])
            assert indent is not None
            folded.append(f"{indent[0]}# ... {len(lines) - _LINES_SHOWN} more like it")
    return "\n".join(folded)


def _alike(line: str) -> str:
    """Indentation and buffers of a store; any other line is like itself only."""
    buffers = re.findall(r"(\w+)\[", line)
    store = re.match(r"\s*\w+\[", line)
    return f"{store[0]} {sorted(set(buffers))}" if store else line


def _overview(layers: list[Layer], decisions: Decisions) -> Table:
    table = Table("layer", "source", "decisions", box=None)
    for layer in dict.fromkeys(layers):
        chosen = decisions(layer) or "layer by layer"
        table.add_row(layer.name, decisions.source(layer), str(chosen))
    return table


def _assembly(loop: InnerLoop | None) -> str:
    if loop is None:
        return "no loop with FMAs is left in the assembly"
    share = f"{loop.fma_share:.0%} of its vector arithmetic"
    return f"in the assembly: {loop.fmas} FMAs, {share}; {loop.spills} vector spills"


def _print(shown: Shown, target: Target, console: Console) -> None:
    vector, cache = target.vector, target.cache
    record = shown.record
    origin = "the machine's facts in targets/ (no record)"
    if record is not None:
        where = ", ".join(f"{key} {value}" for key, value in record.provenance.items())
        emulated = "emulated, no time of real hardware; " if record.emulated else ""
        origin = (
            f"a record, {shown.source}: {record.median_us:.1f} us inside the network; "
            f"{emulated}{printable(where)}; in {printable(shown.file, limit=4000)}"
        )
    weights = "none"
    if shown.panel_bytes:
        weights = (
            f"{shown.panel_bytes} bytes a panel, {shown.panel_bytes / cache.l1_bytes:.0%} of L1, "
            f"{shown.panel_bytes / cache.l2_bytes:.0%} of L2"
        )
    table = Table.grid(padding=(0, 2))
    table.add_row("layer", shown.layer.name)
    table.add_row("target", f"{target.name}: {target.description}")
    table.add_row("FLOPs", f"{shown.layer.flops}")
    apart = "" if shown.fused else "layer by layer; as one kernel it would be "
    table.add_row("kernel", shown.schedule.kernel())
    table.add_row("decisions", f"{apart}{shown.schedule}")
    table.add_row("from", origin)
    table.add_row(
        "registers", f"{shown.registers} of {vector.registers}, {vector.bytes} bytes each"
    )
    table.add_row("weights", weights)
    if shown.scratch_bytes:
        share = shown.scratch_bytes / cache.l2_bytes
        table.add_row("scratch", f"{shown.scratch_bytes} bytes a thread, {share:.0%} of L2")
    table.add_row("inner loop", _assembly(shown.hot_loop))
    table.add_row("threads share", f"{shown.tasks} tasks")
    console.print(table)
    console.print()
    console.print(shown.loop_nest, highlight=False, markup=False, soft_wrap=True)


def main(
    target: cli.Target = HOST,
    layer: Annotated[
        str | None, typer.Option(help="A layer's name, or a glob for those of the network.")
    ] = None,
    width: cli.Width = 1.0,
    resolution: cli.Resolution = 224,
    threads: cli.Threads = 1,
    log_dir: cli.LogDir = None,
) -> None:
    """Show the schedules of a network's layers, or of one layer with its loop nest."""
    machine = cli.load_target(target)
    console = cli.console()
    if layer is not None and not re.search(r"[*?\[]", layer):
        _print(
            show(Layer.parse(layer), machine, threads=threads, log_dir=log_dir), machine, console
        )
        return
    network = SourceNetwork.make(Architecture(width, resolution), None, 0)
    module = network.relax()
    every = network_blocks(module) + network_layers(module)
    layers = [one for one in every if fnmatchcase(one.name, layer or "*")]
    if not layers:
        raise UserError(f"no layer matches '{layer}'; leave --layer out to see all")
    decisions = Decisions.load(machine, threads, log_dir)
    console.print(f"{width}-{resolution} on {machine.name}", highlight=False)
    console.print(_overview(layers, decisions))
    if records := decisions.told(dict.fromkeys(layer.name for layer in layers)):
        console.print(f" records: {records}")


if __name__ == "__main__":
    cli.run_verb(main)
