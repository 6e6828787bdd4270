"""Whether a built network and the float64 reference say the same of an image: `run --check`."""

from dataclasses import dataclass

from mnv2_tvm.deploy.loader import Floats
from mnv2_tvm.errors import UserError
from mnv2_tvm.network import SourceNetwork, relative_error
from mnv2_tvm.ranking import rank

TOLERANCE = 1e-4  # largest error over the largest logit


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


def check(
    logits: Floats, images: Floats, reference: SourceNetwork, top: int, source: str
) -> Agreement:
    """Compare the logits [1, classes] of an image [1, y, x, 3], which is `source`.

    Raises UserError where they differ by more than the tolerance or rank the top classes in
    another order.
    """
    expected = reference.reference(images)
    error = relative_error(logits, expected)
    if not error <= TOLERANCE:
        raise UserError(
            f"the reference disagrees on {source}: the largest error is {error:.0e} of the largest "
            "logit; if the library was built with these weights, build it again with "
            "python -m mnv2_tvm.build"
        )
    ours, theirs = ([r.index for r in rank(values[0], top, None)] for values in (logits, expected))
    if ours != theirs:
        raise UserError(
            f"the reference disagrees on {source}: its top classes are {theirs}, the library's "
            f"{ours}; the largest error is {error:.0e} of the largest logit: logits as near as "
            "that have no order, so give a smaller --top"
        )
    return Agreement(len(ours), error)
