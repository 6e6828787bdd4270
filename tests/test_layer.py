"""A layer's name and its shape are the same thing."""

import functools
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from torch.nn import functional

from mnv2_tvm.dtype import QS8
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import network_layers
from mnv2_tvm.window import Window

NETWORKS = [
    Architecture(1.0, 224),
    Architecture(1.4, 224),
    Architecture(0.35, 96, classes=1),
    Architecture(0.5, 33, classes=10, batch=2),
    Architecture(0.75, 255, classes=1001, batch=7),
]
IDS = [f"{a.width}-{a.resolution}-{a.batch}" for a in NETWORKS]


@functools.cache
def layers_of(architecture: Architecture) -> list[Layer]:
    network = SourceNetwork.make(architecture, None, seed=0)
    return network_layers(network.relax())


@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_parse_is_the_inverse_of_name(architecture: Architecture) -> None:
    layers = layers_of(architecture)
    assert len(layers) == 54  # 52 convolutions, the mean, the classifier
    for layer in layers:
        assert Layer.parse(layer.name) == layer
    assert len({layer.name for layer in layers}) == len(set(layers))


@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_layers_are_the_architectures_convolutions(architecture: Architecture) -> None:
    """Shapes, strides and epilogues come through the Relax module and the patterns unchanged."""
    convolutions = architecture.convolutions()
    layers = [layer for layer in layers_of(architecture) if layer.operator != "avgpool"]
    for layer, conv in zip(layers, convolutions, strict=True):
        assert layer.operator == conv.kind
        assert layer.input_shape == (
            architecture.batch,
            conv.height,
            conv.width,
            conv.in_channels,
        )
        assert prod(layer.output_shape) == architecture.batch * conv.out_elements
        assert layer.window.stride == conv.stride
        epilogue = "residual" if conv.residual else "relu6" if conv.relu6 else "linear"
        assert layer.epilogue == epilogue
        assert layer.weight_shape is not None
        assert prod(layer.weight_shape) == prod(conv.weight_shape)


@pytest.mark.parametrize("architecture", NETWORKS, ids=IDS)
def test_flops_are_two_a_multiply_accumulate(architecture: Architecture) -> None:
    layers = layers_of(architecture)
    (pooling,) = [layer for layer in layers if layer.operator == "avgpool"]
    flops = sum(layer.flops for layer in layers) - pooling.flops
    assert flops == 2 * architecture.macs * architecture.batch
    assert pooling.flops == prod(pooling.input_shape)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Layer.of("dwconv", 1, 112, 112, 96, 96, 2), "f32-dwconv-3x3s2-112x112x96"),
        (Layer.of("dwconv", 2, 7, 9, 8, 8), "f32-dwconv-3x3s1-2x7x9x8"),
        (Layer.of("conv", 1, 224, 224, 3, 32, 2), "f32-conv-3x3s2-224x224x3-32"),
        (Layer.of("pwconv", 1, 14, 14, 8, 8, 1, "residual"), "f32-pwconv-14x14x8-8-residual"),
        (Layer.of("pwconv", 1, 1, 1, 1280, 1, 1, "linear"), "f32-pwconv-1x1x1280-1-linear"),
        (Layer.of("avgpool", 1, 7, 7, 1280, 1280, 1, "linear"), "f32-avgpool-7x7x1280"),
        (Layer("conv", 1, 8, 8, 3, 8, Window(3, 2, 1, 0, 1)), "f32-conv-3x3s2p0x1-8x8x3-8"),
        (Layer("dwconv", 1, 8, 8, 4, 4, Window(3, 1, 2, 2, 2)), "f32-dwconv-3x3s1d2-8x8x4"),
        (Layer("dwconv", 1, 8, 8, 4, 4, Window(3, 1, 2)), "f32-dwconv-3x3s1d2p0x0-8x8x4"),
        (Layer("conv", 1, 8, 8, 3, 8, Window(5, 3, 1, 2, 2)), "f32-conv-5x5s3-8x8x3-8"),
        (Layer("pwconv", 1, 8, 8, 3, 8, Window(1, 2)), "f32-pwconv-1x1s2-8x8x3-8"),
        (Layer("pwconv", 1, 8, 8, 3, 8, Window(1, 1, 1, 1, 1)), "f32-pwconv-1x1s1p1x1-8x8x3-8"),
        (Layer("dwconv", 1, 8, 8, 4, 4, Window(1)), "f32-dwconv-1x1s1-8x8x4"),
        (
            Layer("irb", 1, 8, 8, 3, 8, Window(3, 2, 1, 0, 1), "linear", 12),
            "f32-irb-3x3s2p0x1-8x8x3-12-8-linear",
        ),
        (Layer.of("dwconv", 1, 8, 8, 4, 4, dtype=QS8), "qs8-dwconv-3x3s1-8x8x4"),
        (
            Layer.of("pwconv", 1, 1, 1, 64, 10, epilogue="logits", dtype=QS8),
            "qs8-pwconv-1x1x64-10-logits",
        ),
    ],
)
def test_names_are_spelt_as_documented(layer: Layer, name: str) -> None:
    assert layer.name == name
    assert Layer.parse(name) == layer


@pytest.mark.parametrize(
    "name",
    [
        "",
        "f32",
        "conv-3x3s1-8x8x3-8",
        "f16-pwconv-8x8x8-8",
        "f32-softmax-8x8x8",
        "f32-pwconv-8x8-8",
        "f32-pwconv-1x1x8x8x8-8",
        "f32-pwconv-8x8x8",  # no output channels
        "f32-dwconv-3x3s1-8x8x8-8",  # with output channels
        "f32-avgpool-8x8x8-8",
        "f32-avgpool-8x8x8-linear",
        "f32-conv-8x8x3-8",  # no window
        "f32-pwconv-3x3s1-8x8x8-8",  # with a window
        "f32-conv-3x3s0-8x8x3-8",
        "f32-conv-0x0s1-8x8x3-8",
        "f32-conv-3x5s1-8x8x3-8",
        "f32-conv-3x3s01-8x8x3-8",
        "f32-conv-3x3s1d1-8x8x3-8",  # a dilation of 1 is not written
        "f32-conv-3x3s1p1x1-8x8x3-8",  # nor padding of 1
        "f32-conv-3x3s1d2p2x2-8x8x3-8",  # nor what centres the window
        "f32-conv-3x3s1p01x0-8x8x3-8",
        "f32-conv-3x3s1p1-8x8x3-8",
        "f32-conv-1x1s1-8x8x3-8",  # is pwconv
        "f32-pwconv-1x1s1-8x8x8-8",
        "f32-avgpool-3x3s1-8x8x8",
        "f32-avgpool-1x1s2-8x8x8",
        "f32-conv-5x5s1p0x0-4x4x3-8",  # has no output
        "f32-stem-3x3s1p0x0-2x2x3-8-8",
        "f32-pwconv-8x8x8-8-relu6",
        "f32-pwconv-8x8x8-8-tanh",
        "f32-pwconv-8x8x8-8-logits",  # they are float32 anyway
        "qs8-conv-3x3s1-8x8x3-8-logits",
        "f32-pwconv-1x8x8x8-8",  # a batch of one is not written
        "f32-pwconv-08x8x8-8",
        "f32-pwconv-0x8x8-8",
        "f32-pwconv-8x8x8-0",
        "f32-pwconv-8x8x-8-8",
        "f32-pwconv-8x8x8-8 ",
        "f32-pwconv-8x8x8-8\n",
        "F32-PWCONV-8X8X8-8",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not a layer's name"):
        Layer.parse(name)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("f32-pwconv-4x4x8-8-residual", {"weight": (1, 8, 8), "bias": (8,)}),
        ("f32-avgpool-7x7x8", {}),
        (
            "qs8-pwconv-4x4x8-16-residual",
            {
                "weight": (1, 8, 16),
                "bias": (16,),
                "multiplier": (16,),
                "zeros": (1,),
                "addition": (5,),
            },
        ),
        (
            "qs8-conv-3x3s2-8x8x3-16",  # beside the output's zero point a pixel outside the image
            {"weight": (9, 3, 16), "bias": (16,), "multiplier": (16,), "zeros": (4,)},
        ),
        (
            "qs8-dwconv-3x3s2-8x8x16",
            {"weight": (9, 1, 16), "bias": (16,), "multiplier": (16,), "zeros": (2,)},
        ),
        ("qs8-avgpool-7x7x8", {"bias": (1,), "multiplier": (1,), "zeros": (1,)}),
        (
            "qs8-pwconv-1x1x8-10-logits",
            {"weight": (1, 8, 10), "bias": (10,), "multiplier": (10,)},
        ),
    ],
)
def test_constants_follow_from_the_arithmetic(name: str, roles: dict[str, Any]) -> None:
    parameters = Layer.parse(name).parameters
    assert {p.role: p.shape for p in parameters} == roles
    types = {"weight": "int8", "bias": "int32", "zeros": "int32"}
    wanted = [types.get(role, "float32") if name.startswith("qs8") else "float32" for role in roles]
    assert [p.storage for p in parameters] == wanted


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("f32-pwconv-2x3x8-10", "float32", 240),
        ("qs8-pwconv-2x3x8-10", "uint8", 60),
        ("qs8-pwconv-2x3x8-10-logits", "float32", 240),
    ],
)
def test_outputs_are_bytes_but_for_logits(name: str, kind: str, size: int) -> None:
    layer = Layer.parse(name)
    assert (layer.output_storage, layer.output_bytes) == (kind, size)


@pytest.mark.parametrize(("extent", "stride", "out"), [(1, 1, 1), (1, 2, 1), (8, 2, 4), (9, 2, 5)])
def test_output_extents_are_those_of_padding_one(extent: int, stride: int, out: int) -> None:
    layer = Layer.of("dwconv", 1, extent, extent, 8, 8, stride)
    assert layer.output_shape == (1, out, out, 8)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_output_extents_are_torchs(size: int) -> None:
    for stride, dilation, before, after in product((1, 2, 3), (1, 2), (0, 1, 2), (0, 1, 3)):
        window = Window(size, stride, dilation, before, after)
        for extent in (window.reach, window.reach + 1, 13, 14):
            x = functional.pad(torch.zeros(1, 1, extent), (before, after))
            y = functional.conv1d(x, torch.zeros(1, 1, size), stride=stride, dilation=dilation)
            assert window.outputs(extent) == y.shape[2], (window, extent)


def test_a_name_with_endless_digits_is_refused() -> None:
    for name in (
        "f32-dwconv-3x3s2-112x112x{}",
        "f32-irb-3x3s1-14x14x64-{}-64",
        "f32-pwconv-7x7x8-{}",
    ):
        for digits in ("9" * 10, "9" * 5000):
            with pytest.raises(UserError, match="9" * 10):
                Layer.parse(name.format(digits))
