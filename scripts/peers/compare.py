"""Compare this project with its peers: same weights, same input, alternating rounds.

Every peer runs in a process of its own. In each round all have their turn, so that a drift of
the machine hits everyone; the ratio to ours is taken round by round.
"""

import contextlib
import datetime
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from plot import plot
from process import PeerProcess
from runners import PEERS, Case, reference_module

from mnv2_tvm import cli
from mnv2_tvm.build import build
from mnv2_tvm.host import this_host
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork, relative_error
from mnv2_tvm.peak import PeakProbe
from mnv2_tvm.search.records import Decisions
from mnv2_tvm.target import Target

RESULTS = Path(__file__).resolve().parent.parent / "results"
README = RESULTS.parent.parent / "README.md"
OURS = "mnv2_tvm"
_TOLERANCE = 1e-4


def compare(
    target: Target, width: float, resolution: int, threads: int, rounds: int, runs: int, seed: int
) -> dict[str, Any]:
    """Time all peers; the result is what the JSON file holds. Times in milliseconds."""
    network = SourceNetwork.make(Architecture(width, resolution), None, seed)
    images = network.images(seed)
    reference = network.reference(images)
    with tempfile.TemporaryDirectory(prefix="mnv2-") as name:
        folder = Path(name)
        decisions = Decisions.load(target, threads)
        manifest = build(target, network, folder / "library", threads=threads, decisions=decisions)
        onnx = export_onnx(width, resolution, seed, images, folder)
        case = Case(width, resolution, seed, threads, images, folder / "library", onnx)
        peers = [PeerProcess(peer, case) for peer in PEERS]
        alive = [peer for peer in peers if peer.failed is None]
        samples: dict[str, list[float]] = {peer.name: [] for peer in alive}
        peaks, probe = [], PeakProbe(target)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            peaks.append(probe.gflop_per_s(threads))
            for peer in alive:
                samples[peer.name].append(float(np.median(peer.time(runs))))
        rows = [_row(peer, samples, reference) for peer in peers]
        for peer in peers:
            peer.close()
    peak = max(peaks)
    return {
        "network": f"{width}-{resolution}",
        "threads": threads,
        "target": target.name,
        "flops_share": manifest.flops_share,
        "cpu": this_host().cpu,
        "cores": this_host().cores,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "runs_per_round": runs,
        "peak_gflops": round(peak, 1),
        "our_share_of_peak": round(
            manifest.flops / float(np.median(samples[OURS])) * 1e-6 / peak, 4
        ),
        "rows": rows,
    }


def _row(peer: PeerProcess, samples: dict[str, list[float]], reference: np.ndarray) -> dict:
    if peer.failed is not None:
        return {"name": peer.name, "failed": peer.failed.strip()}
    assert peer.output is not None
    times = np.array(samples[peer.name])
    ratios = times / np.array(samples[OURS])
    low, high = _interval(ratios)
    return {
        "name": peer.name,
        "version": peer.version,
        "median_ms": round(float(np.median(times)), 4),
        "min_ms": round(float(times.min()), 4),
        "ratio_to_ours": round(float(np.median(ratios)), 4),
        "ratio_interval_95": [round(low, 4), round(high, 4)],
        "peak_growth_mb": round(peer.peak_growth_bytes() / 1e6, 1),
        "relative_error": relative_error(peer.output, reference),
        "samples_ms": [round(value, 4) for value in times.tolist()],
    }


def _interval(ratios: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    random = np.random.default_rng(0)
    draws = random.choice(ratios, size=(2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return float(low), float(high)


def export_onnx(
    width: float, resolution: int, seed: int, images: np.ndarray, folder: Path
) -> Path | None:
    """The torch module as an ONNX file, input [n, 3, y, x]; None without the extra [peers]."""
    import torch

    path = folder / "mnv2.onnx"
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")  # the tracing exporter is old, and enough here
        model = reference_module(width, resolution, seed)
        torch.onnx.export(model, (x,), str(path), dynamo=False, input_names=["input"])
    return path if path.is_file() else None


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown, fastest first, with what they were measured on."""
    good = sorted((r for r in result["rows"] if "failed" not in r), key=lambda r: r["median_ms"])
    lines = [
        f"MobileNetV2-{result['network']}, fp32, batch 1, {result['threads']} thread(s), "
        f"{result['cpu']}, {result['cores']} cores, {result['target']}, {result['date'][:10]}; "
        f"ours reaches {result['our_share_of_peak']:.0%} of the FMA peak, measured as "
        f"{result['peak_gflops']:.0f} GFLOP/s.",
        "",
        "| runtime | version | median ms | ours is faster by | memory growth MB | max rel. error |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in good:
        low, high = row["ratio_interval_95"]
        faster = f"{row['ratio_to_ours']:.2f}x ({low:.2f}-{high:.2f})"
        lines.append(
            f"| {row['name']} | {row['version']} | {row['median_ms']:.3f} | "
            f"{'' if row['name'] == OURS else faster} | {row['peak_growth_mb']:.1f} | "
            f"{row['relative_error']:.0e} |"
        )
    failed = [row for row in result["rows"] if "failed" in row]
    lines += [f"| {row['name']} | | {row['failed'].splitlines()[-1]} | | | |" for row in failed]
    return "\n".join(lines)


def _into_readme(result: dict[str, Any]) -> None:
    """Replace what stands between this result's markers, if the README has them."""
    name = f"peers {result['network']} {result['threads']}"
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = README.read_text(encoding="utf-8")
    if begin in text:
        head, rest = text.split(begin, 1)
        tail = rest.split(end, 1)[1]
        README.write_text(f"{head}{begin}\n{table(result)}\n{end}{tail}", encoding="utf-8")


def main(
    target: cli.Target = "x86",
    width: cli.Width = 1.0,
    resolution: cli.Resolution = 224,
    threads: cli.Threads = 1,
    rounds: Annotated[int, typer.Option(min=3, help="Each peer has a turn in each.")] = 25,
    runs: Annotated[int, typer.Option(min=1, help="Runs of one turn; their median counts.")] = 20,
    seed: cli.Seed = 0,
    save: Annotated[bool, typer.Option(help="Write scripts/results/ and the README.")] = False,
) -> None:
    """Compare with ONNX Runtime, OpenVINO and torch on this machine."""
    result = compare(Target.load(target), width, resolution, threads, rounds, runs, seed)
    print(table(result))
    wrong = [row["name"] for row in result["rows"] if row.get("relative_error", 0) > _TOLERANCE]
    if wrong:
        print(f"error: wrong numbers: {', '.join(wrong)}", file=sys.stderr)
        raise typer.Exit(1)
    if save:
        RESULTS.mkdir(exist_ok=True)
        name = f"peers-{result['network']}-{result['target']}-{threads}t.json"
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        _into_readme(result)
        if (width, resolution, threads) == (1.0, 224, 1):
            plot(result, RESULTS / "peers.svg")


if __name__ == "__main__":
    cli.run_verb(main)
