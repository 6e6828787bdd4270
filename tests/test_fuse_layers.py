"""From Relax operators to layers: what has a kernel is found, all else is refused by its name."""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from pass_networks import network_of
from tvm import relax

from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.fuse_layers import fuse_layers
from mnv2_tvm.pipeline import compile_network, default_schedule, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

Image = tuple[int, ...]
NHWC = {"data_layout": "NHWC", "kernel_layout": "HWIO"}


def module_of(emit: Callable[[Any], Any], shape: Image = (1, 8, 8, 16)) -> Any:
    """A Relax module whose `main` is `emit` of its input [n, y, x, c]."""
    builder = relax.BlockBuilder()
    x = relax.Var("input", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(emit(x))
        builder.emit_func_output(output)
    return builder.get()


def constant(*shape: int) -> Any:
    return relax.const(np.ones(shape, np.float32))


def convolution(x: Any, weight: Image = (3, 3, 16, 8), **changes: Any) -> Any:
    """A 3x3 convolution with a bias, of the kind that has a kernel unless `changes` say else."""
    attributes = {"strides": (1, 1), "padding": (1, 1, 1, 1), **NHWC} | changes
    product = relax.op.nn.conv2d(x, constant(*weight), **attributes)
    return relax.op.add(product, constant(weight[-1]))


def channels_first(x: Any) -> Any:
    """A convolution over [n, c, y, x]."""
    product = relax.op.nn.conv2d(x, constant(8, 8, 3, 3), padding=(1, 1, 1, 1))
    return relax.op.add(product, constant(16))


def layers_of(emit: Callable[[Any], Any], shape: Image = (1, 8, 8, 16)) -> list[Layer]:
    return network_layers(module_of(emit, shape))


def depthwise(x: Any, stride: int) -> Any:
    """A depthwise convolution with a bias."""
    attributes = {"strides": (stride, stride), "padding": (1, 1, 1, 1), "groups": 16}
    layouts = {"data_layout": "NHWC", "kernel_layout": "HWOI"}
    product = relax.op.nn.conv2d(x, constant(3, 3, 16, 1), **attributes, **layouts)
    return relax.op.add(product, constant(16))


def pointwise(x: Any, channels: int = 16) -> Any:
    """A 1x1 convolution of 16 channels with a bias."""
    return convolution(x, (1, 1, 16, channels), padding=(0, 0, 0, 0))


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (relax.op.nn.relu, "relax.nn.relu"),
        (relax.op.nn.softmax, "relax.nn.softmax"),
        (relax.op.nn.gelu, "relax.nn.gelu"),
        (relax.op.nn.max_pool2d, "relax.nn.max_pool2d"),
        (lambda x: relax.op.add(x, x), "relax.add"),
        (lambda x: relax.op.clip(x, 0, 6), "relax.clip"),
    ],
    ids=["relu", "softmax", "gelu", "max_pool2d", "add", "clip"],
)
@pytest.mark.parametrize("between", [False, True], ids=["alone", "between-two-layers"])
def test_an_operator_without_a_kernel_is_named(
    operator: Callable[[Any], Any], name: str, between: bool
) -> None:
    def network(x: Any) -> Any:
        return convolution(operator(relax.op.clip(pointwise(x), 0, 6)))

    with pytest.raises(UserError, match=f"no kernel for {name} at "):
        fuse_layers(module_of(network if between else operator))


def test_attributes_of_a_kernel_are_accepted() -> None:
    """What the refusals below change one attribute of."""
    assert layers_of(convolution) == [Layer.of("conv", 1, 8, 8, 16, 8, 1, "linear")]
    assert layers_of(lambda x: relax.op.clip(convolution(x), 0, 6)) == [
        Layer.of("conv", 1, 8, 8, 16, 8)
    ]
    assert layers_of(lambda x: depthwise(x, 2)) == [
        Layer.of("dwconv", 1, 8, 8, 16, 16, 2, "linear")
    ]
    assert layers_of(lambda x: relax.op.add(x, pointwise(x))) == [
        Layer.of("pwconv", 1, 8, 8, 16, 16, 1, "residual")
    ]
    assert layers_of(lambda x: relax.op.mean(x, [1, 2])) == [
        Layer.of("avgpool", 1, 8, 8, 16, 16, 1, "linear")
    ]


@pytest.mark.parametrize(
    ("emit", "what"),
    [
        (lambda x: convolution(x, dilation=(2, 1)), r"dilations \[2, 1\]"),
        (channels_first, r"layouts \('NCHW', 'OIHW'\)"),
        (lambda x: relax.op.clip(convolution(x), 0, 4), r"clip to \[0.0, 4.0\]"),
        (lambda x: relax.op.clip(convolution(x), -1, 6), r"clip to \[-1.0, 6.0\]"),
        (lambda x: convolution(x, strides=(1, 2)), r"strides \[1, 2\]"),
        (lambda x: convolution(x, padding=(0, 1, 1, 1)), r"padding \[0, 1, 1, 1\]"),
        (lambda x: convolution(x, (3, 5, 16, 8)), "a 3x5 window"),
        (lambda x: convolution(x, (3, 3, 8, 8), groups=2), "convolution with 2 groups"),
        (lambda x: relax.op.mean(x, [1]), r"mean over axes \[1\]"),
        (lambda x: relax.op.mean(x, [2, 3]), r"mean over axes \[2, 3\]"),
    ],
)
def test_attributes_that_no_kernel_has_are_named(emit: Callable[[Any], Any], what: str) -> None:
    with pytest.raises(UserError, match=f"no kernel for {what}"):
        layers_of(emit)


def test_a_sum_that_no_kernel_has_is_named() -> None:
    """By its layer: a name may say what no network asks for."""
    for name in ("f32-conv-3x3s1-8x8x8-8-residual", "f32-dwconv-3x3s1-8x8x8-residual"):
        with pytest.raises(UserError, match=f"no kernel for {name} on x86-avx2"):
            default_schedule(Layer.parse(name), Target.load("x86-avx2"))


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"dilation": (2, 2)}, "3x3s1d2p1x1"),
        ({"strides": (3, 3)}, "3x3s3"),
        ({"padding": (0, 0, 2, 2)}, "3x3s1p0x2"),
        ({"padding": (2, 2, 2, 2), "weight": (5, 5, 16, 8)}, "5x5s1"),
        ({"padding": (0, 0, 0, 0), "strides": (2, 2), "weight": (1, 1, 16, 8)}, "1x1s2"),
        ({"weight": (1, 1, 16, 8)}, "1x1s1p1x1"),
    ],
)
def test_a_window_that_no_kernel_accepts_is_named(changes: dict[str, Any], window: str) -> None:
    """With its layer, before anything is compiled."""
    target = Target.load("x86-avx2")
    module = module_of(lambda x: convolution(pointwise(x), **changes))
    layer = network_layers(module)[1]
    assert layer.window.name == window and window in layer.name
    assert default_schedule(network_layers(module)[0], target)
    wanted = f"no kernel for {layer.name} on x86-avx2; its window is {layer.window}"
    with pytest.raises(UserError, match=re.escape(wanted)):
        compile_network(module, target, Decisions(target, {}))


def test_a_window_larger_than_its_image_is_refused() -> None:
    """TVM infers an extent of 0 or less for it."""
    with pytest.raises(UserError, match=r"no kernel for f32-conv-.*, which has no output"):
        layers_of(lambda x: convolution(x, padding=(0, 0, 0, 0)), (1, 2, 2, 16))


def test_the_pipeline_hands_a_users_error_on() -> None:
    """Whether an operator has no kernel, or the schedule of a layer cannot be had."""
    target = Target.load("x86-avx2")

    def refuse(layer: Layer) -> Any:
        raise UserError(f"no schedule for {layer.name}")

    dilated = module_of(lambda x: convolution(pointwise(x), dilation=(2, 2)))
    with pytest.raises(UserError, match="no kernel for f32-conv-3x3s1d2p1x1-"):
        compile_network(dilated, target, functools.partial(default_schedule, target=target))
    with pytest.raises(UserError, match="no schedule for f32-conv"):
        compile_network(network_of(TINY).relax(), target, refuse)


def halved(x: Any) -> Any:
    """A residual that would be broadcast: [n, 1, 1, c] to [n, y, x, c]."""
    features = pointwise(x)
    return relax.op.add(relax.op.mean(features, [1, 2], keepdims=True), pointwise(features))


def doubled(x: Any) -> Any:
    """The residual is the layer itself."""
    features = pointwise(x)
    return relax.op.add(features, features)


@pytest.mark.parametrize(
    "emit",
    [
        lambda x: relax.op.add(x, convolution(x, (3, 3, 16, 16))),
        lambda x: relax.op.add(x, depthwise(x, 1)),
        lambda x: relax.op.add(pointwise(x), constant(16)),
        halved,
        doubled,
    ],
    ids=["after-3x3", "after-depthwise", "constant", "broadcast", "of-itself"],
)
def test_residuals_that_no_kernel_has_are_refused(emit: Callable[[Any], Any]) -> None:
    with pytest.raises(UserError, match="no kernel for"):
        layers_of(emit)


def test_a_bias_of_another_shape_is_refused() -> None:
    def network(x: Any) -> Any:
        product = relax.op.nn.conv2d(x, constant(1, 1, 16, 8), **NHWC)
        return relax.op.add(product, constant(1, 1, 1, 8))

    with pytest.raises(UserError, match="no kernel for"):
        layers_of(network)
