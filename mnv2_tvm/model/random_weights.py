"""Seeded random weights and images for a network that nobody has trained.

A plain random network all but ignores its image: each layer lowers the share of what differs
between images, and the mean over the last map lowers it again. Then another image changes the
logits as little as a wrong kernel does. So the statistics of the BatchNorms are those of a few
random images, as training would leave them, and the classifier's bias takes away what all of
them share.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.model.architecture import IMAGE_CHANNELS, Architecture
from mnv2_tvm.model.convolution import Convolution
from mnv2_tvm.model.folding import BATCH_NORM_EPSILON
from mnv2_tvm.model.interpreter import Array, conv2d

State = dict[str, NDArray[Any]]  # torchvision's keys

_LARGEST = 224  # side of the images that settle the statistics, at most
# Of what goes into ReLU6: a quarter of it below 0 and a thirtieth above 6.
_MEAN, _DEVIATION = 1.5, 2.5
_SPREAD = 0.1  # of gamma and beta between channels
# A residual branch adds a quarter of the power, or ten of them would hide what comes in.
_BRANCH = 0.5


def random_images(count: int, resolution: int, random: np.random.Generator) -> Array:
    """Images [count, y, x, 3] of unit variance with as much power in each octave as in the next.

    So have photographs: Field 1987, https://doi.org/10.1364/JOSAA.4.002379.
    """
    images = np.zeros((count, resolution, resolution, IMAGE_CHANNELS))
    octaves = [min(2**octave, resolution) for octave in range((resolution - 1).bit_length() + 1)]
    for cells in octaves:
        grid = random.standard_normal((count, cells, cells, IMAGE_CHANNELS))
        cell = np.arange(resolution) * cells // resolution
        images += grid[:, cell][:, :, cell]
    result: Array = images / len(octaves) ** 0.5
    return result


def random_state(architecture: Architecture, seed: int) -> State:
    """A float32 state dict of seeded random weights, lively on every image.

    The same on every host: the statistics are computed in float64 and kept in half precision.
    """
    random = np.random.default_rng(seed)
    *convolutions, classifier = architecture.convolutions()
    resolution = min(architecture.resolution, _LARGEST)
    x = random_images(max(2, _LARGEST // resolution), resolution, random)
    state: State = {}
    block, block_input = "", x
    for conv in convolutions:
        if conv.block != block:
            block, block_input = conv.block, x
        x = _settle(conv, x, random, state)
        if conv.residual:
            x = x + block_input
    shared = _rounded(x.mean(axis=(0, 1, 2)))  # of all images
    weight = _weight(classifier, random)
    own = random.normal(0, _SPREAD, classifier.out_channels)
    state[f"{classifier.name}.weight"] = weight
    state[f"{classifier.name}.bias"] = (own - weight.astype(np.float64) @ shared).astype(np.float32)
    return state


def _settle(conv: Convolution, x: Array, random: np.random.Generator, state: State) -> Array:
    """Put a convolution and its BatchNorm into `state`; its output for x [n, y, x, in]."""
    weight = _weight(conv, random)
    depthwise = conv.kind == "dwconv"
    axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    kernel = weight.transpose(axes).astype(np.float64)
    y = conv2d(x, kernel, conv.stride, (conv.kernel // 2,) * 2, depthwise=depthwise)
    mean, variance = _rounded(y.mean(axis=(0, 1, 2))), _rounded(y.var(axis=(0, 1, 2)))
    deviation = _DEVIATION if conv.relu6 else _BRANCH if conv.residual else 1.0
    channels = conv.out_channels
    gamma = random.normal(deviation, _SPREAD, channels).astype(np.float32)
    beta = random.normal(_MEAN if conv.relu6 else 0, _SPREAD, channels).astype(np.float32)
    state[f"{conv.name}.weight"] = weight
    state[f"{conv.norm}.weight"], state[f"{conv.norm}.bias"] = gamma, beta
    state[f"{conv.norm}.running_mean"] = mean.astype(np.float32)
    state[f"{conv.norm}.running_var"] = variance.astype(np.float32)
    state[f"{conv.norm}.num_batches_tracked"] = np.array(0)
    y = (y - mean) / np.sqrt(variance + BATCH_NORM_EPSILON) * gamma + beta
    return y.clip(0, 6) if conv.relu6 else y


def _weight(conv: Convolution, random: np.random.Generator) -> NDArray[np.float32]:
    """Of about unit gain. A depthwise window also blurs: it keeps what an image has as a whole."""
    values = random.standard_normal(conv.weight_shape) + (conv.kind == "dwconv")
    fan_in = conv.kernel**2 * conv.in_channels // conv.groups
    weight: NDArray[np.float32] = (values / fan_in**0.5).astype(np.float32)
    return weight


def _rounded(statistic: Array) -> Array:
    return statistic.astype(np.float16).astype(np.float64)
