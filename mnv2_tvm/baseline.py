"""The stock Relax build of the same network, to stand beside ours."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import tvm
from tvm import relax

from mnv2_tvm.errors import UserError
from mnv2_tvm.network import SourceNetwork
from mnv2_tvm.target import Target

BASELINES = ("relax",)

_BIG_CORES = 1  # a thread pool's mode: TVM prefers the fastest cores
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


class StockRelax:
    """The network as `tvm.compile` builds it without any schedule of ours, on Relax's own VM."""

    def __init__(self, source: SourceNetwork, target: Target, threads: int) -> None:
        codegen = target.codegen()
        pipeline = relax.get_default_pipeline(codegen)
        executable = tvm.compile(source.relax(), target=codegen, relax_pipeline=pipeline)
        tvm.get_global_func("runtime.config_threadpool")(_BIG_CORES, threads)
        self._main = relax.VirtualMachine(executable, tvm.cpu())["main"]

    def runner(self, images: np.ndarray) -> Callable[[], np.ndarray]:
        """A run on `images` [n, y, x, 3], copied into the VM once; returns a view of the logits."""
        tensor = tvm.runtime.tensor(images)

        def run() -> np.ndarray:
            logits: np.ndarray = np.from_dlpack(self._main(tensor))
            return logits

        return run


def check_baseline(name: str | None) -> None:
    """Raises UserError for a baseline that does not exist; None stands for none."""
    if name is not None and name not in BASELINES:
        raise UserError(f"unknown baseline '{name}'; known baselines: {', '.join(BASELINES)}")


def paired_ms(
    own: Callable[[], object], other: Callable[[], object], rounds: int = _ROUNDS
) -> list[tuple[float, float]]:
    """Milliseconds of one run of each, for every round: a drift of the machine hits both.

    Before each timed run comes one that is not, since the other has emptied the caches.
    """
    return [(_warm_ms(own), _warm_ms(other)) for _ in range(rounds)]


def summarize(
    name: str, threads: int, error: float, pairs: list[tuple[float, float]]
) -> Comparison:
    """The comparison of rounds of (ours, baseline) in milliseconds."""
    return Comparison(
        name=name,
        threads=threads,
        relative_error=error,
        rounds=len(pairs),
        median_ms=median(other for _, other in pairs),
        own_median_ms=median(own for own, _ in pairs),
        ratio=median(other / own for own, other in pairs),
    )


def _warm_ms(run: Callable[[], object]) -> float:
    run()
    start = perf_counter()
    run()
    return 1e3 * (perf_counter() - start)
