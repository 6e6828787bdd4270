"""Calibration, bias correction and the report of what int8 costs."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from quantised_networks import PIXELS, float_layers, images_of, quantised

from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.quantise.bias_correction import corrected_bias
from mnv2_tvm.quantise.convert import quantise
from mnv2_tvm.quantise.convolve import convolve, taps
from mnv2_tvm.quantise.float_network import POOL, branch, float_logits, walk
from mnv2_tvm.quantise.post_training import quantise_by_images
from mnv2_tvm.quantise.ranges import calibrate, hold_back
from mnv2_tvm.quantise.report import decibels, loss

TINY = Architecture(0.35, 32, classes=10)


def test_every_fourth_image_is_held_back() -> None:
    assert hold_back([1]) == ([1], [])
    assert hold_back([1, 2]) == ([1], [2])
    assert hold_back(range(9)) == ([0, 2, 3, 4, 6, 7, 8], [1, 5])
    assert hold_back([]) == ([], [])
    kept, held = hold_back(range(4000))
    assert len(kept) == 64 == len(set(kept)) and len(held) == 1000 and not set(kept) & set(held)
    assert kept[0] == 0 and kept[-1] > 3900


def test_ranges_are_the_least_and_the_greatest() -> None:
    layers, images = float_layers(TINY), images_of(TINY, 6)
    found = calibrate(layers, [images[:1], images[1:3], images[3:]])
    assert found.images == 6
    residuals = 0
    for visit in walk(layers, images):
        name = visit.layer.name
        assert found.ranges[name] == pytest.approx((visit.y.min(), visit.y.max()), rel=1e-5)
        if visit.branch is not None:
            residuals += 1
            ends = visit.branch.min(), visit.branch.max()
            assert found.ranges[branch(name)] == pytest.approx(ends, rel=1e-5)
    assert residuals == 10 and found.ranges.keys() >= {POOL}


def test_tensors_after_relu6_start_at_zero() -> None:
    network = quantised(TINY)
    for layer in network.layers:
        if layer.layer.epilogue == "relu6":
            assert network.tensors[layer.name].zero_point == 0
            assert 255 * network.tensors[layer.name].scale <= 6.00001


def test_calibration_refuses_what_it_cannot_use() -> None:
    layers, images = float_layers(TINY), images_of(TINY, 1)
    with pytest.raises(UserError, match="there is no image to calibrate with"):
        calibrate(layers, [])
    with pytest.raises(UserError, match=r"in features\.0\.0 that are not finite"):
        calibrate(layers, [images * np.float32("nan")])
    weight = layers[5].weight
    assert weight is not None
    broken = (*layers[:5], replace(layers[5], weight=weight * np.nan), *layers[6:])
    with pytest.raises(UserError, match=rf"in {layers[5].name} that are not finite"):
        calibrate(broken, [images])


def test_a_network_with_enormous_weights_is_refused() -> None:
    """What fits float32 need not fit the bounds that make all machines agree."""
    layers = list(float_layers(TINY))
    weight, bias = layers[3].weight, layers[3].bias
    assert weight is not None and bias is not None
    layers[3] = replace(layers[3], weight=weight * 1e14, bias=bias * 1e14)
    statistics = calibrate(tuple(layers), [images_of(TINY, 2)])
    with pytest.raises(UserError, match="this network cannot be quantised"):
        quantise(tuple(layers), statistics, PIXELS)


@pytest.mark.parametrize(
    "layer",
    [
        Layer.of("conv", 1, 9, 9, 3, 8, 2),
        Layer.of("dwconv", 1, 9, 9, 8, 8),
        Layer.of("pwconv", 1, 9, 9, 16, 8),
    ],
    ids=lambda layer: layer.operator,
)
def test_a_corrected_bias_leaves_no_mean_error(layer: Layer) -> None:
    random = np.random.default_rng(0)
    assert layer.weight_shape is not None
    x = random.random((3, 9, 9, layer.in_channels)) ** 2
    weight, bias = random.standard_normal(layer.weight_shape), random.standard_normal(8)
    rounded = np.rint(weight * 4) / 4
    border = np.zeros(layer.in_channels)
    means = np.stack([tap.mean(axis=(0, 1, 2)) for tap in taps(x, layer.window, border)])
    new = corrected_bias(layer, bias, weight, rounded, means)
    wanted = (convolve(x, layer, weight, border) + bias).mean(axis=(0, 1, 2))
    before = (convolve(x, layer, rounded, border) + bias).mean(axis=(0, 1, 2))
    after = (convolve(x, layer, rounded, border) + new).mean(axis=(0, 1, 2))
    assert np.abs(after - wanted).max() < 1e-12 < 1e-3 < np.abs(before - wanted).max()


def test_means_do_not_depend_on_batches() -> None:
    layers, images = float_layers(TINY), images_of(TINY, 5)
    whole, parts = (calibrate(layers, b) for b in ([images], [images[:2], images[2:]]))
    for name, means in whole.means.items():
        assert np.allclose(means, parts.means[name], rtol=1e-4, atol=1e-5)


def test_bias_correction_moves_biases_and_nothing_else() -> None:
    with_it, without = quantised(TINY), quantised(TINY, correct_bias=False)
    assert with_it.tensors.keys() == without.tensors.keys()
    moved = 0
    for one, other in zip(with_it.layers, without.layers, strict=True):
        if one.weight is not None and one.bias is not None and other.bias is not None:
            assert (one.weight == other.weight).all() and (one.scales == other.scales).all()
            moved += bool((one.bias != other.bias).any())
    assert moved == 53


def test_decibels() -> None:
    exact = np.array([3.0, 4.0])
    assert decibels(exact, exact + np.array([0.5, 0.0])) == pytest.approx(20.0)
    assert decibels(exact, exact) == inf
    assert decibels(np.zeros(2), exact) == -inf


def test_a_loss_counts_images_that_agree() -> None:
    layers, network = float_layers(TINY), quantised(TINY)
    batches = [images_of(TINY, 3, 100), images_of(TINY, 2, 101)]
    found = loss(layers, network, batches)
    assert found.images == 5 and found.agreement == found.agreeing / 5
    # Every class but the float network's best is made likelier: nothing agrees.
    last = network.layers[-1]
    assert last.bias is not None and last.scales is not None
    turned = replace(last, bias=-last.bias, weight=-last.weight)  # type: ignore[operator]
    other = loss(layers, replace(network, layers=(*network.layers[:-1], turned)), batches)
    assert other.agreeing == 0 and other.decibels == pytest.approx(-6, abs=1)
    assert other.layers[0].name == last.name
    with pytest.raises(UserError, match="no image to measure the loss"):
        loss(layers, network, [])


def test_the_stem_of_bytes_is_the_stem_of_the_float_network() -> None:
    """By itself it loses what rounding loses, for bytes in place of normalised values."""
    found = loss(float_layers(TINY), quantised(TINY), [images_of(TINY, 4, 100)])
    stem = next(layer for layer in found.layers if layer.name == "features.0.0")
    assert stem.decibels > 38


def test_images_become_a_network_and_its_loss() -> None:
    layers, images, seen = float_layers(TINY), images_of(TINY, 9), list[tuple[int, int]]()

    def load(number: int) -> np.ndarray:
        return images[number : number + 1]

    classes = float_logits(layers, images).argmax(axis=1).tolist()
    found = quantise_by_images(
        layers, range(9), load, PIXELS, classes=classes, progress=lambda *done: seen.append(done)
    )
    held = [1, 5]
    assert seen == [(4, 9), (7, 9), (9, 9)] and found.loss is not None
    assert (found.loss.images, found.loss.float_right) == (2, 2)
    assert found.loss.right == found.loss.agreeing
    statistics = calibrate(layers, [np.delete(images, held, axis=0)])
    again = loss(layers, quantise(layers, statistics, PIXELS), [images[held]])
    assert found.loss.decibels == pytest.approx(again.decibels, abs=1)


@pytest.mark.parametrize("factor", [2.0, 100.0, float("nan")])
def test_images_that_are_normalised_otherwise_are_told(factor: float) -> None:
    """Their bytes would all be 0 or 255."""
    white = PIXELS.normalise(np.full((1, 32, 32, 3), 255, np.uint8))
    quantise_by_images(float_layers(TINY), [0], lambda _: white, PIXELS)
    with pytest.raises(UserError, match=r"normalised by the mean 0\.485, 0\.456, 0\.406 and"):
        quantise_by_images(float_layers(TINY), [0], lambda _: white * np.float32(factor), PIXELS)


def test_of_one_image_no_loss_is_known_and_of_none_there_is_no_network() -> None:
    images = images_of(TINY, 1)
    assert quantise_by_images(float_layers(TINY), [0], lambda _: images, PIXELS).loss is None
    with pytest.raises(UserError, match="there is no image to calibrate with"):
        quantise_by_images(float_layers(TINY), [], lambda _: images, PIXELS)
