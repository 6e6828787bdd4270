"""Bias correction: the mean error that rounding a channel's weights makes goes into its bias.

Rounding the weights shifts the mean of each output channel, and such shifts add up through the
network where noise averages out. The shift is known from the calibration images: a convolution is
linear, so the mean of its error is the convolution of the mean input with the weights' error.

    b[n] += sum_k mean(x)[k] * (w[k, n] - w'[k, n])         w': as quantised, times its scale

Nagel, van Baalen, Blankevoort, Welling 2019, https://arxiv.org/abs/1906.04721, Section 4.2, with
the means of images instead of those of BatchNorm.
"""

from mnv2_tvm.layer import Layer
from mnv2_tvm.quantise.scheme import Doubles


def corrected_bias(
    layer: Layer, bias: Doubles, weight: Doubles, rounded: Doubles, means: Doubles
) -> Doubles:
    """`bias` [n] with the mean error added that `rounded` has in place of `weight` [taps, in, n].

    `means` [taps, in] is the mean of what the weights are multiplied with.
    """
    error = weight - rounded
    if layer.operator == "dwconv":  # each channel has one input, its own
        correction: Doubles = (means * error[:, 0]).sum(axis=0)
    else:
        correction = (means[:, :, None] * error).sum(axis=(0, 1))
    return bias + correction
