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
    dtype: str = "float32",
) -> dict[str, NDArray[np.floating]]:
    """The weight and bias of every convolution with its BatchNorm folded in.

    `state` has torchvision's keys. The result has `NAME.weight` in torch's layout [out, in, k, k]
    ([classes, in] for the classifier) and `NAME.bias` [out] for each `Convolution.name`. Folded
    in float64 and rounded once, to `dtype`.

    Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, Section 3.2.
    """
    params: dict[str, NDArray[np.floating]] = {}
    for conv in architecture.convolutions():
        weight = state[f"{conv.name}.weight"].astype(np.float64)
        if conv.norm is None:
            bias = state[f"{conv.name}.bias"].astype(np.float64)
        else:
            gamma, beta, mean, variance = (
                state[f"{conv.norm}.{leaf}"].astype(np.float64)  # [out]
                for leaf in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(variance + epsilon)  # [out]
            weight *= scale[:, None, None, None]
            bias = beta - mean * scale
        params[f"{conv.name}.weight"] = weight.astype(dtype)
        params[f"{conv.name}.bias"] = bias.astype(dtype)
    return params
