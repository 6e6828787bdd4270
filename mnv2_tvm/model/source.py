"""The network a verb works on: architecture, weights, and the Relax module of both."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
from msgspec import Meta

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
from mnv2_tvm.untrusted import convert, printable


class Source(Protocol):
    """A network before compilation: what the verbs, the compiler and the workers know of it."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values from which `open_source` makes it again, with the file of its weights."""

    @property
    def weights(self) -> str:
        """Where its weights come from, to print."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of them."""

    def relax(self) -> Any:
        """The Relax module, with constants of float32."""

    def images(self, seed: int) -> Floats:
        """A seeded random input [n, y, x, c]."""

    def reference(self, images: Floats) -> Floats:
        """The right answer to any number of images."""


def open_source(
    identity: Mapping[str, Any], weights: Path | None = None, state: str | None = None
) -> "SourceNetwork":
    """The network of an identity, as a manifest has it.

    Random weights are made again from their seed; others come from the file `weights`, of several
    networks in it from the one that was built, or from `state`. Raises UserError where that file is
    missing, is another one, or is given to a network with random weights.
    """
    known = convert(identity, _Identity, "the manifest's network")
    architecture = Architecture(known.width, known.resolution, known.classes, known.batch)
    built = known.weights
    if weights is None and built.seed is None:
        raise UserError(
            f"the library was built with the weights {built.file}, which are needed to "
            "check its numbers; give --weights FILE"
        )
    if weights is not None and built.seed is not None:
        raise UserError(
            f"the library was built with random weights, not with {weights}; leave --weights out"
        )
    if weights is not None and state is None:
        state = built.file.removeprefix(f"{weights.name}, ")
        state = state if state != built.file else None
    source = SourceNetwork.make(architecture, weights, built.seed or 0, state)
    if built.sha256 and source.identity["weights"]["sha256"] != built.sha256:
        raise UserError(
            f"{weights} holds other weights than those that the library was built with, "
            f"{printable(built.file)}; give that file, or build the library again"
        )
    return source


class _Weights(msgspec.Struct):
    seed: Annotated[int, Meta(ge=0, lt=2**32)] | None = None  # of random ones
    file: Annotated[str, Meta(max_length=1000)] = ""  # its name, with the network's in it
    sha256: Annotated[str, Meta(max_length=64)] = ""  # of the numbers, whatever file holds them


class _Identity(msgspec.Struct):
    kind: Literal["mobilenet_v2"]
    width: float
    resolution: int
    classes: int
    batch: int
    weights: _Weights


@dataclass(frozen=True)
class SourceNetwork:
    """An architecture with weights."""

    architecture: Architecture
    state: State
    weights: str  # where they come from
    notes: tuple[str, ...] = ()  # what the user should know of them
    seed: int | None = None  # of random weights

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
            told = f"random, seed {seed}"
            return cls(architecture, random_state(architecture, seed), told, seed=seed)
        read = read_weights(weights, architecture, state)
        return cls(architecture, read.arrays, read.source, read.notes)

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values from which `open_source` makes it again."""
        shape = self.architecture
        weights: dict[str, Any] = {"seed": self.seed}
        if self.seed is None:
            weights = {"file": printable(self.weights), "sha256": _sha256(self.state)}
        return {
            "kind": "mobilenet_v2",
            **{"width": shape.width, "resolution": shape.resolution},
            **{"classes": shape.classes, "batch": shape.batch, "weights": weights},
        }

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


def _sha256(state: State) -> str:
    """Of the names and numbers of all tensors: the same from every form of file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{list(state[name].shape)}".encode())
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()
