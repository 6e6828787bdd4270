"""Reading what comes from a file or another machine: bounded, checked, and safe to print.

Whatever is wrong with it becomes one UserError that names the source and the place in it. The
types are msgspec Structs, dataclasses or TypedDicts; constraints stand in their annotations, such
as `Annotated[float, msgspec.Meta(gt=0)]`.
"""

import errno
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from mnv2_tvm.errors import UserError

T = TypeVar("T")

MAX_BYTES = 16 * 2**20  # of a text that we read whole; the largest of ours has some 100 kB
_SHOWN = 200  # characters of a foreign text in a message

# C0 and C1 controls, which steer a terminal, and marks that turn the direction of writing.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, limit: int = _SHOWN) -> str:
    """Foreign text on one line, without anything that a terminal obeys, cut at `limit`."""
    cut = str(text)[: limit + 1]
    if len(cut) > limit:
        cut = cut[:limit] + "..."
    return _UNPRINTABLE.sub(" ", cut)


def decode_json(data: str | bytes, kind: type[T], source: str) -> T:
    """The JSON text `data`, which comes from `source`, as a `kind`.

    Raises UserError that starts with `source` for anything that is not a whole `kind`.
    """
    return convert(parse_json(data, source), kind, source)


def parse_json(data: str | bytes, source: str) -> Any:
    """The JSON text `data` as plain Python values. Raises UserError as `decode_json` does."""
    if isinstance(data, str):
        data = data.encode("utf-8", errors="surrogateescape")
    data = data.removeprefix(b"\xef\xbb\xbf")  # an editor's byte-order mark
    if len(data) > MAX_BYTES:
        raise UserError(f"{source}: {len(data)} bytes are too many")
    try:
        return msgspec.json.decode(data)
    except RecursionError as error:
        raise UserError(f"{source}: nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{source}: {printable(error)}") from error


def convert(value: Any, kind: type[T], source: str) -> T:
    """Plain Python values as a `kind`; infinite numbers and NaN are refused wherever they stand.

    Raises UserError that starts with `source` and says where in the value it is wrong.
    """
    try:
        if not _finite(value):
            raise UserError(f"{source}: has a number that is not finite")
        return msgspec.convert(value, kind)
    except RecursionError as error:
        raise UserError(f"{source}: nested too deeply") from error
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
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


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list) else True
