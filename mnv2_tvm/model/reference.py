"""The network in torch: the reference that every compiled one is compared with."""

from itertools import groupby

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


def random_state(architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """A state dict of seeded random weights and BatchNorm statistics, untrained but lively.

    Independent of torch's global generator. For an input of unit variance the activations keep
    about unit scale through the network: neither vanish nor sit on either bound of ReLU6.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...], mean: float, deviation: float) -> Tensor:
        return torch.randn(shape, generator=generator) * deviation + mean

    state: dict[str, Tensor] = {}
    after_relu = False
    for conv in architecture.convolutions():
        fan_in = conv.kernel**2 * conv.in_channels // conv.groups
        # He et al. 2015, https://arxiv.org/abs/1502.01852: ReLU halves the power of its input.
        gain = 2.0 if after_relu else 1.0
        # A residual branch adds a quarter of the power, or ten of them would add up to 2^10.
        gain *= 0.25 if conv.residual else 1.0
        channels = (conv.out_channels,)
        state[f"{conv.name}.weight"] = normal(conv.weight_shape, 0.0, (gain / fan_in) ** 0.5)
        if conv.norm is None:
            state[f"{conv.name}.bias"] = normal(channels, 0.0, 0.1)
            continue
        state[f"{conv.norm}.weight"] = normal(channels, 1.0, 0.1)
        state[f"{conv.norm}.bias"] = normal(channels, 0.0, 0.1)
        state[f"{conv.norm}.running_mean"] = normal(channels, 0.0, 0.1)
        state[f"{conv.norm}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{conv.norm}.num_batches_tracked"] = torch.tensor(0)
        after_relu = conv.relu6
    return state
