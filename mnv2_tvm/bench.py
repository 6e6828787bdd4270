"""`python -m mnv2_tvm.bench`: check the numbers of a built library, then measure it."""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from mnv2_tvm import cli
from mnv2_tvm.baseline import Comparison, check_baseline, check_numbers, compare, run_ms, source_of
from mnv2_tvm.build import build
from mnv2_tvm.deploy.loader import load
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host
from mnv2_tvm.memory import Memory, measure_in_child
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork
from mnv2_tvm.peak import PeakProbe
from mnv2_tvm.search.json_lines import replace_lines
from mnv2_tvm.target import Target
from mnv2_tvm.versions import versions

_PLAIN_COLUMNS = 100  # of a table that goes into a file or a pipe


@dataclass(frozen=True)
class Latency:
    """Percentiles of one run's time."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float


@dataclass(frozen=True)
class LayerTime:
    """One layer inside the network."""

    name: str
    source: str  # of its schedule: tuned or default
    median_us: float
    time_share: float
    gflop_per_s: float
    peak_share: float


@dataclass(frozen=True)
class BenchResult:
    """What `bench` found; the keys of `--json` are these names."""

    date: str  # UTC, ISO 8601
    host: dict[str, Any]  # cpu, cores, machine
    versions: dict[str, str]  # of what measured; the manifest has those of what built
    manifest: Manifest  # target, network, sizes, schedules
    threads: int
    runs: int
    warmup: int
    seed: int  # of the input
    relative_error: float  # against torch
    latency: Latency
    gflop_per_s: float  # at the median
    peak_gflop_per_s: float  # of as many threads, the better of before and after the runs
    peak_share: float
    memory: Memory
    layers: tuple[LayerTime, ...]  # in network order; empty unless asked for
    baseline: Comparison | None

    def to_json(self) -> str:
        """One object, indented."""
        return json.dumps(asdict(self), indent=2) + "\n"


def bench(
    folder: Path,
    source: SourceNetwork,
    *,
    threads: int | None = None,
    runs: int = 100,
    warmup: int = 10,
    seed: int = 0,
    per_layer: bool = False,
    baseline: str | None = None,
) -> BenchResult:
    """Check the library in `folder` against `source` in torch, then time it.

    `threads` is by default the count of the build. Raises UserError for wrong numbers, and where
    the library cannot be loaded or is of another shape.
    """
    if runs < 1 or warmup < 0:
        raise UserError(f"{runs} runs after {warmup} to warm up: give 1 or more, and 0 or more")
    check_baseline(baseline)
    network = load(folder, threads)
    manifest, target = network.manifest, Target.load(network.manifest.target)
    images, result = source.images(seed), np.empty(network.output_shape, np.float32)
    error = check_numbers(folder, network, source, images)
    memory = measure_in_child(folder, network.threads)

    def run() -> None:
        network.run(images, result)

    probe = PeakProbe(target)
    before = probe.gflop_per_s(network.threads)
    for _ in range(warmup):
        run()
    times_ms = np.array([run_ms(run) for _ in range(runs)])
    profiles = [list(network.profile(images).values()) for _ in range(runs if per_layer else 0)]
    peak = max(before, probe.gflop_per_s(network.threads))
    latency = Latency(*(float(f) for f in np.percentile(times_ms, [50, 10, 90, 0])))
    rate = manifest.flops / latency.median_ms / 1e6
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
        layers=_layer_times(manifest, 1e6 * np.median(profiles, axis=0), peak) if profiles else (),
        baseline=compare(run, source, target, images) if baseline else None,
    )


def _layer_times(
    manifest: Manifest, medians_us: np.ndarray, peak_gflop_per_s: float
) -> tuple[LayerTime, ...]:
    rows = []
    for layer, us in zip(manifest.layers, medians_us.tolist(), strict=True):
        share, rate = us / medians_us.sum().item(), layer["flops"] / us / 1e3
        of_peak = rate / peak_gflop_per_s
        rows.append(LayerTime(layer["name"], layer["source"], us, share, rate, of_peak))
    return tuple(rows)


def summary(result: BenchResult) -> Table:
    """The whole network in a few rows."""
    manifest, ms, memory = result.manifest, result.latency, result.memory
    table = Table.grid(padding=(0, 2))
    table.add_row("target", f"{manifest.target}, {result.threads} thread(s)")
    table.add_row("host", f"{result.host['cpu']}, {result.host['cores']} core(s)")
    table.add_row("network", f"{manifest.width}_{manifest.resolution}, {manifest.weights}")
    table.add_row("numbers", f"relative error {result.relative_error:.1e} against torch")
    spread = f"p10 {ms.p10_ms:.3f}, p90 {ms.p90_ms:.3f}, min {ms.min_ms:.3f}"
    count = f"{result.runs} runs of {manifest.input_shape[0]} image(s)"
    table.add_row("latency", f"median {ms.median_ms:.3f} ms, {spread}; {count}")
    share = f"{result.peak_share:.0%} of the FMA peak, {result.peak_gflop_per_s:.1f} measured"
    table.add_row("speed", f"{result.gflop_per_s:.1f} GFLOP/s, {share}")
    mib = [size / 2**20 for size in (memory.rss_growth_bytes, memory.peak_rss_bytes)]
    table.add_row("memory", f"{mib[0]:.1f} MiB for the network, {mib[1]:.1f} with the process")
    if other := result.baseline:
        ratio = f"{other.ratio:.1f} x ours ({other.rounds} rounds in turns)"
        text = f"median {other.median_ms:.3f} ms on {other.threads} thread, {ratio}"
        table.add_row(f"stock {other.name}", text)
    return table


def layer_table(layers: tuple[LayerTime, ...]) -> Table:
    """One row a layer."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for heading in ("median us", "time", "GFLOP/s", "of peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("schedule", no_wrap=True)
    for row in layers:
        shares = (f"{row.time_share:.1%}", f"{row.gflop_per_s:.1f}", f"{row.peak_share:.0%}")
        table.add_row(row.name, f"{row.median_us:.1f}", *shares, row.source)
    return table


def _refuse_options_of_a_build(context: typer.Context) -> None:
    """A library has its shape already: an option that asks for one would be ignored."""
    for name in ("width", "resolution", "classes", "batch"):
        origin = context.get_parameter_source(name)
        if origin is not None and origin.name == "COMMANDLINE":
            raise UserError(f"--{name} goes with --target: a library has its {name} already")


def main(
    context: typer.Context,
    library: Annotated[Path | None, typer.Option(help="A folder that `build` wrote.")] = None,
    target: Annotated[str | None, typer.Option(help="Build for it first, in scratch.")] = None,
    width: cli.Width = 1.0,
    resolution: cli.Resolution = 224,
    classes: cli.Classes = 1000,
    batch: Annotated[int, typer.Option(help="Images of one run.")] = 1,
    weights: Annotated[Path | None, typer.Option(help="A .pth or .safetensors file.")] = None,
    seed: cli.Seed = 0,
    threads: Annotated[int | None, typer.Option(help="Default: as built, or 1.")] = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Time every layer.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all of it here.")] = None,
    runs: Annotated[int, typer.Option(help="Timed runs.")] = 100,
    warmup: Annotated[int, typer.Option(help="Runs before those.")] = 10,
    baseline: Annotated[str | None, typer.Option(help="Time it in turns with ours: relax.")] = None,
) -> None:
    """Check the numbers of a built library, or of one built for a target, and measure it."""
    check_baseline(baseline)
    if json_file is not None and not json_file.parent.is_dir():
        raise UserError(f"cannot write {json_file}: {json_file.parent} is not a folder")
    with tempfile.TemporaryDirectory(prefix="mnv2-bench-") as scratch:
        if target is not None and library is None:
            folder = Path(scratch) / "library"
            architecture = Architecture(width, resolution, classes, batch)
            source = SourceNetwork.make(architecture, weights, seed)
            build(Target.load(target), source, folder, threads=1 if threads is None else threads)
        elif library is not None and target is None:
            _refuse_options_of_a_build(context)
            folder, source = library, source_of(library, weights)
        else:
            raise UserError("give either --library DIR or --target NAME")
        result = bench(
            folder,
            source,
            threads=threads,
            runs=runs,
            warmup=warmup,
            seed=seed,
            per_layer=per_layer,
            baseline=baseline,
        )
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS, soft_wrap=True)
    console.print(summary(result))
    if result.layers:
        console.print(layer_table(result.layers))
    if json_file is not None:
        try:
            replace_lines(json_file, result.to_json().splitlines())
        except OSError as error:
            raise UserError(f"cannot write {json_file}: {error.strerror or error}") from error


if __name__ == "__main__":
    cli.run_verb(main)
