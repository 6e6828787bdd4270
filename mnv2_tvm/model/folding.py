"""Inference BatchNorm as a scale of the weights and a bias."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.model.architecture import Architecture

# torch's default, with which torchvision and timm train; checkpoints ported from TensorFlow: 1e-3.
BATCH_NORM_EPSILON = 1e-5


def fold_batch_norm(
    state: Mapping[str, NDArray[Any]],
    architecture: Architecture,
    epsilon: float = BATCH_NORM_EPSILON,
) -> dict[str, NDArray[np.float64]]:
    """The weight and bias of every convolution with its BatchNorm folded in.

    `state` has torchvision's keys. The result has `NAME.weight` in torch's layout [out, in, k, k]
    ([classes, in] for the classifier) and `NAME.bias` [out] for each `Convolution.name`. All in
    float64: whoever takes it rounds once.

    Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, Section 3.2.
    """
    params: dict[str, NDArray[np.float64]] = {}
    double = {key: array.astype(np.float64) for key, array in state.items()}
    for conv in architecture.convolutions():
        weight = double[f"{conv.name}.weight"]
        if conv.norm is None:
            bias = double[f"{conv.name}.bias"]
        else:
            scale = double[f"{conv.norm}.weight"] / np.sqrt(
                double[f"{conv.norm}.running_var"] + epsilon
            )  # [out]
            weight = weight * scale[:, None, None, None]
            bias = double[f"{conv.norm}.bias"] - double[f"{conv.norm}.running_mean"] * scale
        params[f"{conv.name}.weight"] = weight
        params[f"{conv.name}.bias"] = bias
    return params
