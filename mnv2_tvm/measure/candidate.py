"""Build one candidate into a library of its own, and measure it: the jobs of the workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from mnv2_tvm.deploy.link import link_shared, write_object
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.files import check_loadable
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.problem import problem
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.passes.packed_entry import ENTRY, packed_kernel
from mnv2_tvm.records.machine import is_possible
from mnv2_tvm.target import Target

_SAMPLES = 7
_SAMPLE_MS = 2  # long against the step of the clock, short against the budget
MAX_RUNS = 3 * _SAMPLES  # of a candidate that is slow enough to need a deadline


@dataclass(frozen=True)
class Timing:
    """What a measured candidate took, and how far it is from the reference."""

    median_us: float | None  # None: the numbers are wrong, so it was not timed
    max_error: float
    board: str = ""  # which one; empty: this host
    cpu: str = ""  # of the board
    emulated: bool = False  # the time says nothing about real hardware

    @property
    def right(self) -> bool:
        """Whether the numbers are."""
        return self.median_us is not None


Result = Timing | Failure


def judged(result: Result, layer: Layer, target: Target) -> Result:
    """The result; a failure in place of a time that no CPU of the target can have taken."""
    if isinstance(result, Failure) or result.median_us is None:
        return result
    if is_possible(layer.flops, result.median_us, target):
        return result
    words = f"{result.median_us:g} us for {layer.flops} FLOPs are beyond any CPU of {target.name}"
    return Failure(Kind.IMPOSSIBLE, words, result.board)


def build_candidate(layer: Layer, schedule: Schedule, target: Target, path: Path) -> Path:
    """Write the candidate's library to `path`."""
    built = path.with_suffix(".o")
    write_object(packed_kernel(schedule.emit(layer, target), target), target, built)
    link_shared([built], target, path)
    built.unlink()
    return path


def measure_candidate(layer: Layer, schedule: Schedule, library: Path) -> Timing:
    """Check the candidate's numbers on this host, then time it if they are right."""
    check_loadable(library)
    return check_and_time(layer, schedule, tvm.runtime.load_module(str(library)), tvm.cpu())


def check_and_time(layer: Layer, schedule: Schedule, module: Any, device: Any) -> Timing:
    """The same of a candidate that is loaded on TVM's `device`."""
    task = problem(layer)
    arguments = [tvm.runtime.tensor(a, device) for a in task.arguments(layer, schedule)]
    # NaN: an output that the kernel leaves unwritten cannot pass for right.
    y = tvm.runtime.tensor(np.full(layer.output_shape, np.nan, np.float32), device)
    arguments.append(y)
    if floats := schedule.scratch_floats(layer):
        arguments.append(tvm.runtime.tensor(np.full(floats, np.nan, np.float32), device))
    module[ENTRY](*arguments)
    error = relative_error(y.numpy(), task.reference)
    if error > TOLERANCE:
        return Timing(None, error)
    evaluate = module.time_evaluator(
        ENTRY, device, number=1, repeat=_SAMPLES, min_repeat_ms=_SAMPLE_MS
    )
    seconds = evaluate(*arguments).results
    return Timing(median_us=float(np.median(seconds)) * 1e6, max_error=error)
