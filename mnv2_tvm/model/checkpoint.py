"""Reading the tensors of a checkpoint file without running what may be in it."""

import re
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file

from mnv2_tvm.errors import UserError

PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"

# Where training scripts nest the weights. The averaged ones come first: timm evaluates those.
NESTS = ("state_dict_ema", "state_dict", "model")
# What DataParallel and DistributedDataParallel put before every key.
PARALLEL_PREFIX = "module."


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The flat name -> tensor of a `.pth`, `.pt`, `.bin` or `.safetensors` file, on the CPU.

    Raises UserError if the file is missing, damaged, of another kind, holds code or no tensors.
    """
    suffix = path.suffix.lower()
    if suffix not in (*PICKLE_SUFFIXES, SAFETENSORS_SUFFIX):
        known = ", ".join((*PICKLE_SUFFIXES, SAFETENSORS_SUFFIX))
        raise UserError(f"weights {path} have the suffix {path.suffix!r}; give a file of {known}")
    try:
        content = load_file(path) if suffix == SAFETENSORS_SUFFIX else _read_pickle(path)
    except OSError as error:
        raise UserError(
            f"weights {path} cannot be opened ({_first_line(error)}); check the path and the "
            "permissions of the file"
        ) from error
    except UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:  # a truncated file raises whatever its next byte leads to
        raise _damaged(path, _first_line(error)) from error
    return _flatten(path, content)


def _read_pickle(path: Path) -> Any:
    # torch warns of odd pickles before it refuses them: one report is enough.
    with warnings.catch_warnings(action="ignore"):
        return torch.load(path, map_location="cpu", weights_only=True)


def _refused(path: Path, error: UnpicklingError) -> UserError:
    """torch names the function or class of code in the file "GLOBAL"; anything else is damage."""
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    if forbidden is None:
        return _damaged(path, "not a pickle of tensors")
    return UserError(
        f"weights {path} are refused: to load them would run code stored in the file "
        f"({forbidden[1]}); where the model was trained, save the tensors alone with "
        "torch.save(model.state_dict(), ...)"
    )


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"weights {path} cannot be read, the file is truncated or of another kind ({reason}); "
        "copy or download it again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _flatten(path: Path, content: Any) -> dict[str, torch.Tensor]:
    if isinstance(content, dict):
        nested = (content[nest] for nest in NESTS if isinstance(content.get(nest), dict))
        content = next(nested, content)
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"weights {path} hold {_describe(content)} instead of a dict of tensors; "
            "save them with torch.save(model.state_dict(), ...)"
        )
    tensors: dict[str, torch.Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"weights {path} hold {_describe(value)} under {key!r} where a tensor should be; "
                "save them with torch.save(model.state_dict(), ...)"
            )
        name = key.removeprefix(PARALLEL_PREFIX)
        if name in tensors:
            raise UserError(f"weights {path} hold {name} twice, with and without {PARALLEL_PREFIX}")
        tensors[name] = value
    return tensors


def _describe(value: Any) -> str:
    return "an empty dict" if value == {} else f"a {type(value).__name__}"
