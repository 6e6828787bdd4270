"""What `bench` finds: the figures, their JSON, and their tables."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.measure.memory import Memory
from mnv2_tvm.measure.peak import above_peak


@dataclass(frozen=True)
class Latency:
    """Percentiles of one run's time."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> "Latency":
        """Those of the times of all runs."""
        return cls(*(float(f) for f in np.percentile(times_ms, [50, 10, 90, 0])))


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
    relative_error: float  # against the reference
    latency: Latency
    gflop_per_s: float  # at the median
    peak_gflop_per_s: float  # of as many threads, before or after the runs
    peak_share: float
    memory: Memory | None  # None: a board over RPC, or an emulated one
    layers: tuple[LayerTime, ...]  # in network order; empty unless asked for
    emulated: bool = False  # the times are not those of real hardware
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One object, indented."""
        return json.dumps(asdict(self), indent=2) + "\n"


def layer_times(
    manifest: Manifest, medians_us: np.ndarray, peak_gflop_per_s: float
) -> tuple[LayerTime, ...]:
    """Of a network's layers, from the median microseconds of each."""
    rows = []
    total_us = medians_us.sum().item() or 1.0
    for layer, us in zip(manifest.layers, medians_us.tolist(), strict=True):
        share = us / total_us
        rate = layer["flops"] / us / 1e3 if us else 0.0  # less than a step of the clock
        of_peak = rate / peak_gflop_per_s
        rows.append(LayerTime(layer["name"], layer["source"], us, share, rate, of_peak))
    return tuple(rows)


def rate_warnings(rate: float, peak: float, layers: Sequence[LayerTime]) -> list[str]:
    """The warning about figures that cannot be right, of the network or of its layers."""
    found = above_peak(rate, peak)
    if fast := [layer.name for layer in layers if layer.peak_share > 1]:
        found.append(f"{len(fast)} layer(s) are above the FMA peak, {fast[0]} for one")
    return found


def summary(result: BenchResult) -> Table:
    """The whole network in a few rows."""
    manifest, ms, memory = result.manifest, result.latency, result.memory
    table = Table.grid(padding=(0, 2))
    table.add_row("target", f"{manifest.target}, {result.threads} thread(s)")
    cores = result.host["cores"]  # None: a board that does not tell
    table.add_row("host", result.host["cpu"] + (f", {cores} core(s)" if cores else ""))
    table.add_row("network", f"{manifest.width}_{manifest.resolution}, {manifest.weights}")
    table.add_row("numbers", f"relative error {result.relative_error:.1e} against the reference")
    spread = f"p10 {ms.p10_ms:.3f}, p90 {ms.p90_ms:.3f}, min {ms.min_ms:.3f}"
    count = f"{result.runs} runs of {manifest.input_shape[0]} image(s)"
    table.add_row("latency", f"median {ms.median_ms:.3f} ms, {spread}; {count}")
    peak = f"{result.peak_share:.0%} of the FMA peak, {result.peak_gflop_per_s:.1f} measured"
    peak += " (emulated)" if result.emulated else ""
    table.add_row("speed", f"{result.gflop_per_s:.1f} GFLOP/s, {peak}")
    sizes = (manifest.workspace_bytes, manifest.weight_bytes, manifest.code_bytes)
    kib = [f"{size / 1024:.0f} KiB" for size in sizes]
    table.add_row("memory", f"workspace {kib[0]}, weights {kib[1]}, code {kib[2]}")
    if memory is not None:
        mib = [size / 2**20 for size in (memory.rss_growth_bytes, memory.peak_rss_bytes)]
        resident = f"{mib[0]:.1f} MiB for the network, {mib[1]:.1f} with the process"
        table.add_row("resident", f"{resident}, at the peak")
    for warning in result.warnings:
        table.add_row("warning", warning)
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
