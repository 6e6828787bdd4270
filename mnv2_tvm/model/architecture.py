"""MobileNetV2 as a list of convolutions: every shape in this project is derived from here.

Sandler, Howard, Zhu, Zhmoginov, Chen: "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
2018, https://arxiv.org/abs/1801.04381.
"""

from dataclasses import dataclass
from math import prod

from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.model.convolution import Convolution
from mnv2_tvm.model.limits import excess, largest

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
_SMALLEST = {"resolution": MIN_RESOLUTION, "batch": 1, "classes": 1}

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
class Architecture:
    """MobileNetV2 of one width multiplier, input resolution, number of classes and batch.

    Any width from 0.35 to 1.4, any resolution from 32 up. Raises UserError for others, and for
    sizes that no library can address, with the largest that it can.
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
        if (fault := self._excess(**self._sizes)) is not None:
            asked = ", ".join(f"{name} {printable(n, 30)}" for name, n in self._sizes.items())
            raise UserError(f"{asked} at width {self.width}: {fault}; give {self._fitting()}")

    @property
    def _sizes(self) -> dict[str, int]:
        return {"resolution": self.resolution, "batch": self.batch, "classes": self.classes}

    def _excess(self, resolution: int, batch: int, classes: int) -> str | None:
        return excess(_convolutions(self.width, resolution, classes), batch)

    def _fitting(self) -> str:
        """The largest value of each option that mends it alone, or of all where none does."""

        def largest_of(name: str, others: dict[str, int]) -> int:
            return largest(
                lambda size: self._excess(**others | {name: size}) is None,
                _SMALLEST[name],
                self._sizes[name],
            )

        alone = {name: largest_of(name, self._sizes) for name in _SMALLEST}
        mending = [f"--{name} {size} or less" for name, size in alone.items() if size]
        if mending:
            return ", or ".join(mending)
        together = dict(_SMALLEST)
        for name in together:
            together[name] = largest_of(name, together)
        return "all of " + " ".join(f"--{name} {size}" for name, size in together.items())

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """[n, h, w, c]"""
        return (self.batch, self.resolution, self.resolution, IMAGE_CHANNELS)

    def convolutions(self) -> tuple[Convolution, ...]:
        """All convolutions in the order of the network; the last one is the classifier."""
        return _convolutions(self.width, self.resolution, self.classes)

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


def _convolutions(width: float, resolution: int, classes: int) -> tuple[Convolution, ...]:
    side, stem_channels = resolution, round_channels(STEM_CHANNELS * width)
    stem = Convolution(
        "features.0.0", "features.0.1", "conv", side, side, IMAGE_CHANNELS, stem_channels, 2
    )
    layers = [stem]
    blocks = [
        (t, round_channels(c * width), stride)
        for t, c, n, s in TABLE
        for stride in (s, *[1] * (n - 1))
    ]
    for index, (expansion, channels, stride) in enumerate(blocks, start=1):
        layers += _inverted_residual(f"features.{index}", layers[-1], expansion, channels, stride)
    # The paper, Section 4: below width 1 the last convolution keeps all its channels.
    channels = round_channels(HEAD_CHANNELS * max(1.0, width))
    last = f"features.{len(blocks) + 1}"
    head = layers[-1].then(f"{last}.0", f"{last}.1", "pwconv", channels)
    classifier = Convolution("classifier.1", None, "pwconv", 1, 1, channels, classes, relu6=False)
    return (*layers, head, classifier)


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
