"""The likeliest classes of an image."""

from dataclasses import dataclass

import numpy as np

from mnv2_tvm.numbers import Floats


@dataclass(frozen=True)
class Ranked:
    """One of the top classes of an image."""

    index: int
    label: str  # empty without a file of labels
    probability: float


def rank(logits: Floats, top: int, labels: list[str] | None) -> list[Ranked]:
    """The `top` likeliest classes by the logits [classes] of one image, with their softmax.

    Of a network with one class, its sigmoid: the softmax of one number is 1 whatever it is. Equal
    logits rank by class index; of fewer classes than `top`, all are given.
    """
    if len(logits) == 1:
        half = np.tanh(np.float64(logits[0]) / 2)  # (1 + tanh(x / 2)) / 2 is the sigmoid
        return [Ranked(0, labels[0] if labels else "", float((1 + half) / 2))]
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponentials / exponentials.sum()
    # By logits: probabilities are equal where exp underflows.
    order = np.argsort(-logits, kind="stable")[:top].tolist()
    return [Ranked(i, labels[i] if labels else "", float(probabilities[i])) for i in order]
