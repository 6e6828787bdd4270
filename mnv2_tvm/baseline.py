"""What a library is held against: the reference's numbers, and the stock Relax build's time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Protocol

import numpy as np
import tvm
from tvm import relax

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.network import SourceNetwork, relative_error
from mnv2_tvm.target import Target

BASELINES = ("relax",)
TOLERANCE = 1e-4  # relative error that summing in another order cannot reach

_ROUNDS = 7  # the stock build takes some 180 ms a run at width 1.0, resolution 224


@dataclass(frozen=True)
class Comparison:
    """A baseline and ours, measured in turns."""

    name: str
    threads: int
    relative_error: float
    rounds: int
    median_ms: float
    own_median_ms: float  # ours, in the same rounds
    ratio: float  # median over the rounds of the baseline's time over ours


def stock_executable(source: SourceNetwork, target: Target) -> relax.VMExecutable:
    """The network as `tvm.compile` builds it without any schedule of ours."""
    codegen = target.codegen()
    pipeline = relax.get_default_pipeline(codegen)
    return tvm.compile(source.relax(), target=codegen, relax_pipeline=pipeline)


class StockRelax:
    """`stock_executable` on Relax's own VM.

    It runs on one thread: no schedule, no parallel loop, so TVM's thread pool has nothing to do.
    """

    threads = 1

    def __init__(self, source: SourceNetwork, target: Target) -> None:
        executable = stock_executable(source, target)
        self._main = relax.VirtualMachine(executable, tvm.cpu())["main"]

    def runner(self, images: np.ndarray) -> Callable[[], np.ndarray]:
        """A run on `images` [n, y, x, 3], copied into the VM once; returns a view of the logits."""
        tensor = tvm.runtime.tensor(images)

        def run() -> np.ndarray:
            logits: np.ndarray = np.from_dlpack(self._main(tensor))
            return logits

        return run


class Runnable(Protocol):
    """A loaded library: on this host, or on a board."""

    manifest: Manifest
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def __call__(self, images: np.ndarray, /) -> np.ndarray:
        """Logits [n, classes] of images [n, y, x, 3]."""


def check_numbers(
    folder: Path, network: Runnable, source: SourceNetwork, images: np.ndarray
) -> float:
    """The relative error of the library in `folder` on `images` [n, y, x, 3].

    Raises UserError where it is too large, or where the library is of another shape.
    """
    reference = source.reference(images)
    if (network.input_shape, network.output_shape) != (images.shape, reference.shape):
        raise UserError(
            f"{folder} takes {list(network.input_shape)} to {list(network.output_shape)}, the "
            f"network to compare it with {list(images.shape)} to {list(reference.shape)}"
        )
    error = relative_error(network(images), reference)
    if error > TOLERANCE:
        raise UserError(
            f"wrong numbers: {folder}, built with weights '{network.manifest.weights}', is off by "
            f"{error:.1e} of the reference's largest output with weights '{source.weights}'; "
            f"{TOLERANCE:.0e} is allowed. Give the --weights it was built with, or build it again"
        )
    return error


def check_baseline(name: str | None) -> None:
    """Raises UserError for a baseline that does not exist; None stands for none."""
    if name is not None and name not in BASELINES:
        raise UserError(f"unknown baseline '{name}'; known baselines: {', '.join(BASELINES)}")


def compare(
    own: Callable[[], None],
    source: SourceNetwork,
    target: Target,
    images: np.ndarray,
    rounds: int = _ROUNDS,
) -> Comparison:
    """The stock build beside `own`, a run of ours on the same images, in turns.

    Raises UserError where the stock build gives wrong numbers.
    """
    stock = StockRelax(source, target)
    run = stock.runner(images)
    error = relative_error(run(), source.reference(images))
    if error > TOLERANCE:
        raise UserError(
            f"the stock Relax build for {target.name} gives wrong numbers: relative error "
            f"{error:.1e}; leave --baseline out"
        )
    # In turns, so that a drift of the machine hits both.
    pairs = [(_warm_ms(own), _warm_ms(run)) for _ in range(rounds)]
    return Comparison(
        name="relax",
        threads=stock.threads,
        relative_error=error,
        rounds=rounds,
        median_ms=median(other for _, other in pairs),
        own_median_ms=median(ours for ours, _ in pairs),
        ratio=median(other / ours for ours, other in pairs),
    )


def run_ms(run: Callable[[], object]) -> float:
    """What one run takes."""
    start = perf_counter()
    run()
    return 1e3 * (perf_counter() - start)


def _warm_ms(run: Callable[[], object]) -> float:
    """Of the second of two runs: whoever ran before has emptied the caches."""
    run()
    return run_ms(run)
