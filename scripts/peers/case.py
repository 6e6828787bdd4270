"""What is compared: one network with its input, and a folder with its model files.

Converters and measured processes import this, so it needs numpy and nothing heavier.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Case:
    """One network, its input, and how every runtime runs it."""

    width: float
    resolution: int
    seed: int  # of the weights and the input
    threads: int
    target: str  # of ours and of TVM's stock build
    avx2: bool  # the others are held to AVX2 too, where they let themselves
    folder: Path  # has input.npy; each format adds its file

    @property
    def images(self) -> np.ndarray:
        """The input as [n, y, x, 3]."""
        images: np.ndarray = np.load(self.folder / "input.npy")
        return images

    @property
    def nchw(self) -> np.ndarray:
        """The input as [n, 3, y, x]."""
        return np.ascontiguousarray(self.images.transpose(0, 3, 1, 2))

    def to_json(self) -> str:
        """For the command line of another process; `from_json` is its inverse."""
        return json.dumps(asdict(self) | {"folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> "Case":
        """The case that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**(fields | {"folder": Path(fields["folder"])}))


def why(error: Exception) -> str:
    """An exception in one line, for the table."""
    if isinstance(error, ImportError):
        return f"not installed: {error}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
