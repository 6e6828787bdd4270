"""The one definition of int8 arithmetic. Every kernel equals it to the last bit, on every machine.

A tensor is uint8, with a scale and a zero point of its own: real = scale * (q - zero_point), and
0 is exact. Weights are int8 in [-127, 127] with a scale for each output channel and no zero point.
Scales are float32. Below, `rne` rounds to the nearest integer and f32() to float32, both ties to
even; what has no f32() around it is exact, or float64 at build time.

    convolution  bias       = rne(b / (s_x * s_w[n])) - z_x * sum_k w[k, n]        int32
                 multiplier = f32(s_x * s_w[n] / s_y)
                 acc        = bias + sum_k x[k] * w[k, n]                          int32
                 y          = clamp(rne(f32(f32(acc) * multiplier)) + z_y)         to 0..255
    residual     p = clamp(rne(f32(f32(acc) * multiplier)) + z_p) - z_p            of scale s_p
                 y = clamp(rne(f32(p * f32(s_p / s_y) + t)) + z_y)                 one fma
                     where t = f32((x - z_x) * f32(s_x / s_y))
    mean         y = clamp(rne(f32(f32(sum x - pixels * z_x) * f32(s_x / (pixels * s_y)))) + z_y)
    logits       f32(f32(acc) * f32(s_x * s_w[n]))                                 float32

Outside the image lies z_x, so that the bias holds at borders too. A ReLU6 is the clamp: its
tensor has zero point 0 and reaches 6 at most. The image is bytes: see `pixels`.

Where a machine stores int8 instead, both q and the zero points are less by 128: the same numbers.
Nothing here overflows int32: `bounds` makes sure of that.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1  # of the definition: another one gives other bytes from the same file

Bytes = NDArray[np.uint8]
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]

LARGEST_WEIGHT = 127  # -128 breaks the int16 sums of some instructions
SMALLEST_SCALE = 2.0**-60  # of what is 0: no product of two is a subnormal


@dataclass(frozen=True)
class Quantisation:
    """How a tensor is stored: real = scale * (q - zero_point). The scale is a float32 number."""

    scale: float
    zero_point: int

    @classmethod
    def of(cls, low: float, high: float, least: float = SMALLEST_SCALE) -> "Quantisation":
        """For values from `low` to `high`, and 0; the scale is `least` or more."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32(max((high - low) / 255, least)))
        return cls(scale, int(np.clip(np.rint(-low / scale), 0, 255)))

    def quantise(self, real: NDArray[np.floating[Any]]) -> Bytes:
        """clamp(rne(real / scale) + zero_point)."""
        return clamp(np.rint(real.astype(np.float64) / self.scale) + self.zero_point)

    def real(self, q: Bytes) -> Doubles:
        """scale * (q - zero_point)."""
        real: Doubles = self.scale * (q.astype(np.float64) - self.zero_point)
        return real


# At build time, in float64 ---------------------------------------------------------------------


def weight_scales(weight: Doubles, bias: Doubles, x_scale: float) -> Singles:
    """The scale of each output channel [n] of `weight` [taps, in, n]: max|w| / 127.

    More where the weights of a channel are so small beside its bias [n] that the bias would not
    fit int32: training leaves such dead channels.
    """
    largest = np.abs(weight).max(axis=(0, 1))
    scales = np.maximum(largest / LARGEST_WEIGHT, np.abs(bias) / (x_scale * 2.0**30))
    result: Singles = np.maximum(scales, SMALLEST_SCALE).astype(np.float32)
    return result


def quantise_weight(weight: Doubles, scales: Singles) -> NDArray[np.int8]:
    """rne(w / s_w[n]) of `weight` [taps, in, n], within [-127, 127]."""
    q = np.rint(weight / scales.astype(np.float64))
    return q.clip(-LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)


def integer_bias(
    bias: Doubles, weight: NDArray[np.int8], x: Quantisation, scales: Singles
) -> NDArray[np.int64]:
    """rne(b / (s_x * s_w[n])) - z_x * sum_k w[k, n]: [n]. Whoever stores it has seen that it fits.

    A depthwise weight [taps, 1, n] has one channel in, so that its sum is over the taps.
    """
    own = np.rint(bias / (x.scale * scales.astype(np.float64))).astype(np.int64)
    result: NDArray[np.int64] = own - x.zero_point * weight.astype(np.int64).sum(axis=(0, 1))
    return result


def multiplier(x_scale: float, scales: Singles, y_scale: float) -> Singles:
    """f32(s_x * s_w[n] / s_y): [n]."""
    return (x_scale * scales.astype(np.float64) / y_scale).astype(np.float32)


def ratio(numerator: float, denominator: float) -> np.float32:
    """f32(numerator / denominator): of two scales."""
    return np.float32(numerator / denominator)


# At run time -----------------------------------------------------------------------------------


def requantise(acc: Integers, factor: Singles | np.float32, y: Quantisation) -> Bytes:
    """clamp(rne(f32(f32(acc) * factor)) + z_y) of int32 accumulators [..., n]."""
    return clamp(np.rint(acc.astype(np.float32) * factor) + y.zero_point)


def add_residual(
    p: Bytes, p_as: Quantisation, x: Bytes, x_as: Quantisation, y: Quantisation
) -> Bytes:
    """p + x, of three scales; p is what the projection gives, x the block's input."""
    skip = (x.astype(np.float32) - np.float32(x_as.zero_point)) * ratio(x_as.scale, y.scale)
    branch = p.astype(np.float32) - np.float32(p_as.zero_point)
    return clamp(np.rint(fma(branch, ratio(p_as.scale, y.scale), skip)) + y.zero_point)


def mean(sums: Integers, pixels: int, x: Quantisation, y: Quantisation) -> Bytes:
    """The mean of `pixels` bytes from their sum [..., c]."""
    return requantise(sums - pixels * x.zero_point, ratio(x.scale, pixels * y.scale), y)


def logits(acc: Integers, x_scale: float, scales: Singles) -> Singles:
    """f32(f32(acc) * f32(s_x * s_w[n])): float32 [..., n]."""
    result: Singles = acc.astype(np.float32) * multiplier(x_scale, scales, 1.0)
    return result


def clamp(values: NDArray[Any]) -> Bytes:
    """Integers, of whatever type, to 0..255."""
    return values.clip(0, 255).astype(np.uint8)


def fma(a: Singles, b: np.float32, c: Singles) -> Singles:
    """f32(a * b + c), rounded once as by a fused multiply-add.

    The product of two float32 is exact in float64. The sum is not always, and rounding it twice
    may break a tie wrongly; so it is rounded to odd in between, and what was lost decides.
    Boldo and Melquiond 2008, https://doi.org/10.1109/TC.2007.70819.
    """
    product, addend = a.astype(np.float64) * np.float64(b), c.astype(np.float64)
    total = product + addend
    back = total - product
    lost = (product - (total - back)) + (addend - back)  # exact: Knuth's TwoSum
    even = total.view(np.int64) % 2 == 0
    odd = np.nextafter(total, np.copysign(np.inf, lost))
    return np.where((lost != 0) & even, odd, total).astype(np.float32)
