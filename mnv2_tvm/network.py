"""The network a verb works on: architecture, weights, and the Relax module of both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnv2_tvm.errors import UserError
from mnv2_tvm.model import (
    Architecture,
    MobileNetV2,
    fold_batch_norm,
    random_state,
    read_weights,
    relax_module,
)


@dataclass(frozen=True)
class SourceNetwork:
    """An architecture with weights, before compilation."""

    architecture: Architecture
    state: dict[str, NDArray[Any]]  # torchvision's keys
    weights: str  # where they come from
    notes: tuple[str, ...] = ()  # what the user should know of them

    @classmethod
    def make(
        cls, architecture: Architecture, weights: Path | None, seed: int, state: str | None = None
    ) -> "SourceNetwork":
        """With the weights of a file, or seeded random ones.

        Of a file with several networks the one called `state`.
        """
        if weights is None:
            if state is not None:
                raise UserError("--state goes with --weights FILE")
            random = random_state(architecture, seed).items()
            arrays = {key: tensor.numpy() for key, tensor in random}
            return cls(architecture, arrays, f"random, seed {seed}")
        read = read_weights(weights, architecture, state)
        return cls(architecture, read.arrays, read.source, read.notes)

    def relax(self) -> Any:
        """The Relax module, BatchNorm folded."""
        return relax_module(self.architecture, fold_batch_norm(self.state, self.architecture))

    def images(self, seed: int) -> np.ndarray:
        """A seeded random input [n, y, x, 3] of the spread that normalised images have."""
        random = np.random.default_rng(seed)
        return random.standard_normal(self.architecture.input_shape, dtype=np.float32)

    def reference(self, images: np.ndarray) -> np.ndarray:
        """Logits [n, classes] of images [n, y, x, 3], by torch."""
        model = MobileNetV2(self.architecture).eval()
        model.load_state_dict({key: torch.from_numpy(a) for key, a in self.state.items()})
        with torch.no_grad():
            logits = model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
        result: np.ndarray = logits.numpy()
        return result


def relative_error(result: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute error over the largest absolute reference value; NaN counts as infinite."""
    error = np.abs(result.astype(np.float64) - reference).max() / np.abs(reference).max()
    return float(error) if np.isfinite(error) else float("inf")
