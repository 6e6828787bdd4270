"""Trained weights from a file, checked against the architecture they are for."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.architecture import Architecture
from mnv2_tvm.model.checkpoint import read_checkpoint
from mnv2_tvm.model.fitting import fitting_options
from mnv2_tvm.model.naming import file_keys
from mnv2_tvm.untrusted import printable

COUNTER = "num_batches_tracked"  # of training only
SHOWN_KEYS = 3  # of a list of wrong ones


def load_weights(path: Path, architecture: Architecture) -> dict[str, NDArray[Any]]:
    """The float32 state dict in torchvision's keys of a file with torchvision's or timm's names.

    Reads `.pth`, `.pt`, `.bin` and `.safetensors`, flat or nested as training scripts save them.
    BatchNorm's counters of training steps come out as 0. Raises UserError, with the file's own
    name of the tensor, if any tensor is missing, unknown, misshapen or not of finite numbers.
    """
    tensors = read_checkpoint(path)
    names = {key: name for key, name in file_keys(architecture, tensors).items() if _kept(key)}
    _check_names(path, names.values(), tensors)
    state = {key: tensors[name] for key, name in names.items()}
    _check_shapes(path, state, names, architecture)
    _check_kinds(path, state, names)
    dense = {key: _dense(tensor) for key, tensor in state.items()}
    _check_numbers(path, dense, names)
    return {
        key: dense[key].numpy() if _kept(key) else np.zeros((), np.int64)
        for key in architecture.state_shapes()
    }


def _kept(key: str) -> bool:
    return not key.endswith(COUNTER)


def _check_names(path: Path, names: Collection[str], tensors: Mapping[str, torch.Tensor]) -> None:
    missing = [name for name in names if name not in tensors]
    if missing:
        raise UserError(
            f"weights {path} lack {_shown(missing)}; this is not a whole MobileNetV2 with the "
            "names of torchvision or timm"
        )
    known = set(names)
    extra = [name for name in tensors if name not in known and _kept(name)]
    if extra:
        raise UserError(
            f"weights {path} hold {_shown(extra)}, which MobileNetV2 has not: they are of another "
            "network; give a MobileNetV2 of torchvision or timm"
        )


def _check_shapes(
    path: Path,
    state: Mapping[str, torch.Tensor],
    names: Mapping[str, str],
    architecture: Architecture,
) -> None:
    wanted = architecture.state_shapes()
    for key, tensor in state.items():
        if tensor.shape != wanted[key]:
            fit = fitting_options({key: tuple(value.shape) for key, value in state.items()})
            remedy = f"the file fits {fit}" if fit else "no width and number of classes fits it"
            raise UserError(
                f"weights {path}: {names[key]} has shape {list(tensor.shape)}, but --width "
                f"{architecture.width} --classes {architecture.classes} needs "
                f"{list(wanted[key])}; {remedy}"
            )


def _check_kinds(path: Path, state: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> None:
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise UserError(
                f"weights {path}: {names[key]} is of {tensor.dtype}, not of real floating point; "
                "give the model from before it was quantized or converted"
            )
        if tensor.is_meta:
            raise UserError(
                f"weights {path}: {names[key]} has a shape and no numbers; save the model from "
                "where its weights are loaded"
            )


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of its own in float32, of one that may be sparse, a view or a Parameter."""
    plain = tensor.detach()
    plain = plain if plain.layout == torch.strided else plain.to_dense()
    return plain.to(torch.float32).resolve_neg().contiguous()


def _check_numbers(path: Path, state: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> None:
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"weights {path}: {names[key]} has numbers that are not finite in float32; the "
                "training diverged or the file is damaged, take an earlier checkpoint"
            )
        if key.endswith("running_var") and (tensor < 0).any():
            raise UserError(
                f"weights {path}: {names[key]} is a variance with negative numbers; the file is "
                "damaged, take an earlier checkpoint"
            )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return ", ".join(map(printable, names[:SHOWN_KEYS])) + more
