"""One network as a library in fp32 and in int8, run in turn: medians and paired ratios.

The weights are random, as times do not depend on them. fp32 has the schedules of the records, int8
the defaults, layer by layer: there are no records of int8 yet, and no fused blocks.
"""

import argparse
import ctypes
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tvm.deploy.library import Interface, write_library
from mnv2_tvm.host import this_host
from mnv2_tvm.images import MEAN, STD
from mnv2_tvm.kernels import default_schedule
from mnv2_tvm.measure.peak import PeakProbe
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import Compilation, compile_network, compile_quantised
from mnv2_tvm.quantise import reference
from mnv2_tvm.quantise.convert import quantise
from mnv2_tvm.quantise.float_network import float_network
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.ranges import calibrate
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

_ALIGNMENT = 64


class Library:
    """A library with its own operands, called through the C interface."""

    def __init__(
        self, compilation: Compilation, threads: int, folder: Path, image: np.ndarray
    ) -> None:
        folder.mkdir()
        interface = Interface.of(compilation, threads)
        write_library(compilation, interface, folder)
        self.layers = [step.layer for step in compilation.steps]
        self.weight_bytes = len(compilation.weights)
        self.workspace_bytes = interface.workspace_bytes
        self._library = ctypes.CDLL(str(folder / "libmnv2.so"))
        memory = np.zeros(interface.workspace_bytes + _ALIGNMENT, np.uint8)
        workspace = -(-memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        self.logits = np.zeros(interface.output_shape, np.float32)
        self.seconds = np.zeros(len(self.layers))
        arrays = (image.ctypes.data, self.logits.ctypes.data, workspace)
        self._operands = tuple(map(ctypes.c_void_p, arrays))
        self._kept = (memory, image)

    def run_ms(self) -> float:
        """One run."""
        start = time.perf_counter()
        assert self._library.mnv2_run(*self._operands) == 0
        return 1e3 * (time.perf_counter() - start)

    def layers_us(self) -> np.ndarray:
        """One run: microseconds of each layer."""
        seconds = ctypes.c_void_p(self.seconds.ctypes.data)
        assert self._library.mnv2_profile(*self._operands, seconds) == 0
        return 1e6 * self.seconds


def in_turn(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> list[tuple[Any, Any]]:
    """What both give, after one another, in changing order."""
    pairs = []
    for number in range(rounds):
        first, second = (one, other) if number % 2 else (other, one)
        a, b = np.array(first()), np.array(second())
        pairs.append((a, b) if number % 2 else (b, a))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fp32", default="host", help="target of the fp32 library")
    parser.add_argument("--int8", help="target of the int8 library; default: that of fp32")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write all of it here")
    options = parser.parse_args()
    fp32 = Target.load(options.fp32)
    int8 = Target.load(options.int8 or fp32.name)
    architecture = Architecture(options.width, options.resolution)
    source, pixels = SourceNetwork.make(architecture, None, 0), Pixels.of(MEAN, STD)
    layers = float_network(architecture, source.state)
    images = pixels.normalise(pixels.bytes_of(source.images(0)))
    network = quantise(layers, calibrate(layers, [images]), pixels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = compile_network(source.relax(), fp32, Decisions.load(fp32, options.threads))
        first = Library(plain, options.threads, folder / "fp32", images)
        quick = compile_quantised(network, int8, lambda layer: default_schedule(layer, int8))
        second = Library(quick, options.threads, folder / "int8", pixels.bytes_of(images))
        in_turn(first.run_ms, second.run_ms, 10)
        probe = PeakProbe(fp32)
        peaks = [probe.gflop_per_s(options.threads)]
        pairs = np.array(in_turn(first.run_ms, second.run_ms, options.rounds))
        profiles = in_turn(first.layers_us, second.layers_us, max(10, options.rounds // 4))
        peaks.append(probe.gflop_per_s(options.threads))
        exact = np.array_equal(second.logits, reference.logits(network, pixels.bytes_of(images)))
    report(options, (fp32, int8), (first, second), pairs, profiles, max(peaks), exact)


def report(
    options: argparse.Namespace,
    targets: tuple[Target, Target],
    libraries: tuple[Library, Library],
    pairs: np.ndarray,
    profiles: list[tuple[Any, Any]],
    peak: float,
    exact: bool,
) -> None:
    """Print the figures, and write them where `--json` says."""
    ratios = pairs[:, 0] / pairs[:, 1]
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    table: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": this_host().cpu,
        "network": f"{options.width}-{options.resolution}",
        "threads": options.threads,
        "peak_gflop_per_s": peak,
        "bits_of_the_reference": exact,
        "fp32_over_int8": {"p10": low, "median": middle, "p90": high},
    }
    for place, (target, library) in enumerate(zip(targets, libraries, strict=True)):
        us = np.median([pair[place] for pair in profiles], axis=0)
        flops = [layer.flops for layer in library.layers]
        ms = float(np.median(pairs[:, place]))
        table["int8" if place else "fp32"] = {
            "target": target.name,
            "median_ms": ms,
            "share_of_fma_peak": sum(flops) / ms / 1e6 / peak,
            "weight_bytes": library.weight_bytes,
            "workspace_bytes": library.workspace_bytes,
            "layers": [
                {
                    "name": layer.name,
                    "us": round(float(time_us), 2),
                    "share": f / time_us / 1e3 / peak,
                }
                for layer, f, time_us in zip(library.layers, flops, us, strict=True)
            ],
        }
    for name in ("fp32", "int8"):
        row = table[name]
        print(
            f"{name} {row['target']}: median {row['median_ms']:.3f} ms, "
            f"{row['share_of_fma_peak']:.2f} of the FMA peak, weights {row['weight_bytes']} B, "
            f"workspace {row['workspace_bytes']} B"
        )
    print(f"fp32 / int8: {middle:.2f} ({low:.2f}-{high:.2f}), bits as the reference: {exact}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
