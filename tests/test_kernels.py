"""Numbers of every kernel, for shapes in every relation to the vector width."""

import functools
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import machines
from kernel_layers import SAMPLES, block_layers, sample, tile_layers
from kernel_runner import KernelLibrary, Operands, torch_result

from mnv2_tvm.dtype import F32
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


def layers_to_run() -> list[Any]:
    """(target, layer) for each target; one skip for a target that this host cannot run."""
    parameters = []
    for target in map(Target.load, machines()):
        lacking = target.missing_here()
        if lacking:
            skip = pytest.mark.skip(reason=f"{target.name} needs {', '.join(lacking)}")
            parameters.append(pytest.param(target, None, id=target.name, marks=skip))
            continue
        lanes = target.vector.lanes(F32)
        parameters += [
            pytest.param(target, layer, id=f"{target.name}-{layer.name}")
            for layer in tile_layers(lanes) + block_layers(lanes)
        ]
    return parameters


each_layer = pytest.mark.parametrize(("target", "layer"), layers_to_run())


@functools.cache
def library(layer: Layer, target: str) -> KernelLibrary:
    machine = Target.load(target)
    return KernelLibrary(layer, machine, sample(layer, machine, SAMPLES))


def shares(tasks: int, pieces: int) -> list[tuple[int, int]]:
    """Disjoint spans that cover all tasks, last first; some empty if there are few tasks."""
    bounds = [tasks * piece // pieces for piece in range(pieces + 1)]
    return list(pairwise(bounds))[::-1]


@each_layer
def test_kernel_computes_what_torch_does(target: Target, layer: Layer) -> None:
    kernels, operands = library(layer, target.name), Operands.random(layer)
    wanted = torch_result(layer, operands)
    tolerance = 2e-6 * float(np.abs(wanted).max())
    for index, schedule in enumerate(kernels.schedules):
        np.testing.assert_allclose(
            kernels.run(index, operands), wanted, rtol=0, atol=tolerance, err_msg=str(schedule)
        )


@each_layer
def test_threads_may_share_the_tasks(target: Target, layer: Layer) -> None:
    """Whoever does a task, and in whichever order, the bits are the same, and nobody else's."""
    kernels, operands = library(layer, target.name), Operands.random(layer)
    for index, schedule in enumerate(kernels.schedules):
        whole, tasks = kernels.run(index, operands), schedule.tasks(layer)
        for pieces in (2, 3, tasks):
            parts = kernels.run(index, operands, shares(tasks, pieces))
            np.testing.assert_array_equal(parts, whole, f"{schedule} in {pieces} spans")
        writers = np.zeros(layer.output_shape, int)
        for task in range(tasks):
            written = ~np.isnan(kernels.run(index, operands, [(task, task + 1)]))
            assert written.any(), f"{schedule}: task {task} writes nothing"
            writers += written
        assert (writers == 1).all(), str(schedule)
        assert np.isnan(kernels.run(index, operands, [(0, 0)])).all(), str(schedule)
