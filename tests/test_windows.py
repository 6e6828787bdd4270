"""Windows other than 3x3 with padding 1: TensorFlow's SAME, and none at all."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from kernel_layers import sample
from kernel_runner import KernelLibrary, Operands, torch_result
from pass_networks import Drawing, Drawn, library_result

from mnv2_tvm.dtype import F32
from mnv2_tvm.layer import Layer, Operator
from mnv2_tvm.measure.problem import problem
from mnv2_tvm.model.interpreter import interpret
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.pipeline import compile_network, network_blocks
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target
from mnv2_tvm.window import Window

SAME = (0, 1)  # TensorFlow's padding of a 3x3 with stride 2, where the extent is even
WINDOWS = [Window(3, *sizes) for sizes in product((1, 2), (1,), (0, 1), (0, 1))]
SHAPES = ((1, 3, 4), (2, 8, 10), (1, 9, 11))  # batch, height, width


def layers(operator: Operator, target: Target) -> list[Layer]:
    """Each window over small, even and odd images; channels that no vector divides."""
    channels = target.vector.lanes(F32) + 3
    sizes = {
        "conv": (3, channels),
        "dwconv": (channels, channels),
        "irb": (5, 9, "linear", channels),
        "stem": (3, 9, "linear", channels),
    }
    first, last, *others = sizes[operator]
    found = [
        Layer(operator, *shape, first, last, window, *others)  # type: ignore[arg-type]
        for shape, window in product(SHAPES, WINDOWS)
    ]
    return [layer for layer in found if not layer.has_no_extent()]


@pytest.mark.parametrize("operator", ["conv", "dwconv", "irb", "stem"])
def test_kernels_compute_what_torch_does(operator: Operator, here: Target) -> None:
    for layer in layers(operator, here):
        operands = Operands.random(layer)
        wanted = torch_result(layer, operands)
        kernels = KernelLibrary(layer, here, list(sample(layer, here, 4)))
        for index, schedule in enumerate(kernels.schedules):
            np.testing.assert_allclose(
                kernels.run(index, operands),
                wanted,
                rtol=0,
                atol=2e-6 * float(np.abs(wanted).max()),
                err_msg=f"{layer.name}: {schedule}",
            )


@pytest.mark.parametrize("operator", ["conv", "dwconv", "irb"])
def test_candidates_are_held_to_the_same_numbers(operator: Operator, here: Target) -> None:
    for layer in layers(operator, here):
        task = problem(layer)
        wanted = torch_result(layer, Operands(task.x, task.parameters, task.residual))
        assert relative_error(task.reference, wanted) < 1e-6, layer.name


def as_in_tensorflow(net: Drawing, x: Drawn) -> Drawn:
    """A stem and blocks that halve even images."""
    y = net.convolution(x, 16, window=3, stride=2, padding=SAME)
    y = net.convolution(net.depthwise(y), 8, relu6=False)
    for channels in (12, 16):
        y = net.depthwise(net.convolution(y, 40), stride=2, padding=SAME)
        y = net.convolution(y, channels, relu6=False)
    return net.mean(y)


@pytest.mark.parametrize("fused", [False, True], ids=["layers", "blocks"])
def test_a_network_padded_as_in_tensorflow(fused: bool, here: Target, tmp_path: Path) -> None:
    module, images, wanted = Drawing().draw((2, 16, 24, 3), as_in_tensorflow)
    blocks = network_blocks(module)
    assert [block.window for block in blocks] == 3 * [Window(3, 2, 1, *SAME)]
    decisions = Decisions(here, {} if fused else dict.fromkeys(blocks))
    compiled = compile_network(module, here, decisions)
    assert sum(step.layer in blocks for step in compiled.steps) == (3 if fused else 0)
    assert relative_error(library_result(compiled, images, tmp_path), wanted) < 1e-5
    assert relative_error(interpret(module, images), wanted) < 1e-5
