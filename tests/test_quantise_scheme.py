"""Every formula of the int8 definition against numbers worked out by hand."""

from fractions import Fraction

import numpy as np
import pytest

from mnv2_tvm.quantise import scheme
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.scheme import Quantisation, add_residual, fma, requantise

F32 = np.float32


def test_a_range_becomes_a_scale_and_a_zero_point_that_is_exact() -> None:
    assert Quantisation.of(0.0, 6.0) == Quantisation(float(F32(6 / 255)), 0)
    assert Quantisation.of(-1.0, 1.55) == Quantisation(float(F32(2.55 / 255)), 100)
    assert Quantisation.of(2.0, 5.1) == Quantisation(float(F32(0.02)), 0)  # 0 is inside
    assert Quantisation.of(-5.1, -2.0) == Quantisation(float(F32(0.02)), 255)
    for low, high in ((-1.0, 1.55), (-3.3, 0.1), (0.2, 7.0)):
        tensor = Quantisation.of(low, high)
        assert tensor.real(tensor.quantise(np.zeros(1)))[0] == 0


def test_a_range_of_nothing_has_a_scale() -> None:
    dead = Quantisation.of(0.0, 0.0)
    assert dead == Quantisation(2.0**-60, 0)
    assert dead.quantise(np.array([0.0, 1.0])).tolist() == [0, 255]


def test_values_round_to_even_and_stop_at_the_ends() -> None:
    tensor = Quantisation(0.5, 10)
    real = np.array([0.25, 0.75, -0.25, -0.75, 1e9, -1e9])  # 0.5, 1.5, -0.5, -1.5 steps
    assert tensor.quantise(real).tolist() == [10, 12, 10, 8, 255, 0]
    assert tensor.real(np.array([0, 10, 255], np.uint8)).tolist() == [-5.0, 0.0, 122.5]


def test_weights_reach_127_in_each_channel_and_never_128() -> None:
    weight = np.array([[[1.27, -0.5], [-0.635, 0.25]]])  # [1 tap, 2 in, 2 out]
    scales = scheme.weight_scales(weight, np.zeros(2), 1.0)
    assert scales.tolist() == [F32(1.27 / 127), F32(0.5 / 127)]
    # -63.5 of the first and 63.5 of the second: a scale rounded down leaves more than a half.
    q = scheme.quantise_weight(weight, np.array([0.01, 0.5 / 127], np.float32))
    assert q[0, 0].tolist() == [127, -127] and abs(q).max() == 127
    exact = scheme.quantise_weight(np.array([[[0.25, 0.75, -1.5, -99]]]), np.full(4, 0.5, F32))
    assert exact.tolist() == [[[0, 2, -3, -127]]]  # 0.5, 1.5, -3, clamped


def test_a_dead_channel_takes_a_scale_that_holds_its_bias() -> None:
    weight = np.zeros((1, 4, 3))
    weight[:, :, 2] = 1e-12
    bias, x = np.array([0.0, 2.6, -2.6]), Quantisation(0.02, 3)
    scales = scheme.weight_scales(weight, bias, x.scale)
    assert scales[0] == F32(2.0**-60) and scales[1] == scales[2] == F32(2.6 / (0.02 * 2**30))
    q = scheme.quantise_weight(weight, scales)
    integers = scheme.integer_bias(bias, q, x, scales)
    assert q.max() == 0 and integers[0] == 0 and abs(abs(integers[1]) - 2**30) < 2**8


def test_the_bias_takes_away_the_zero_point() -> None:
    q = np.array([[[3, -5], [-1, 7]]], np.int8)  # [1, 2, 2]
    x, scales = Quantisation(0.5, 10), np.array([0.25, 0.5], np.float32)
    # 0.3125 / 0.125 = 2.5 rounds to 2, less 10 * (3 - 1); 0.875 / 0.25 = 3.5 to 4, less 10 * 2.
    integers = scheme.integer_bias(np.array([0.3125, 0.875]), q, x, scales)
    assert integers.tolist() == [2 - 20, 4 - 20]


def test_a_multiplier_is_rounded_once() -> None:
    scales = np.array([0.1, 3.0], np.float32)
    factor = scheme.multiplier(0.3, scales, 0.7)
    exact = [Fraction(0.3) * Fraction(float(s)) / Fraction(0.7) for s in scales]
    assert factor.dtype == np.float32 and factor.tolist() == [F32(float(e)) for e in exact]


def test_requantise_breaks_ties_to_even_before_the_zero_point() -> None:
    acc = np.array([[1], [3], [5], [-1], [-3], [1000], [-1000]])
    y = requantise(acc, np.array([0.5], np.float32), Quantisation(1.0, 7))
    assert y[:, 0].tolist() == [7 + 0, 7 + 2, 7 + 2, 7 - 0, 7 - 2, 255, 0]


def test_requantise_rounds_the_accumulator_and_the_product_to_float32() -> None:
    # 2^24 + 1 is a tie in float32 and becomes 2^24.
    one_more = requantise(np.array([2**24 + 1]), F32(2.0**-23), Quantisation(1.0, 0))
    assert one_more.tolist() == [2]
    # 11 * f32(1 / 22) is above a half before it is rounded, and a half after: a tie, to 0.
    factor = F32(1 / 22)
    assert Fraction(float(factor)) * 11 != Fraction(1, 2)
    assert requantise(np.array([11]), factor, Quantisation(1.0, 0)).tolist() == [0]


def test_a_residual_is_added_at_scales_of_its_own() -> None:
    p_as, x_as, y_as = Quantisation(0.5, 100), Quantisation(0.25, 50), Quantisation(1.0, 10)
    p = np.array([103, 100, 255, 0], np.uint8)  # 1.5, 0, 77.5, -50
    x = np.array([54, 52, 255, 0], np.uint8)  # 1.0, 0.5, 51.25, -12.5
    # 2.5 -> 2, 0.5 -> 0, 128.75 -> 129, -62.5 -> -62, clamped at 0 with the zero point.
    assert add_residual(p, p_as, x, x_as, y_as).tolist() == [12, 10, 139, 0]
    assert add_residual(p, p_as, x, x_as, Quantisation(0.5, 10)).tolist() == [15, 11, 255, 0]


def test_fma_rounds_once() -> None:
    random = np.random.default_rng(0)
    a = random.integers(-255, 256, 4000).astype(np.float32)
    c = (random.standard_normal(4000) * 2.0 ** random.integers(-40, 20, 4000)).astype(np.float32)
    for b in (F32(1 / 3), F32(0.7131), F32(2.0**-30 * 1.7)):
        for got, x, z in zip(fma(a, b, c), a, c, strict=True):
            assert got == _nearest(Fraction(float(x)) * Fraction(float(b)) + Fraction(float(z)))


def test_fma_where_rounding_twice_breaks_a_tie_wrongly() -> None:
    """1 + 2^-24 is a tie of float32, and float64 does not hold the 2^-57 that breaks it."""
    one, up = F32(1), F32(1 + 2.0**-23)
    above, below = (411849, 20857), (14329, 599479)  # 2^33 + 1, 2^33 - 1
    for (a, b), addend in ((above, one), (below, up)):
        factor = F32(b * 2.0**-57)
        assert F32(a * float(factor) + float(addend)) != up  # the tie went to even
        assert fma(np.array([a], np.float32), factor, np.array([addend])).tolist() == [up]


def test_a_mean_is_requantised_from_its_sum() -> None:
    x, y = Quantisation(0.5, 3), Quantisation(0.25, 8)
    sums = np.array([4 * 3, 4 * 3 + 1, 4 * 3 + 3, 4 * 255, 0])
    # 2 * (mean - 3) + 8: the means are 0, 0.25, 0.75, 252, -3 from the zero point.
    assert scheme.mean(sums, 4, x, y).tolist() == [8, 8, 10, 255, 2]


def test_logits_are_float32_of_the_accumulators() -> None:
    got = scheme.logits(np.array([[7, -3]]), 0.5, np.array([0.1, 0.2], np.float32))
    factors = [F32(0.5 * float(F32(s))) for s in (0.1, 0.2)]
    assert got.dtype == np.float32
    assert got.tolist() == [[F32(7) * factors[0], F32(-3) * factors[1]]]


def test_the_stem_takes_bytes() -> None:
    pixels = Pixels.of(np.array([0.5, 0.25]), np.array([0.5, 0.125]))
    assert pixels.border.tolist() == [128, 64]  # 127.5 to even; 63.75
    weight = np.array([[[1.275], [0.31875]]])  # [1 tap, 2 channels, 1 out]
    folded = pixels.fold(weight)
    assert folded.ravel().tolist() == pytest.approx([0.01, 0.01], rel=1e-15)
    assert pixels.unfold(folded) == pytest.approx(weight, rel=1e-15)
    # 0.1 / 0.01 - (127.5 * 2 + 63.75 * 4) = 10 - 510
    q = np.array([[[2], [4]]], np.int8)
    bias = pixels.integer_bias(np.array([0.1]), q, np.array([0.01], np.float32))
    assert bias.tolist() == [-500]


def test_bytes_survive_normalising() -> None:
    pixels = Pixels.of(np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
    q = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert (pixels.bytes_of(pixels.normalise(q)) == q).all()
    assert pixels.bytes_of(np.full((1, 1, 1, 3), 99.0)).tolist() == [[[[255] * 3]]]


def _nearest(exact: Fraction) -> np.float32:
    """float32, ties to even, by looking at the neighbours."""
    near = F32(float(exact))
    around = [near, np.nextafter(near, F32(-np.inf)), np.nextafter(near, F32(np.inf))]
    return min(
        around,
        key=lambda f: (abs(Fraction(float(f)) - exact), int(np.float32(f).view(np.int32)) & 1),
    )
