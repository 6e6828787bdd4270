"""`python -m mnv2_tvm.build`: compile a network into a folder with one library."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mnv2_tvm import cli
from mnv2_tvm.deploy.build import build as build
from mnv2_tvm.deploy.build import build_program as build_program
from mnv2_tvm.deploy.loader import library_path
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.deploy.memory_fit import byte_count, with_memory
from mnv2_tvm.host_target import HOST
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.untrusted import printable


def summary(manifest: Manifest, output: Path, decisions: Decisions) -> Table:
    """What was built, and by whose records, in a few rows."""
    table = Table.grid(padding=(0, 2))
    kib = {
        name: f"{getattr(manifest, f'{name}_bytes') / 1024:.0f} KiB"
        for name in ("workspace", "weight", "code")
    }
    share = ", ".join(f"{value:.0%} {name}" for name, value in manifest.flops_share.items())
    table.add_row("library", printable(library_path(output), limit=4000))
    table.add_row("target", f"{manifest.target}, {manifest.threads} thread(s)")
    table.add_row("input", f"{manifest.input_shape} float32, NHWC")
    table.add_row("output", f"{manifest.output_shape} float32")
    table.add_row("weights", f"{manifest.weights}, {kib['weight']}")
    table.add_row("memory", f"workspace {kib['workspace']}, code {kib['code']}")
    table.add_row("FLOPs on", f"{share} kernels")
    if records := decisions.told(layer["name"] for layer in manifest.layers):
        table.add_row("records", records)
    return table


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    target: cli.Target = HOST,
    width: cli.Width = 1.0,
    resolution: cli.Resolution = 224,
    classes: cli.Classes = 1000,
    batch: Annotated[int, typer.Option(help="Images of one run.")] = 1,
    weights: Annotated[
        Path | None, typer.Option(help="A .pth or .safetensors file; default: random weights.")
    ] = None,
    state: cli.State = None,
    threads: cli.Threads = 1,
    seed: cli.Seed = 0,
    log_dir: cli.LogDir = None,
    dump: Annotated[Path | None, typer.Option(help="Write the IR of each phase here.")] = None,
    package: Annotated[
        bool,
        typer.Option(
            "--package", help="Write include/, lib/ with CMake and pkg-config, example.c."
        ),
    ] = False,
    flash: Annotated[
        int | None, typer.Option(parser=byte_count, help="Of a microcontroller, e.g. 2M.")
    ] = None,
    ram: Annotated[
        int | None, typer.Option(parser=byte_count, help="Of a microcontroller, e.g. 320K.")
    ] = None,
) -> None:
    """Compile MobileNetV2 for a target into libmnv2.so, mnv2.h and manifest.json."""
    architecture = Architecture(width, resolution, classes, batch)
    machine = with_memory(cli.load_target(target), flash, ram)
    with cli.progress("reading the weights") as say:
        network = SourceNetwork.make(architecture, weights, seed, state)
        cli.tell(network.notes)
        decisions = Decisions.load(machine, threads, log_dir)
        manifest = build(
            machine,
            network,
            output,
            threads=threads,
            decisions=decisions,
            dump=dump,
            package=package,
            say=say,
        )
    cli.console().print(summary(manifest, output, decisions))


if __name__ == "__main__":
    cli.run_verb(main)
