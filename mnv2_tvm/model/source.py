"""The network a verb works on: architecture, weights, and the Relax module of both."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mnv2_tvm.errors import UserError
from mnv2_tvm.model import (
    Architecture,
    State,
    fold_batch_norm,
    interpret,
    random_images,
    random_state,
    read_weights,
    relax_module,
)
from mnv2_tvm.numbers import Floats


class Described(Protocol):
    """What a manifest tells of the network that was built."""

    @property
    def width(self) -> float:
        """Its width multiplier."""

    @property
    def resolution(self) -> int:
        """Height and width of its image."""

    @property
    def classes(self) -> int:
        """Outputs of its classifier."""

    @property
    def input_shape(self) -> Sequence[int]:
        """[n, y, x, 3]."""

    @property
    def weights(self) -> str:
        """Where its weights come from, as `SourceNetwork.weights`."""


@dataclass(frozen=True)
class SourceNetwork:
    """An architecture with weights, before compilation."""

    architecture: Architecture
    state: State
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
            return cls(architecture, random_state(architecture, seed), f"random, seed {seed}")
        read = read_weights(weights, architecture, state)
        return cls(architecture, read.arrays, read.source, read.notes)

    @classmethod
    def of_library(
        cls, manifest: Described, weights: Path | None, state: str | None = None
    ) -> "SourceNetwork":
        """The network that a library was built from.

        Random weights are made again from their seed; others come from the file `weights`, of
        several networks in it from the one that was built, or from `state`. Raises UserError where
        that file is missing, or given to a library with random weights.
        """
        architecture = Architecture(
            manifest.width, manifest.resolution, manifest.classes, manifest.input_shape[0]
        )
        random = re.fullmatch(r"random, seed ([0-9]{1,10})", manifest.weights)
        if weights is None and random is None:
            raise UserError(
                f"the library was built with the weights {manifest.weights}, which are needed to "
                "check its numbers; give --weights FILE"
            )
        if weights is not None and random is not None:
            raise UserError(
                f"the library was built with random weights, not with {weights}; "
                "leave --weights out"
            )
        if weights is not None and state is None:
            built = manifest.weights.removeprefix(f"{weights.name}, ")
            state = built if built != manifest.weights else None
        return cls.make(architecture, weights, int(random[1]) if random else 0, state)

    def relax(self, dtype: str = "float32") -> Any:
        """The Relax module, BatchNorm folded; what it computes with is of `dtype`."""
        params = fold_batch_norm(self.state, self.architecture, dtype=dtype)
        return relax_module(self.architecture, params)

    def images(self, seed: int) -> Floats:
        """A seeded random input [n, y, x, 3] of the spread that normalised images have."""
        count, resolution = self.architecture.input_shape[:2]
        random = np.random.default_rng(seed)
        return random_images(count, resolution, random).astype(np.float32)

    def reference(self, images: Floats) -> Floats:
        """Logits [n, classes] of any number of images [n, y, x, 3]: from float64, rounded once."""
        module = replace(self, architecture=replace(self.architecture, batch=1)).relax("float64")
        logits = [interpret(module, image[None]) for image in images]  # in the memory of one
        return np.concatenate(logits).astype(np.float32)
