"""The likeliest classes of an image."""

from dataclasses import dataclass

import numpy as np

from mnv2_tvm.deploy.loader import Floats


@dataclass(frozen=True)
class Ranked:
    """One of the top classes of an image."""

    index: int
    label: str  # empty without a file of labels
    probability: float


def rank(logits: Floats, top: int, labels: list[str] | None) -> list[Ranked]:
    """The `top` likeliest classes by the logits [classes] of one image, with their softmax.

    Equal logits rank by class index; of fewer classes than `top`, all are given.
    """
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponentials / exponentials.sum()
    # By logits: probabilities are equal where exp underflows.
    order = np.argsort(-logits, kind="stable")[:top].tolist()
    return [Ranked(i, labels[i] if labels else "", float(probabilities[i])) for i in order]
