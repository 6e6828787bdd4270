"""MobileNetV2 as a list of convolutions: every shape in this project is derived from here.

Sandler, Howard, Zhu, Zhmoginov, Chen: "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
2018, https://arxiv.org/abs/1801.04381.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

from mnv2_tvm.errors import UserError

# The (t, c, n, s) rows of the paper's Table 2: expansion, output channels at width 1, blocks in
# the stage, stride of the stage's first block (the others have 1).
TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
IMAGE_CHANNELS = 3

MIN_WIDTH, MAX_WIDTH = 0.35, 1.4
MIN_RESOLUTION = 32

# The (width, resolution) pairs with published weights and counts:
# https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet/README.md
PUBLISHED = (
    (1.4, 224),
    (1.3, 224),
    *((width, side) for width in (1.0, 0.75, 0.5, 0.35) for side in (224, 192, 160, 128, 96)),
)


def round_channels(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, raised by one step if that loses over 10 %.

    Never below `divisor`. Source: `_make_divisible` of the authors' slim and of torchvision.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Convolution:
    """One convolution with what is fused to it: BatchNorm or bias, ReLU6, the residual addition.

    Taps are 3x3 with padding 1 for `conv` and `dwconv`, 1x1 for `pwconv`. The classifier is a
    `pwconv` on the 1x1 map that the mean over the last features leaves.
    """

    name: str  # torchvision's prefix of the weight: "features.2.conv.0.0"
    norm: str | None  # torchvision's prefix of the BatchNorm; None: the classifier, it has a bias
    kind: Literal["conv", "dwconv", "pwconv"]
    height: int  # of the input
    width: int  # of the input
    in_channels: int
    out_channels: int
    stride: int = 1
    relu6: bool = True
    residual: bool = False  # adds the input of its block

    def then(
        self,
        name: str,
        norm: str,
        kind: Literal["dwconv", "pwconv"],
        out_channels: int,
        *,
        stride: int = 1,
        relu6: bool = True,
        residual: bool = False,
    ) -> "Convolution":
        """The convolution that takes the output of this one."""
        shape = (self.out_height, self.out_width, self.out_channels, out_channels)
        return Convolution(name, norm, kind, *shape, stride, relu6, residual)

    @property
    def block(self) -> str:
        """The module of torchvision that holds it: "features.2"."""
        return ".".join(self.name.split(".")[:2])

    @property
    def kernel(self) -> int:
        """Taps along each side."""
        return 1 if self.kind == "pwconv" else 3

    @property
    def groups(self) -> int:
        return self.in_channels if self.kind == "dwconv" else 1

    @property
    def out_height(self) -> int:
        return (self.height - 1) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width - 1) // self.stride + 1

    @property
    def out_elements(self) -> int:
        """Elements of the output of one image."""
        return self.out_height * self.out_width * self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, without bias, activation and residual."""
        return self.out_height * self.out_width * prod(self.weight_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """torch's: (out, in / groups, k, k); (classes, in) for the classifier."""
        matrix = (self.out_channels, self.in_channels // self.groups)
        return matrix if self.norm is None else (*matrix, self.kernel, self.kernel)


@dataclass(frozen=True)
class Architecture:
    """MobileNetV2 of one width multiplier, input resolution, number of classes and batch.

    Any width from 0.35 to 1.4, any resolution from 32 up. Raises UserError for others.
    """

    width: float = 1.0
    resolution: int = 224
    classes: int = 1000
    batch: int = 1

    def __post_init__(self) -> None:
        if not MIN_WIDTH <= self.width <= MAX_WIDTH:  # also refuses NaN
            raise UserError(f"width {self.width} is outside {MIN_WIDTH} to {MAX_WIDTH}")
        if self.resolution < MIN_RESOLUTION:
            raise UserError(f"resolution {self.resolution} is too small: give {MIN_RESOLUTION} up")
        if self.classes < 1:
            raise UserError(f"{self.classes} classes make no classifier: give 1 or more")
        if self.batch < 1:
            raise UserError(f"a batch of {self.batch} holds no image: give 1 or more")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """[n, h, w, c]"""
        return (self.batch, self.resolution, self.resolution, IMAGE_CHANNELS)

    def convolutions(self) -> tuple[Convolution, ...]:
        """All convolutions in the order of the network; the last one is the classifier."""
        side, stem_channels = self.resolution, round_channels(STEM_CHANNELS * self.width)
        stem = Convolution(
            "features.0.0", "features.0.1", "conv", side, side, IMAGE_CHANNELS, stem_channels, 2
        )
        layers = [stem]
        blocks = [
            (t, round_channels(c * self.width), stride)
            for t, c, n, s in TABLE
            for stride in (s, *[1] * (n - 1))
        ]
        for index, (expansion, channels, stride) in enumerate(blocks, start=1):
            layers += _inverted_residual(
                f"features.{index}", layers[-1], expansion, channels, stride
            )
        # The paper, Section 4: below width 1 the last convolution keeps all its channels.
        channels = round_channels(HEAD_CHANNELS * max(1.0, self.width))
        last = f"features.{len(blocks) + 1}"
        head = layers[-1].then(f"{last}.0", f"{last}.1", "pwconv", channels)
        classifier = Convolution(
            "classifier.1", None, "pwconv", 1, 1, channels, self.classes, relu6=False
        )
        return (*layers, head, classifier)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The keys and shapes of torchvision's state dict, in its order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for conv in self.convolutions():
            shapes[f"{conv.name}.weight"] = conv.weight_shape
            if conv.norm is None:
                shapes[f"{conv.name}.bias"] = (conv.out_channels,)
                continue
            for statistic in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{conv.norm}.{statistic}"] = (conv.out_channels,)
            shapes[f"{conv.norm}.num_batches_tracked"] = ()
        return shapes

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(conv.macs for conv in self.convolutions())

    @property
    def weights(self) -> int:
        """Elements of all weights, without biases and BatchNorm: the published "parameters"."""
        return sum(prod(conv.weight_shape) for conv in self.convolutions())

    @property
    def parameters(self) -> int:
        """What torchvision counts: weights, BatchNorm's gamma and beta, the classifier's bias."""
        return self.weights + sum(
            conv.out_channels * (1 if conv.norm is None else 2) for conv in self.convolutions()
        )


def _inverted_residual(
    name: str, previous: Convolution, expansion: int, channels: int, stride: int
) -> list[Convolution]:
    """The paper's Table 1: expand 1x1, depthwise 3x3, project 1x1 without activation."""
    in_channels = previous.out_channels
    layers = []
    if expansion != 1:
        expanded = in_channels * expansion
        previous = previous.then(f"{name}.conv.0.0", f"{name}.conv.0.1", "pwconv", expanded)
        layers.append(previous)
    index = f"{name}.conv.{len(layers)}"
    depthwise = previous.then(
        f"{index}.0", f"{index}.1", "dwconv", previous.out_channels, stride=stride
    )
    project = depthwise.then(
        f"{name}.conv.{len(layers) + 1}",
        f"{name}.conv.{len(layers) + 2}",
        "pwconv",
        channels,
        relu6=False,
        residual=stride == 1 and in_channels == channels,
    )
    return [*layers, depthwise, project]
