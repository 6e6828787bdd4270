"""The picture of the benchmarks: latency of every runtime as bars, the FMA floor as a line."""

from pathlib import Path
from typing import Any

OURS_COLOUR, PEER_COLOUR = "#1f6f8b", "#b8c4c9"
LONGEST = 6  # bars as long as so many of ours are cut: one slow runtime would flatten the rest


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw one result of compare.py as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "mnv2"  # the same data gives the same file
    import matplotlib.pyplot as plt

    rows = [row for row in result["rows"] if "failed" not in row]
    rows.sort(key=lambda row: -row["median_ms"])
    names, times = [row["name"] for row in rows], [row["median_ms"] for row in rows]
    ours = next(row for row in rows if row["name"] == "mnv2_tvm")
    floor = ours["median_ms"] * result["our_share_of_peak"]
    longest = LONGEST * ours["median_ms"]
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.5 * len(rows)), layout="constrained")
    colours = [OURS_COLOUR if name == ours["name"] else PEER_COLOUR for name in names]
    bars = axes.barh(names, [min(time, longest) for time in times], color=colours)
    labels = [f"{time:.2f}" + (", bar cut" if time > longest else "") for time in times]
    axes.bar_label(bars, labels=labels, padding=4)
    axes.axvline(floor, color="#444444", linewidth=1, linestyle="--")
    axes.set_xlabel(f"ms for one image; dashed: all FLOPs at the FMA peak, {floor:.2f} ms")
    axes.set_title(
        f"MobileNetV2-{result['network']} fp32, {result['threads']} thread(s), {result['cpu']}",
        fontsize=10,
    )
    axes.margins(x=0.16)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
