"""Whether numbers are right: the one comparison of all checks, and what it allows."""

from typing import Any

import numpy as np

from mnv2_tvm.errors import UserError

Floats = np.ndarray[Any, np.dtype[np.float32]]

TOLERANCE = 1e-4  # relative error that summing in another order cannot reach


def relative_error(result: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute error over the largest absolute reference value; NaN counts as infinite."""
    error = np.abs(result.astype(np.float64) - reference).max() / np.abs(reference).max()
    return float(error) if np.isfinite(error) else float("inf")


def check_numbers(result: np.ndarray, reference: np.ndarray, what: str, advice: str) -> float:
    """The relative error of `result`, which is of `what`.

    Raises UserError, with the advice, where it is too large.
    """
    error = relative_error(result, reference)
    if error > TOLERANCE:
        raise UserError(
            f"wrong numbers: {what} is off by {error:.1e} of the reference's largest output; "
            f"{TOLERANCE:.0e} is allowed. {advice}"
        )
    return error
