"""Safetensors: a header in JSON and the numbers behind it; large ones are in several files.

The format is at https://huggingface.co/docs/safetensors. It is read here, as the package of that
name knows no bfloat16 in numpy and opens a path a second time; its checks of the header are kept.
"""

from math import prod
from pathlib import PurePath
from typing import Annotated, BinaryIO

import msgspec

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.stored_tensors import MAX_DIMENSIONS, Storage, StoredTensor, contiguous
from mnv2_tvm.model.torch_files import Checkpoint, check_length
from mnv2_tvm.untrusted import convert, decode_json, parse_json

_MAX_HEADER_BYTES = 4 * 2**20  # MobileNetV2's has 30 000
_MAX_SHARDS = 100
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")

# torch's name of a type, and its bytes.
_DTYPES = {
    **{"F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2)},
    **{"BF16": ("bfloat16", 2), "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2)},
    **{"I8": ("int8", 1), "U8": ("uint8", 1), "BOOL": ("bool", 1), "C64": ("complex64", 8)},
    **{"U64": ("uint64", 8), "U32": ("uint32", 4), "U16": ("uint16", 2)},
    **{"F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1)},
}
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]


class _Entry(msgspec.Struct):
    """A tensor: its offsets count from the end of the header."""

    dtype: str
    shape: Annotated[list[_Count], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Count, _Count]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]  # tensor -> file


def open_safetensors(stream: BinaryIO, size: int) -> Checkpoint:
    """A file of tensors. Raises ValueError for a damaged one."""
    length = int.from_bytes(stream.read(8), "little")
    if length > min(_MAX_HEADER_BYTES, size):
        raise ValueError(f"a header of {length} bytes")
    try:
        header = parse_json(stream.read(length), "its header")
        if isinstance(header, dict):
            header.pop("__metadata__", None)
        entries = convert(header, dict[str, _Entry], "its header")
    except UserError as error:
        raise ValueError(str(error)) from error
    places = _places(entries, 8 + length, size)

    def read(storage: Storage, most: int) -> bytes:
        start, count = places[storage.key]
        check_length(count, most)
        stream.seek(start)
        return stream.read(count)

    return Checkpoint({name: _tensor(name, entry) for name, entry in entries.items()}, read)


def _places(entries: dict[str, _Entry], start: int, size: int) -> dict[str, tuple[int, int]]:
    """Where the bytes of each tensor are: (from, length).

    Raises ValueError unless each has those of its shape and all of them fill the file.
    """
    end, places = start, {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        first, last = (start + offset for offset in entry.data_offsets)
        wanted = last - first
        if entry.dtype in _DTYPES:
            wanted = _DTYPES[entry.dtype][1] * prod(entry.shape)
        if first != end or wanted < 0 or last - first != wanted:
            raise ValueError(f"the place of {name} is wrong")
        places[name], end = (first, wanted), last
    if end != size:
        raise ValueError("its tensors do not fill it")
    return places


def _tensor(name: str, entry: _Entry) -> StoredTensor:
    dtype = _DTYPES.get(entry.dtype, (entry.dtype.lower(), 0))[0]
    shape = tuple(entry.shape)
    return StoredTensor(Storage(name, dtype), dtype, 0, shape, contiguous(shape))


def shards_of(data: bytes, source: str) -> dict[str, list[str]]:
    """The names of tensors by the file that holds them, of an index with the text `data`.

    `source` names it in a UserError, which is raised for one that is damaged, or names a file that
    is not in its own folder.
    """
    shards: dict[str, list[str]] = {}
    for tensor, file in decode_json(data, _Index, source).weight_map.items():
        if PurePath(file).name != file or "\\" in file or not file.endswith(_SUFFIXES):
            raise ValueError(f"it names {file}, which is no file of tensors beside it")
        shards.setdefault(file, []).append(tensor)
    if len(shards) > _MAX_SHARDS:
        raise ValueError(f"it names {len(shards)} files")
    return shards
