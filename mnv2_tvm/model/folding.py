"""Inference BatchNorm as a scale of the weights and a bias."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mnv2_tvm.model.architecture import Architecture

# torch's default, with which torchvision and timm train; checkpoints ported from TensorFlow: 1e-3.
BATCH_NORM_EPSILON = 1e-5


def fold_batch_norm(
    state: Mapping[str, torch.Tensor],
    architecture: Architecture,
    epsilon: float = BATCH_NORM_EPSILON,
) -> dict[str, NDArray[np.float32]]:
    """The weight and bias of every convolution with its BatchNorm folded in.

    `state` has torchvision's keys. The result has `NAME.weight` in torch's layout [out, in, k, k]
    ([classes, in] for the classifier) and `NAME.bias` [out] for each `Convolution.name`. Folded in
    float64, rounded once. Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, Section 3.2.
    """
    params: dict[str, NDArray[np.float32]] = {}
    for conv in architecture.convolutions():
        weight = _float64(state[f"{conv.name}.weight"])
        if conv.norm is None:
            bias = _float64(state[f"{conv.name}.bias"])
        else:
            gamma = _float64(state[f"{conv.norm}.weight"])
            variance = _float64(state[f"{conv.norm}.running_var"])
            scale = gamma / np.sqrt(variance + epsilon)  # [out]
            weight = weight * scale[:, None, None, None]
            mean, beta = (_float64(state[f"{conv.norm}.{key}"]) for key in ("running_mean", "bias"))
            bias = beta - mean * scale
        params[f"{conv.name}.weight"] = weight.astype(np.float32)
        params[f"{conv.name}.bias"] = bias.astype(np.float32)
    return params


def _float64(tensor: torch.Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().to("cpu", torch.float64).numpy()
    return array
