"""Whether a built network and the float64 reference say the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.model.source import Source
from mnv2_tvm.numbers import Floats, check_numbers
from mnv2_tvm.ranking import rank

_ADVICE = "Give the --weights it was built with, or build it again with python -m mnv2_tvm.build"


class Runnable(Protocol):
    """A loaded library: on this host, or on a board."""

    manifest: Manifest
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def __call__(self, images: np.ndarray, /) -> np.ndarray:
        """Logits [n, classes] of images [n, y, x, 3]."""


def check_library(folder: Path, network: Runnable, source: Source, images: np.ndarray) -> float:
    """The relative error of the library in `folder` on `images` [n, y, x, 3].

    Raises UserError where it is too large, or where the library is of another shape.
    """
    reference = source.reference(images)
    if (network.input_shape, network.output_shape) != (images.shape, reference.shape):
        raise UserError(
            f"{folder} takes {list(network.input_shape)} to {list(network.output_shape)}, the "
            f"network to compare it with {list(images.shape)} to {list(reference.shape)}"
        )
    what = (
        f"{folder}, built with weights '{network.manifest.weights}' and compared with weights "
        f"'{source.weights}',"
    )
    return check_numbers(network(images), reference, what, _ADVICE)


@dataclass(frozen=True)
class Agreement:
    """How well two networks agree on one image."""

    top: int  # classes that both rank first, in the same order
    error: float  # largest, over the largest logit

    def __str__(self) -> str:
        return (
            f"the reference agrees: the same top {self.top}, "
            f"largest error {self.error:.0e} of the largest logit"
        )


def check(logits: Floats, images: Floats, reference: Source, top: int, source: str) -> Agreement:
    """Compare the logits [1, classes] of an image [1, y, x, 3], which is `source`.

    Raises UserError where they differ by more than the tolerance or rank the top classes in
    another order.
    """
    expected = reference.reference(images)
    error = check_numbers(logits, expected, f"the library's answer to {source}", _ADVICE)
    ours, theirs = ([r.index for r in rank(values[0], top, None)] for values in (logits, expected))
    if ours != theirs:
        raise UserError(
            f"the reference disagrees on {source}: its top classes are {theirs}, the library's "
            f"{ours}; the largest error is {error:.0e} of the largest logit: logits as near as "
            "that have no order, so give a smaller --top"
        )
    return Agreement(len(ours), error)
