"""The network in torch: what peers are made from, and what the tests hold our reference to."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnv2_tvm.model.architecture import Architecture
from mnv2_tvm.model.convolution import Convolution
from mnv2_tvm.model.folding import BATCH_NORM_EPSILON


class MobileNetV2(nn.Module):
    """MobileNetV2 with torchvision's state dict, in inference mode from the start.

    Input [n, 3, h, w], output [n, classes]. torchvision's own module has the same keys, shapes
    and order: https://github.com/pytorch/vision/blob/main/torchvision/models/mobilenetv2.py.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        *convolutions, classifier = architecture.convolutions()
        self.features = nn.Sequential(
            *(_module(list(block)) for _, block in groupby(convolutions, lambda conv: conv.block))
        )
        # torchvision has a dropout at index 0: it does nothing here but shift the linear layer.
        self.classifier = nn.Sequential(
            nn.Identity(), nn.Linear(classifier.in_channels, classifier.out_channels)
        )
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        features = self.features(image)  # [n, c, h, w]
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; the input is added where the shapes allow it."""

    def __init__(self, convolutions: list[Convolution]) -> None:
        super().__init__()
        *activated, project = convolutions
        self.conv = nn.Sequential(
            *(_activated(conv) for conv in activated), _convolution(project), _norm(project)
        )
        self.residual = project.residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def _module(block: list[Convolution]) -> nn.Module:
    return _activated(block[0]) if len(block) == 1 else InvertedResidual(block)


def _activated(conv: Convolution) -> nn.Sequential:
    return nn.Sequential(_convolution(conv), _norm(conv), nn.ReLU6())


def _convolution(conv: Convolution) -> nn.Conv2d:
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel,
        stride=conv.stride,
        padding=conv.kernel // 2,
        groups=conv.groups,
        bias=False,
    )


def _norm(conv: Convolution) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(conv.out_channels, eps=BATCH_NORM_EPSILON)


def torch_network(architecture: Architecture, state: Mapping[str, Any]) -> MobileNetV2:
    """The module with a state dict of numpy arrays in torchvision's keys."""
    network = MobileNetV2(architecture)
    network.load_state_dict({key: torch.from_numpy(np.asarray(a)) for key, a in state.items()})
    return network
