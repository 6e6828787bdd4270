"""The roofline picture: every layer of ours as a point under the measured FMA peak."""

import tempfile
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from mnv2_tvm.bench import bench
from mnv2_tvm.build import build
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.bench import Plan
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

COLOURS = {"conv": "#7a4fa3", "dwconv": "#c8553d", "pwconv": "#1f6f8b", "avgpool": "#6b7075"}
NAMES = {"conv": "3x3", "dwconv": "depthwise", "pwconv": "pointwise", "avgpool": "pooling"}


def measure_layers(
    target: Target, width: float, resolution: int, threads: int, seed: int
) -> dict[str, Any]:
    """What `bench --per-layer --json` writes, of ours on this machine's records."""
    source = SourceNetwork.make(Architecture(width, resolution), None, seed)
    with tempfile.TemporaryDirectory(prefix="mnv2-layers-") as name:
        decisions = Decisions.load(target, threads)
        build(target, source, Path(name), threads=threads, decisions=decisions)
        return asdict(bench(Path(name), source, Plan(seed=seed, per_layer=True), threads=threads))


def operand_bytes(layer: Layer) -> int:
    """Of input, weights, bias and output, each counted once, as if none were in a cache."""
    operands = [prod(layer.input_shape), prod(layer.output_shape)]
    if layer.weight_shape is not None:
        operands += [prod(layer.weight_shape), layer.out_channels]
    if layer.epilogue == "residual":
        operands.append(prod(layer.output_shape))
    return 4 * sum(operands)


def plot_roofline(result: dict[str, Any], path: Path) -> None:
    """Draw the layers of `measure_layers` as SVG; a larger point has a larger share of time."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "mnv2"  # the same data gives the same file
    import matplotlib.pyplot as plt

    peak, manifest = result["peak_gflop_per_s"], result["manifest"]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for operator, colour in COLOURS.items():
        rows = [row for row in result["layers"] if Layer.parse(row["name"]).operator == operator]
        layers = [Layer.parse(row["name"]) for row in rows]
        axes.scatter(
            [layer.flops / operand_bytes(layer) for layer in layers],
            [row["gflop_per_s"] for row in rows],
            s=[10 + 1500 * row["time_share"] for row in rows],
            color=colour,
            alpha=0.6,
            linewidths=0,
            label=NAMES[operator],
        )
    axes.axhline(peak, color="#444444", linewidth=1, linestyle="--")
    axes.annotate(
        f"FMA peak, {peak:.0f} GFLOP/s",
        (0.02, peak),
        (0, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=9,
    )
    axes.set(xscale="log", yscale="log", xlabel="FLOPs a byte of its operands", ylabel="GFLOP/s")
    axes.set_title(
        f"Layers of MobileNetV2-{manifest['width']}-{manifest['resolution']} fp32, "
        f"{result['threads']} thread(s), {result['host']['cpu']}",
        fontsize=10,
    )
    legend = axes.legend(loc="lower right", frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
