"""Trained weights from a file, checked against the architecture they are for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.architecture import Architecture
from mnv2_tvm.model.checkpoint import open_checkpoint
from mnv2_tvm.model.fitting import fitting_options
from mnv2_tvm.model.naming import file_keys
from mnv2_tvm.model.states import COUNTER, Network, choose, is_counter
from mnv2_tvm.model.stored_tensors import OddTensor, StoredTensor, Tensor, is_real
from mnv2_tvm.untrusted import printable

SHOWN_KEYS = 3  # of a list of wrong ones


@dataclass(frozen=True)
class Weights:
    """The state dict of a file, and what its user should know of the choice."""

    arrays: dict[str, NDArray[Any]]  # torchvision's keys
    source: str  # "checkpoint.pth", with the name of the network where there are more
    notes: tuple[str, ...]


def load_weights(
    path: Path, architecture: Architecture, state: str | None = None
) -> dict[str, NDArray[Any]]:
    """The float32 state dict in torchvision's keys of a checkpoint file, as `read_weights` does.

    BatchNorm's counters of training steps come out as 0, an int64 without dimensions.
    """
    return read_weights(path, architecture, state).arrays


def read_weights(path: Path, architecture: Architecture, state: str | None = None) -> Weights:
    """The weights in a file of torch or safetensors, with the names of torchvision or timm.

    Flat or nested as training scripts save them; of several networks the one called `state`, by
    default averaged weights before others. Raises UserError, with the file's own name of the
    tensor, if any tensor is missing, unknown, misshapen or not of finite numbers.
    """
    with open_checkpoint(path) as file:
        network, others = choose(file.tree, architecture, state, file.what)
        keys = file_keys(architecture, network.shapes)
        keys = {key: name for key, name in keys.items() if not key.endswith(COUNTER)}
        _check_names(file.what, keys.values(), network)
        names = {key: network.prefix + name for key, name in keys.items()}  # as in the file
        tensors = {key: network.tensors[name] for key, name in keys.items()}
        plain = _plain_tensors(file.what, tensors, names)
        _check_shapes(file.what, plain, names, architecture)
        _check_types(file.what, plain, names)
        numbers = {key: file.float32(tensor) for key, tensor in plain.items()}
    _check_numbers(file.what, numbers, names)
    arrays: dict[str, NDArray[Any]] = {
        key: numbers[key] if key in numbers else np.zeros((), np.int64)
        for key in architecture.state_shapes()
    }
    source = f"{path.name}, {network.name}" if others else path.name
    return Weights(arrays, source, tuple(_notes(file.what, network, others)))


def _notes(what: str, network: Network, others: list[str]) -> list[str]:
    notes = []
    if others:
        notes.append(
            f"{what} hold several networks: {printable(network.name)} was taken, "
            f"--state takes another ({_shown(others)})"
        )
    if network.beside:
        notes.append(
            f"{what}: {_shown(network.beside)} left out, as the network is what begins with "
            f"{printable(network.prefix)}"
        )
    return notes


def _check_names(what: str, names: Collection[str], network: Network) -> None:
    missing = [network.prefix + name for name in names if name not in network.tensors]
    if missing:
        raise UserError(
            f"{what} lack {_shown(missing)}; this is not a whole MobileNetV2 with the "
            "names of torchvision or timm"
        )
    known = set(names)
    extra = [
        network.prefix + name
        for name, tensor in network.tensors.items()
        if name not in known and not is_counter(name, tensor)
    ]
    if extra:
        raise UserError(
            f"{what} hold {_shown(extra)}, which MobileNetV2 has not: they are of another "
            "network; give a MobileNetV2 of torchvision or timm"
        )


def _plain_tensors(
    what: str, tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> dict[str, StoredTensor]:
    plain = {}
    for key, tensor in tensors.items():
        if isinstance(tensor, OddTensor):
            raise UserError(f"{what}: {printable(names[key])} {tensor.what}; {tensor.remedy}")
        plain[key] = tensor
    return plain


def _check_shapes(
    what: str,
    tensors: Mapping[str, StoredTensor],
    names: Mapping[str, str],
    architecture: Architecture,
) -> None:
    wanted = architecture.state_shapes()
    for key, tensor in tensors.items():
        if tensor.shape != wanted[key]:
            fit = fitting_options({key: value.shape for key, value in tensors.items()})
            remedy = f"the file fits {fit}" if fit else "no width and number of classes fits it"
            raise UserError(
                f"{what}: {printable(names[key])} has shape {list(tensor.shape)}, but --width "
                f"{architecture.width} --classes {architecture.classes} needs "
                f"{list(wanted[key])}; {remedy}"
            )


def _check_types(what: str, tensors: Mapping[str, StoredTensor], names: Mapping[str, str]) -> None:
    for key, tensor in tensors.items():
        if not is_real(tensor.dtype):
            raise UserError(
                f"{what}: {printable(names[key])} is of {printable(tensor.dtype)}, not of real "
                "floating point; give the model from before it was quantized or converted"
            )


def _check_numbers(
    what: str, arrays: Mapping[str, NDArray[np.float32]], names: Mapping[str, str]
) -> None:
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{what}: {printable(names[key])} has numbers that are not finite in float32; the "
                "training diverged or the file is damaged, take an earlier checkpoint"
            )
        if key.endswith("running_var") and (array < 0).any():
            raise UserError(
                f"{what}: {printable(names[key])} is a variance with negative numbers; the file "
                "is damaged, take an earlier checkpoint"
            )


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return ", ".join(map(printable, names[:SHOWN_KEYS])) + more
