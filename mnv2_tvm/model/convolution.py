"""One convolution of the network, with what is fused to it."""

from dataclasses import dataclass
from math import prod
from typing import Literal


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
