"""The image: its bytes are the network's input, and its normalisation is folded into the stem.

    real = (q / 255 - mean[c]) / std[c], so that a stem w, b is one of the bytes q with
    w' = w / (255 * std[c]) and a zero point 255 * mean[c] for each channel:

    bias = rne(b / s_w[n] - sum_k 255 * mean[c] * w'[k, n]) with w' as quantised, scale s_x = 1

Outside the image a float network has 0, the mean, which need not be a whole number of steps; here
the bytes rne(255 * mean[c]) lie there, half a step off at most.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.errors import UserError
from mnv2_tvm.quantise.scheme import Bytes, Doubles, Singles, clamp

SCALE = 1.0  # of the bytes: the rest of it is in the weights


@dataclass(frozen=True)
class Pixels:
    """The normalisation of the image's channels, by float32 numbers: mean and deviation in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: NDArray[Any], std: NDArray[Any]) -> "Pixels":
        """From two arrays [c]."""
        return cls(*(tuple(map(float, np.asarray(a, np.float32))) for a in (mean, std)))

    @property
    def border(self) -> Bytes:
        """What lies outside the image: [c]."""
        return clamp(np.rint(self._means))

    @property
    def _means(self) -> Doubles:
        return 255 * np.array(self.mean)

    def fold(self, weight: Doubles) -> Doubles:
        """The weights [taps, c, n] for bytes instead of normalised values."""
        folded: Doubles = weight / (255 * np.array(self.std))[:, None]
        return folded

    def unfold(self, weight: Doubles) -> Doubles:
        """The inverse of `fold`."""
        unfolded: Doubles = weight * (255 * np.array(self.std))[:, None]
        return unfolded

    def integer_bias(
        self, bias: Doubles, weight: NDArray[np.int8], scales: Singles
    ) -> NDArray[np.int64]:
        """rne(b / s_w[n] - sum_k 255 * mean[c] * w[k, n]): [n]; `weight` is folded [taps, c, n]."""
        zero = self._means @ weight.astype(np.int64).sum(axis=0)
        result: Doubles = np.rint(bias / scales.astype(np.float64) - zero)
        return result.astype(np.int64)

    def normalise(self, q: Bytes) -> Singles:
        """The float network's input for bytes [n, y, x, c]."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        normal: Singles = (q.astype(np.float32) / np.float32(255) - mean) / std
        return normal

    def check(self, images: NDArray[np.floating[Any]]) -> None:
        """Raises UserError unless normalised images [n, y, x, c] are what bytes can be."""
        least, most = (self.normalise(np.full(len(self.mean), q, np.uint8)) for q in (0, 255))
        slack = (most - least) / 255
        axes = tuple(range(images.ndim - 1))
        low, high = images.min(axis=axes), images.max(axis=axes)
        if not ((low >= least - slack) & (high <= most + slack)).all():  # also of NaN
            raise UserError(
                f"the images hold values from {low.min():.3g} to {high.max():.3g}, but bytes "
                f"normalised by the mean {_shown(self.mean)} and the deviation {_shown(self.std)} "
                f"lie in {least.min():.3g} to {most.max():.3g}; normalise the images by these"
            )

    def bytes_of(self, images: NDArray[np.floating[Any]]) -> Bytes:
        """The bytes nearest to normalised images [n, y, x, c]: of those that were bytes, these."""
        scaled = images.astype(np.float64) * np.array(self.std) + np.array(self.mean)
        return clamp(np.rint(255 * scaled))


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
