"""Opening a checkpoint file: its tree of values and the numbers of its tensors, nothing run."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.file_kinds import HEAD_BYTES, kind_of
from mnv2_tvm.model.safetensors_files import open_safetensors, shards_of
from mnv2_tvm.model.stored_tensors import Storage, StoredTensor, float32_of
from mnv2_tvm.model.torch_files import ZIP_START, Checkpoint, is_old, open_archive, open_old
from mnv2_tvm.untrusted import open_file, printable

_MAX_BYTES = 2 * 2**30  # of a file: weights of width 1.4 and an optimizer's state have 0.1 GB
_MAX_INDEX = 4 * 2**20  # bytes; what is cut there is refused
_MAX_ELEMENTS = 2**27  # of a tensor: a classifier for 100 000 classes
_MAX_READ = 512 * 2**20  # of the storages of one network: width 1.4 in float64 has 0.05 GB


@dataclass
class OpenCheckpoint:
    """A file that is open, or the several of an index."""

    what: str  # "weights FILE", for errors
    checkpoint: Checkpoint
    _storages: dict[str, bytes] = field(default_factory=dict)  # read so far

    @property
    def tree(self) -> Any:
        """Dicts, lists and records with tensors in them."""
        return self.checkpoint.tree

    def float32(self, tensor: StoredTensor) -> NDArray[np.float32]:
        """The numbers of a tensor, of whose shape and type the caller knows that they are right.

        Raises UserError where the file is damaged.
        """
        with _told_as_damage(self.what):
            if tensor.size > _MAX_ELEMENTS:  # with strides of 0 a storage may be small
                raise ValueError(f"a tensor of {tensor.size} numbers")
            return float32_of(tensor, self._bytes(tensor.storage), self.checkpoint.order)

    def _bytes(self, storage: Storage) -> bytes:
        if storage.key not in self._storages:  # weights may be views of one
            left = _MAX_READ - sum(map(len, self._storages.values()))
            self._storages[storage.key] = self.checkpoint.storage(storage, left)
        return self._storages[storage.key]


@contextmanager
def open_checkpoint(path: Path) -> Iterator[OpenCheckpoint]:
    """The content of a file that torch.save or safetensors wrote, or of an index of such files.

    Raises UserError if the file is missing, damaged, too large or of another kind.
    """
    with ExitStack() as files:
        yield OpenCheckpoint(f"weights {path}", _open(path, files))


def _open(path: Path, files: ExitStack, shard: bool = False) -> Checkpoint:
    what = f"weights {path}"
    stream = files.enter_context(open_file(path, what))
    size = os.fstat(stream.fileno()).st_size
    if size > _MAX_BYTES:
        raise UserError(
            f"{what} have {size / 2**30:.1f} GB and MobileNetV2 at most 0.03; give a "
            "file with its weights alone"
        )
    with _told_as_damage(what):
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        if head.startswith(ZIP_START):
            return open_archive(stream, size, what)
        if is_old(head):
            return open_old(stream, size)
        # An index is text too: as the length of a header it would be enormous.
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
            return open_safetensors(stream, size)
        if head.startswith(b"{") and not shard:
            return _open_index(path, stream, files)
        if head.startswith(b"\x80"):
            raise UserError(
                f"{what} are a pickle that torch.save did not write; "
                "save the weights with torch.save(model.state_dict(), ...)"
            )
        if (kind := kind_of(head)) is not None:
            raise UserError(f"{what} are {kind[0]}; {kind[1]}")
        raise ValueError("its first bytes are of no checkpoint")


def _open_index(path: Path, stream: BinaryIO, files: ExitStack) -> Checkpoint:
    """The tensors of several files; the key of a storage begins with the number of its file."""
    tree: dict[str, Any] = {}
    shards: list[Checkpoint] = []
    for name, tensors in shards_of(stream.read(_MAX_INDEX + 1), f"weights {path}").items():
        shard = _open(path.parent / name, files, shard=True)
        for tensor in tensors:
            if not isinstance(shard.tree, dict) or tensor not in shard.tree:
                raise ValueError(f"{name} has no {tensor}, which the index says is there")
            tree[tensor] = _of_shard(shard.tree[tensor], len(shards))
        shards.append(shard)
    if any(shard.order != "<" for shard in shards):
        raise ValueError("files of a machine with the highest byte first, in an index")

    def read(storage: Storage, most: int) -> bytes:
        number, key = storage.key.split(" ", 1)
        return shards[int(number)].storage(Storage(key, storage.dtype), most)

    return Checkpoint(tree, read)


def _of_shard(tensor: Any, number: int) -> Any:
    if not isinstance(tensor, StoredTensor):
        return tensor
    storage = Storage(f"{number} {tensor.storage.key}", tensor.storage.dtype)
    return replace(tensor, storage=storage)


@contextmanager
def _told_as_damage(what: str) -> Iterator[None]:
    """Whatever goes wrong becomes a UserError: what does depends on the bytes of the damage."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = printable((str(error).splitlines() or [type(error).__name__])[0])
        raise UserError(
            f"{what} cannot be read, the file is truncated or of another kind ({reason}); "
            "copy or download it again"
        ) from error
