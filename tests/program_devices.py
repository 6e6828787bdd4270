"""Devices that run programs, as the tests reach them."""

import functools

from conftest import TINY

from mnv2_tvm.bench import bench
from mnv2_tvm.build import build
from mnv2_tvm.devices.open import transport
from mnv2_tvm.devices.program.remote import Remote
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.measure.bench import Plan
from mnv2_tvm.measure.bench_result import BenchResult
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.target import Target


def remote(way: str, target: Target, runner: str | None = None) -> Remote:
    """The device that `--on` names, to be entered."""
    return Remote(transport(way), target, runner)


@functools.cache
def tiny_source(architecture: Architecture = TINY) -> SourceNetwork:
    """Random weights of seed 0."""
    return SourceNetwork.make(architecture, None, seed=0)


def bench_on(
    way: str,
    target: Target,
    plan: Plan,
    runner: str | None = None,
    threads: int = 1,
    architecture: Architecture = TINY,
) -> BenchResult:
    """Of a library that is built first."""
    source = tiny_source(architecture)
    with scratch_folder() as scratch:
        build(target, source, scratch / "out", threads=threads)
        return bench(scratch / "out", source, plan, on=way, runner=runner, threads=threads)
