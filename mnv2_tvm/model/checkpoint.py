"""Reading the tensors of a checkpoint file without running what may be in it."""

import io
import os
import re
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.pickle_check import ForbiddenCall, NewerProtocol, check_pickle
from mnv2_tvm.untrusted import open_file, printable

PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"
ZIP_START = b"PK\x03\x04"
# Before the storages of a file that is no archive: a magic number, a version, the writer's machine,
# the tensors, the order of their storages.
LEGACY_PICKLES = 5

MAX_BYTES = 2 * 2**30  # of a file: weights of width 1.4 and an optimizer's state have 0.1 GB
MAX_HEADER_BYTES = 16 * 2**20  # of a safetensors file

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
    with open_file(path, f"weights {path}") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_BYTES:
            raise UserError(
                f"weights {path} have {size / 2**30:.1f} GB and MobileNetV2 at most 0.03; give a "
                "file with its weights alone"
            )
        try:
            read = _read_safetensors if suffix == SAFETENSORS_SUFFIX else _read_pickle
            content = read(path, stream, size)
        except UserError:
            raise
        except ForbiddenCall as error:
            raise _refused(path, str(error)) from error
        except UnpicklingError as error:
            # torch names a function or class in the file "GLOBAL"; the rest of its advice, to
            # load the file unsafely, is nothing to pass on.
            name = re.search(r"GLOBAL (\S{1,200}) ", str(error)[:1000])
            raise (
                _refused(path, name[1]) if name else _damaged(path, "not a pickle of tensors")
            ) from error
        except Exception as error:  # a truncated file raises whatever its next byte leads to
            raise _damaged(path, _first_line(error)) from error
    return _flatten(path, content)


def _read_safetensors(path: Path, stream: BinaryIO, size: int) -> Any:
    header_bytes = int.from_bytes(stream.read(8), "little")
    if header_bytes > min(size, MAX_HEADER_BYTES):
        raise ValueError(f"a header of {header_bytes} bytes")
    return load_file(path)


def _read_pickle(path: Path, stream: BinaryIO, size: int) -> Any:
    source: BinaryIO = stream
    try:
        if stream.read(len(ZIP_START)) == ZIP_START:
            _check_zip(path, stream, size)
        else:
            stream.seek(0)
            source = io.BytesIO(stream.read(size))  # torch would look for a tar archive in a file
            for _ in range(LEGACY_PICKLES):
                check_pickle(source)
    except NewerProtocol as error:
        raise UserError(
            f"weights {path} are a pickle of protocol {error}, which torch does not read back "
            "safely; save them again with torch.save(model.state_dict(), ...) as it does by default"
        ) from error
    source.seek(0)
    # torch warns of odd pickles before it refuses them: one report is enough.
    with warnings.catch_warnings(action="ignore"):
        return torch.load(source, map_location="cpu", weights_only=True)


def _check_zip(path: Path, stream: BinaryIO, size: int) -> None:
    """Refuse an archive that is not as torch.save writes it, with what its pickle may not do."""
    with zipfile.ZipFile(stream) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        if any(name.endswith("/constants.pkl") for name in infos):
            raise UserError(
                f"weights {path} are a TorchScript archive, a program; save its tensors alone "
                "with torch.save(torch.jit.load(FILE).state_dict(), ...)"
            )
        # torch.save stores its entries one after another: they cannot be more than the file.
        whole = sum(info.file_size for info in archive.infolist())
        if whole > size or len(infos) < len(archive.infolist()):
            raise ValueError("its entries are compressed or overlap")
        for name, info in infos.items():
            if name.endswith("/data.pkl"):
                check_pickle(io.BytesIO(archive.read(info)))


def _refused(path: Path, name: str) -> UserError:
    return UserError(
        f"weights {path} are refused: to load them would run code stored in the file "
        f"({printable(name)}); where the model was trained, save the tensors alone with "
        "torch.save(model.state_dict(), ...)"
    )


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"weights {path} cannot be read, the file is truncated or of another kind ({reason}); "
        "copy or download it again"
    )


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0]
    # torch's own remedy may be to load the file unsafely.
    return printable(line) if line and "weights_only" not in line else type(error).__name__


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
                f"weights {path} hold {_describe(value)} under {printable(repr(key))} where "
                "a tensor should be; save them with torch.save(model.state_dict(), ...)"
            )
        name = key.removeprefix(PARALLEL_PREFIX)
        if name in tensors:
            raise UserError(
                f"weights {path} hold {printable(name)} twice, with and without {PARALLEL_PREFIX}"
            )
        tensors[name] = value
    return tensors


def _describe(value: Any) -> str:
    return "an empty dict" if value == {} else f"a {type(value).__name__}"
