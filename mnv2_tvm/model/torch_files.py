"""The files that torch.save writes: an archive, or pickles and storages one after another."""

import io
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.pickle_machine import MAX_PICKLE_BYTES, read_pickle
from mnv2_tvm.model.stored_tensors import Storage
from mnv2_tvm.model.torch_values import CALLS, element_bytes, storage_of

ZIP_START = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that is no archive
_MAX_DIRECTORY = 4 * 2**20  # bytes of an archive's list of entries: 100 for each storage


class Checkpoint(NamedTuple):
    """What a file holds, its tensors described, and how to read their storages from it."""

    tree: Any
    storage: Callable[[Storage, int], bytes]  # no more bytes than given: ValueError
    order: str = "<"  # of the bytes of a number: the file is of a machine with the lowest first


def open_archive(stream: BinaryIO, size: int, what: str) -> Checkpoint:
    """An archive; `what` names it in a UserError. Raises anything for a damaged one."""
    bounded = _Bounded(stream)
    archive = zipfile.ZipFile(bounded)
    bounded.most = size
    entries = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    _check_kind(entries, roots, what)
    # torch.save stores its entries one after another: they cannot be more than the file.
    whole = sum(info.file_size for info in entries.values())
    stored = all(info.compress_type == zipfile.ZIP_STORED for info in entries.values())
    if not stored or whole > size or len(entries) < len(archive.infolist()):
        raise ValueError("its entries are compressed or overlap")
    root = roots[0]
    if entries[f"{root}data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise ValueError("a pickle of more bytes than weights need")
    tree = read_pickle(io.BytesIO(archive.read(f"{root}data.pkl")), CALLS, storage_of)
    order = ">" if _is_big_endian(archive, entries.get(f"{root}byteorder")) else "<"

    def read(storage: Storage, most: int) -> bytes:
        info = entries[f"{root}data/{storage.key}"]
        check_length(info.file_size, most)
        return archive.read(info)

    return Checkpoint(tree, read, order)


def _check_kind(entries: dict[str, zipfile.ZipInfo], roots: list[str], what: str) -> None:
    if any(name.endswith("/constants.pkl") for name in entries):
        raise UserError(
            f"{what} are a TorchScript archive, a program; save its tensors alone "
            "with torch.save(torch.jit.load(FILE).state_dict(), ...)"
        )
    if any(name.endswith("/archive_format") for name in entries):
        raise UserError(
            f"{what} are a program of torch.export; save its tensors alone "
            "with torch.save(torch.export.load(FILE).state_dict, ...)"
        )
    if "model.weights.h5" in entries:
        raise UserError(f"{what} are a Keras model; give weights of torchvision or timm")
    if len(roots) != 1:
        raise UserError(
            f"{what} are a zip archive that torch.save did not write; unpack it and give the "
            ".pth or .safetensors file"
        )


def _is_big_endian(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> bool:
    return info is not None and info.file_size < 10 and archive.read(info) == b"big"


def is_old(head: bytes) -> bool:
    """Whether a file that begins so is of torch without an archive: the number is in its start."""
    return _MAGIC.to_bytes(10, "little") in head[:32] or str(_MAGIC).encode() in head[:32]


def open_old(stream: BinaryIO, size: int) -> Checkpoint:
    """A file as torch saved it until version 1.6. Raises anything for a damaged one."""
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Any:
        found = storage_of(identity)
        if isinstance(found, Storage):  # the first one counts the elements of the file
            storages.setdefault(found.key, found)
        return found

    pickles = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
    for _ in ("the magic number", "version", "sizes of the writer's types"):
        read_pickle(pickles, CALLS, persistent)
    tree = read_pickle(pickles, CALLS, persistent)
    keys = read_pickle(pickles, CALLS, persistent)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("a list of storages that is none")
    places: dict[str, tuple[int, int]] = {}
    start = pickles.tell()
    for key in keys:
        stream.seek(start)
        count = int.from_bytes(stream.read(8), "little")
        length = count * element_bytes(storages[key])
        places[key] = (start + 8, length)
        start += 8 + length
        if start > size:
            raise ValueError("its storages are not whole")

    def read(storage: Storage, most: int) -> bytes:
        start, length = places[storage.key]
        check_length(length, most)
        stream.seek(start)
        return stream.read(length)

    return Checkpoint(tree, read)


def check_length(length: int, most: int) -> None:
    """Raises ValueError for a storage of more bytes than may be read."""
    if length > most:
        raise ValueError("its tensors are views of more bytes than weights need")


class _Bounded:
    """A file of which no more is read at once than may be: an archive's list claims its length."""

    def __init__(self, stream: BinaryIO) -> None:
        self.most = _MAX_DIRECTORY
        self.tell, self.seekable, self.seek = stream.tell, stream.seekable, stream.seek
        self._stream = stream

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(self.most + 1 if count < 0 else min(count, self.most + 1))
        if len(data) > self.most:
            raise ValueError("a list of entries of more bytes than weights need")
        return data
