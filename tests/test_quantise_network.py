"""Whole networks in int8: the reference against torch's integers and against the float network."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from quantised_networks import PIXELS, float_layers, images_of, quantised, statistics_of

from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture, random_state
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.quantise import files, reference
from mnv2_tvm.quantise.bounds import largest_accumulators
from mnv2_tvm.quantise.convert import quantise
from mnv2_tvm.quantise.float_network import INPUT, FloatLayer, branch, float_logits
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.ranges import Statistics, calibrate
from mnv2_tvm.quantise.report import loss
from mnv2_tvm.quantise.scheme import Bytes, Quantisation
from mnv2_tvm.window import Window

TINY, SMALL = Architecture(0.35, 32, classes=10), Architecture(0.35, 96, classes=10)


def test_the_float_network_is_the_projects() -> None:
    images = images_of(TINY, 3)
    source = SourceNetwork(TINY, random_state(TINY, 0), "random")
    expected = source.reference(images)
    got = float_logits(float_layers(TINY), images)
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("architecture", [TINY, SMALL], ids=["0.35-32", "0.35-96"])
def test_int8_is_near_the_float_network(architecture: Architecture) -> None:
    """Of random weights, whose noise grows as no trained network's does."""
    layers = float_layers(architecture)
    held_out = [images_of(architecture, 8, seed) for seed in (100, 101)]
    found = loss(layers, quantised(architecture), held_out)
    plain = loss(layers, quantised(architecture, correct_bias=False), held_out)
    assert found.images == 16 and {layer.name for layer in found.layers} == {
        layer.name for layer in layers
    }
    assert found.decibels > 12 and found.decibels > plain.decibels + 1
    assert found.layers[0].decibels > 20  # the worst by itself
    assert [layer.decibels for layer in found.layers] == sorted(
        layer.decibels for layer in found.layers
    )


@pytest.mark.parametrize("architecture", [TINY, SMALL], ids=["0.35-32", "0.35-96"])
def test_accumulators_are_torchs(architecture: Architecture) -> None:
    """Every layer on random bytes, the extreme ones among them: torch convolves in int64."""
    network = quantised(architecture)
    random = np.random.default_rng(0)
    for layer in network.layers:
        shape = layer.layer.input_shape
        for x in (
            random.integers(0, 256, shape).astype(np.uint8),
            np.zeros(shape, np.uint8),
            np.full(shape, 255, np.uint8),
        ):
            if layer.weight is not None:
                got = reference.accumulators(network, layer, x)
                assert got.dtype == np.int32 and (got == _torch(network, layer, x)).all()
                assert (np.abs(got.astype(np.int64)) <= largest_accumulators(layer)).all()


def test_layers_of_any_window_are_torchs() -> None:
    """TensorFlow's padding, and weights and biases at their ends."""
    random = np.random.default_rng(0)
    for operator, channels, out in (("conv", 3, 8), ("dwconv", 8, 8)):
        for window in (Window(3, 2, 1, 0, 1), Window.centred(5, 2), Window(3, 1, 2, 2, 2)):
            shape = Layer(operator, 1, 9, 11, channels, out, window, "linear")  # type: ignore[arg-type]
            depth = 1 if operator == "dwconv" else channels
            weight = random.choice([-127, 127], (window.size**2, depth, out)).astype(np.int8)
            bias = random.choice([-(2**30), 2**30], out).astype(np.int32)
            layer = QuantisedLayer("a", shape, ("x",), weight, bias, np.ones(out, np.float32))
            network = QuantisedNetwork(PIXELS, (layer,), {"x": Quantisation(1.0, 77)})
            x = random.choice([0, 77, 255], (2, 9, 11, channels)).astype(np.uint8)
            got = reference.accumulators(network, layer, x)
            assert (got == _torch(network, layer, x)).all()


def test_outside_the_image_is_its_zero_point() -> None:
    """A map of nothing but the zero point gives the same at its border as inside."""
    network = quantised(TINY)
    for layer in network.layers:
        if layer.layer.window.size > 1 and layer.reads[0] != INPUT:
            x = np.broadcast_to(reference.border(network, layer), layer.layer.input_shape)
            y = reference.accumulators(network, layer, x)
            assert (y == y[:, :1, :1]).all()


def test_images_do_not_depend_on_the_batch() -> None:
    network = quantised(TINY)
    images = PIXELS.bytes_of(images_of(TINY, 5))
    together = reference.logits(network, images)
    alone = [reference.logits(network, image[None]) for image in images]
    assert together.tobytes() == np.concatenate(alone).tobytes()


def test_the_same_images_give_the_same_network() -> None:
    again = quantise(float_layers(TINY), statistics_of(TINY), PIXELS, about=quantised(TINY).about)
    assert files.encode(again) == files.encode(quantised(TINY))


def test_dead_channels_and_dead_tensors() -> None:
    """Training leaves channels whose weights are near 0 and whose bias is large."""
    layers = list(float_layers(TINY))
    for index in (3, 4, 8):
        assert layers[index].weight is not None and layers[index].bias is not None
        weight, bias = layers[index].weight.copy(), layers[index].bias.copy()  # type: ignore[union-attr]
        if index == 8:
            weight[:], bias[:] = 0, 0
        else:
            weight[:, :, :3] *= 1e-14
            bias[:3] = (2.6, 0, -2.6)
        layers[index] = replace(layers[index], weight=weight, bias=bias)
    statistics = _statistics(tuple(layers))
    network = quantise(tuple(layers), statistics, PIXELS)
    assert files.encode(files.decode(files.encode(network), "q")) == files.encode(network)
    found = loss(tuple(layers), network, [images_of(TINY, 8, 100)])
    assert found.decibels > 10


def test_constant_images_can_calibrate() -> None:
    layers = float_layers(TINY)
    black = PIXELS.normalise(np.zeros((2, 32, 32, 3), np.uint8))
    network = quantise(layers, _statistics(layers, black), PIXELS)
    assert np.isfinite(reference.logits(network, np.zeros((1, 32, 32, 3), np.uint8))).all()


def _statistics(layers: tuple[FloatLayer, ...], images: np.ndarray | None = None) -> Statistics:
    return calibrate(layers, [images_of(TINY, 8) if images is None else images])


def _torch(network: QuantisedNetwork, layer: QuantisedLayer, x: Bytes) -> np.ndarray:
    """bias + convolution of the map with its border, by torch in int64: [n, y, x, out]."""
    window, shape = layer.layer.window, layer.layer
    border = reference.border(network, layer).astype(np.int64)
    edges = (window.before, window.after)
    centred = torch.from_numpy((x - border).transpose(0, 3, 1, 2).copy())
    padded = torch.nn.functional.pad(centred, (*edges, *edges))
    padded += torch.from_numpy(border)[None, :, None, None]
    assert layer.weight is not None and layer.bias is not None
    weight = layer.weight.astype(np.int64).reshape(window.size, window.size, -1, shape.out_channels)
    sums = torch.nn.functional.conv2d(
        padded,
        torch.from_numpy(weight.transpose(3, 2, 0, 1).copy()),
        torch.from_numpy(layer.bias.astype(np.int64)),
        window.stride,
        dilation=window.dilation,
        groups=shape.in_channels if shape.operator == "dwconv" else 1,
    )
    return sums.numpy().transpose(0, 2, 3, 1)


def test_a_residual_is_rounded_as_the_definition_says() -> None:
    """Some bytes of a layer that adds its block's input, in exact arithmetic."""
    network = quantised(TINY)
    layer = next(layer for layer in network.layers if len(layer.reads) > 1)
    name, scales = layer.name, layer.scales
    assert scales is not None and layer.bias is not None
    random = np.random.default_rng(0)
    x = random.integers(0, 256, layer.layer.input_shape).astype(np.uint8)
    skip = random.integers(0, 256, layer.layer.output_shape).astype(np.uint8)
    got = reference.output(network, layer, x, skip)
    acc = reference.accumulators(network, layer, x)
    x_as, p_as = network.tensors[layer.reads[0]], network.tensors[branch(name)]
    skip_as, y_as = network.tensors[layer.reads[1]], network.tensors[name]
    p_ratio, skip_ratio = (_f32(Fraction(t.scale / y_as.scale)) for t in (p_as, skip_as))
    for place in random.integers(0, got.size, 200):
        n = place % layer.layer.out_channels
        factor = _f32(Fraction(x_as.scale * float(scales[n]) / p_as.scale))
        scaled = _f32(_f32(Fraction(int(acc.flat[place]))) * factor)
        p = min(max(round(scaled), -p_as.zero_point), 255 - p_as.zero_point)
        added = _f32((int(skip.flat[place]) - skip_as.zero_point) * skip_ratio)
        y = round(_f32(p * p_ratio + added)) + y_as.zero_point
        assert got.flat[place] == min(max(y, 0), 255)


def _f32(exact: Fraction) -> Fraction:
    """The nearest float32, ties to even, from integers alone."""
    if not exact:
        return exact
    exponent = 0  # of the last bit: 24 bits are before it
    while abs(exact) / Fraction(2) ** exponent >= 2**24:
        exponent += 1
    while abs(exact) / Fraction(2) ** exponent < 2**23:
        exponent -= 1
    return round(exact / Fraction(2) ** exponent) * Fraction(2) ** exponent
