"""Networks of other forms than MobileNetV2's: maps, overlapping blocks, outputs inside a block."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from pass_networks import Drawing, Drawn, entry_results, library_result

from mnv2_tvm.deploy.library import Interface
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.pipeline import compile_network, default_schedule
from mnv2_tvm.target import Target

Emit = Callable[[Drawing, Drawn], Drawn]


def separable(net: Drawing, x: Drawn, channels: int, stride: int = 1) -> Drawn:
    """MobileNetV1's block: depthwise and pointwise, both with ReLU6."""
    return net.convolution(net.depthwise(x, stride), channels)


def mobilenet_v1(net: Drawing, x: Drawn) -> Drawn:
    """Each pointwise layer ends a block and begins the next."""
    y = net.convolution(x, 8, window=3, stride=2)
    for channels, stride in ((16, 1), (24, 2), (24, 1), (24, 1), (40, 2)):
        y = separable(net, y, channels, stride)
    return net.mean(y)


def block_with_relu6(net: Drawing, x: Drawn) -> Drawn:
    y = net.depthwise(net.convolution(x, 36))
    return net.convolution(y, 12)


def ends_in_a_map(net: Drawing, x: Drawn) -> Drawn:
    y = net.convolution(net.depthwise(net.convolution(x, 16), stride=2), 9, relu6=False)
    return net.convolution(y, 9, relu6=False, residual=y)


def expanded_is_returned(net: Drawing, x: Drawn) -> Drawn:
    """What follows is in the module, and nobody asks for it."""
    expanded = net.convolution(x, 16)
    net.convolution(net.depthwise(expanded), 8, relu6=False)
    return expanded


def expanded_is_read_twice(net: Drawing, x: Drawn) -> Drawn:
    expanded = net.convolution(x, 16)
    projected = net.convolution(net.depthwise(expanded), 16, relu6=False)
    return net.convolution(projected, 16, relu6=False, residual=expanded)


NETWORKS = [
    mobilenet_v1,
    block_with_relu6,
    ends_in_a_map,
    expanded_is_returned,
    expanded_is_read_twice,
]


def schedule_of(layer: Layer, target: Target, fused: bool) -> object:
    """The default; a block only where it is to be fused."""
    if len(layer.parts) > 1 and not fused:
        return None
    return default_schedule(layer, target)


@pytest.mark.parametrize("fused", [False, True], ids=["layers", "blocks"])
@pytest.mark.parametrize("emit", NETWORKS, ids=lambda emit: emit.__name__)
def test_the_library_computes_what_torch_does(
    emit: Emit, fused: bool, here: Target, tmp_path: Path
) -> None:
    module, images, wanted = Drawing().draw((2, 13, 11, 5), emit)
    choose = functools.partial(schedule_of, target=here, fused=fused)
    compiled = compile_network(module, here, choose)  # type: ignore[arg-type]
    blocks = [step for step in compiled.steps if len(step.layer.parts) > 1]
    inside = emit in (expanded_is_returned, expanded_is_read_twice)
    assert bool(blocks) == (fused and not inside)
    result = library_result(compiled, images, tmp_path)
    assert result.shape == wanted.shape
    assert relative_error(result, wanted) < 1e-5


def test_of_overlapping_blocks_no_layer_is_in_two(here: Target) -> None:
    module, _, _ = Drawing().draw((1, 16, 16, 3), mobilenet_v1)
    compiled = compile_network(module, here, functools.partial(default_schedule, target=here))
    parts = [part for step in compiled.steps for part in step.layer.parts]
    assert [part.operator for part in parts] == ["conv", *["dwconv", "pwconv"] * 5, "avgpool"]
    assert sum(len(step.layer.parts) > 1 for step in compiled.steps) == 3


def inside_and_end(net: Drawing, x: Drawn) -> list[Drawn]:
    """The expanded tensor of a block and its result, as a detector taps a MobileNetV2."""
    expanded = net.convolution(x, 16)
    projected = net.convolution(net.depthwise(expanded, stride=2), 8, relu6=False)
    return [expanded, projected, net.mean(net.convolution(net.depthwise(projected), 12))]


def sum_of_two(net: Drawing, x: Drawn, z: Drawn) -> list[Drawn]:
    return [net.convolution(net.convolution(x, 16), 9, relu6=False, residual=z)]


@pytest.mark.parametrize("fused", [False, True], ids=["layers", "blocks"])
@pytest.mark.parametrize(
    ("emit", "shapes"),
    [(inside_and_end, [(2, 13, 11, 5)]), (sum_of_two, [(2, 13, 11, 5), (2, 13, 11, 9)])],
    ids=["outputs", "inputs"],
)
def test_a_network_has_several_inputs_and_outputs(
    emit: Callable[..., list[Drawn]],
    shapes: list[tuple[int, ...]],
    fused: bool,
    here: Target,
    tmp_path: Path,
) -> None:
    """A layer may read an output again, and no block swallows one. The C interface has no place."""
    module, images, wanted = Drawing().draw_several(shapes, emit)
    choose = functools.partial(schedule_of, target=here, fused=fused)
    compiled = compile_network(module, here, choose)  # type: ignore[arg-type]
    assert all(len(step.layer.parts) == 1 for step in compiled.steps)
    assert [end.shape for end in compiled.inputs] == [image.shape for image in images]
    assert [end.shape for end in compiled.outputs] == [array.shape for array in wanted]
    results = entry_results(compiled, images, tmp_path)
    for result, array in zip(results, wanted, strict=True):
        assert relative_error(result, array) < 1e-5
    with pytest.raises(UserError, match="takes one tensor and returns one"):
        Interface.of(compiled, threads=1)


def test_a_tensor_is_returned_once(here: Target) -> None:
    def twice(net: Drawing, x: Drawn) -> list[Drawn]:
        return 2 * [net.convolution(x, 16)]

    module, _, _ = Drawing().draw_several([(1, 8, 8, 3)], twice)
    with pytest.raises(UserError, match="returns a tensor twice"):
        compile_network(module, here, functools.partial(default_schedule, target=here))


def test_a_network_without_layers_is_refused(here: Target) -> None:
    module, _, _ = Drawing().draw((1, 8, 8, 3), lambda net, x: x)
    with pytest.raises(UserError, match="returns its input"):
        compile_network(module, here, functools.partial(default_schedule, target=here))
