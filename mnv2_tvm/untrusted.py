"""Reading what comes from a file or another machine: bounded, checked, and safe to print.

Whatever is wrong with it becomes one UserError that names the source and the place in it. The
types are msgspec Structs, dataclasses or TypedDicts; constraints stand in their annotations, such
as `Annotated[float, msgspec.Meta(gt=0)]`.
"""

import errno
import math
import os
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from mnv2_tvm.errors import UserError
from mnv2_tvm.errors import printable as printable

T = TypeVar("T")

MAX_BYTES = 16 * 2**20  # of a text that we read whole; the largest of ours has some 100 kB
_MAX_JSON = 4 * 2**20  # as Python values it takes up to 24 times as much memory: `[[],[],...`
_DEEPEST = 64  # levels of nesting: printing or comparing what has fewer never recurses too deep


def decode_json(data: str | bytes, kind: type[T], source: str) -> T:
    """The JSON text `data`, which comes from `source`, as a `kind`.

    Raises UserError that starts with `source` for anything that is not a whole `kind`.
    """
    return convert(parse_json(data, source), kind, source)


def parse_json(data: str | bytes, source: str) -> Any:
    """The JSON text `data` as plain Python values. Raises UserError as `decode_json` does.

    Of a key that stands there twice the last value counts, as in Python's own `json`.
    """
    if len(data) > _MAX_JSON:
        raise UserError(f"{source}: {len(data)} bytes of JSON are too many")
    try:
        if isinstance(data, str):
            data = data.encode("utf-8", errors="surrogateescape")
        return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))  # a byte-order mark
    except RecursionError as error:
        raise UserError(f"{source}: nested too deeply") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise UserError(f"{source}: {printable(error)}") from error


def convert(value: Any, kind: type[T], source: str) -> T:
    """Plain Python values as a `kind`.

    Refused wherever they stand are infinite numbers, NaN and integers of more than 64 bits: with
    what is left no arithmetic overflows. Raises UserError that starts with `source` and says where
    in the value it is wrong.
    """
    try:
        if (place := _extreme(value)) is not None:
            why = f"a number that is infinite, NaN or beyond 64 bits - at `${place}`"
            raise UserError(f"{source}: {printable(why)}")
        return msgspec.convert(value, kind)
    except RecursionError as error:
        raise UserError(f"{source}: nested too deeply") from error
    except (msgspec.ValidationError, ValueError) as error:
        raise UserError(f"{source}: {printable(error)}") from error


def open_file(path: Path, what: str) -> BinaryIO:
    """Open an ordinary file to read its bytes. `what` names it in an error: `labels names.txt`.

    Raises UserError where it cannot be opened, or is a folder, a pipe or a device.
    """
    try:
        if not path.is_file():  # a FIFO would wait for ever, /dev/zero never end
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if path.exists():
                raise UserError(f"{what} is not an ordinary file; give the path of one")
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return path.open("rb")
    except OSError as error:
        raise _not_opened(what, error) from error
    except ValueError as error:  # a NUL in the path
        raise UserError(f"{what} cannot be opened ({error})") from error


def read_bytes(path: Path, what: str, limit: int = MAX_BYTES) -> bytes:
    """All bytes of an ordinary file. `what` names it in an error, as in `labels names.txt`.

    Raises UserError where it cannot be opened, is a pipe or a device, or has more than `limit`.
    """
    with open_file(path, what) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise _not_opened(what, error) from error
    if len(data) > limit:
        raise UserError(f"{what} is larger than {limit} bytes; this is not what it should be")
    return data


def _not_opened(what: str, error: OSError) -> UserError:
    return UserError(
        f"{what} cannot be opened ({error.strerror}); check the path and the permissions"
    )


def _extreme(value: Any, depth: int = 0) -> str | None:
    """Where in the value there is a number that is not finite, or an integer beyond 64 bits.

    None if there is none. Spelt as msgspec does: `.layers[3].flops`. Raises RecursionError for a
    value that is nested too deeply.
    """
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else ""
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        for key, item in value.items():
            if (place := _extreme(item, depth + 1)) is not None:
                return f".{key}{place}"
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            if (place := _extreme(item, depth + 1)) is not None:
                return f"[{number}]{place}"
    return None
