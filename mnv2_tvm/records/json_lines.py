"""Files of JSON lines: append at once, read what is whole, replace as a whole.

A line that is not valid is named, skipped and kept: a crash may cut the last one short.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from filelock import FileLock

from mnv2_tvm.errors import UserError
from mnv2_tvm.files import write_whole
from mnv2_tvm.untrusted import parse_json, printable

_LONGEST = 2**16  # bytes of a line; ours have some hundred
_MOST_NAMED = 10  # of the lines of a file that are not valid

T = TypeVar("T")


class Line(NamedTuple, Generic[T]):
    """One line as it stands in the file, and what it says; None where that is not valid."""

    raw: bytes
    value: T | None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one object and push it to the disk. A cut last line before it stays a line.

    Raises UserError where that fails; then nothing was appended.
    """
    line = (json.dumps(value) + "\n").encode()
    with locked(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        if size and not _ends_a_line(path):
            line = b"\n" + line
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:  # of a full disk, after some of the bytes
            with suppress(OSError):
                file.truncate(size)
            raise


def read_lines(path: Path, parse: Callable[[Any], T]) -> list[Line[T]]:
    """All lines but blank ones; `parse` raises UserError for what is not valid.

    Lines that are not valid are named on stderr. A missing file has no lines. Raises UserError for
    one that cannot be read.
    """
    lines: list[Line[T]] = []
    bad = 0
    for number, raw in enumerate(_raw_lines(path), start=1):
        if not raw.strip():
            continue
        try:
            if len(raw) > _LONGEST:
                raise UserError(f"{len(raw)} bytes are no line of a log")
            table = parse_json(raw, "JSON")
            if not isinstance(table, dict):
                raise UserError("not a JSON object")
            lines.append(Line(raw, parse(table)))
        except UserError as error:
            bad += 1
            if bad <= _MOST_NAMED:
                warn(f"{path}:{number}: skipped: {printable(error)}")
            lines.append(Line(raw, None))
    if bad > _MOST_NAMED:
        warn(f"{path}: skipped {bad - _MOST_NAMED} more lines")
    return lines


def replace_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Replace the file in one step. Raises UserError where that fails; then nothing changed."""
    with naming(path):
        write_whole(path, b"".join(line + b"\n" for line in lines))


def warn(text: str) -> None:
    """Something about a log that its user should know, and that ends nothing."""
    print(f"warning: {text}", file=sys.stderr)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, by a lock file beside `path`. Raises UserError for an OSError."""
    with naming(path), FileLock(f"{path}.lock"):
        yield


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that names the log and what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {path}: {error.strerror or error}; what it holds is whole. Mend that "
            "or give --log-dir DIR, and run the command again"
        ) from error


def _raw_lines(path: Path) -> list[bytes]:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not an ordinary file; give another --log-dir")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return data.removeprefix(b"\xef\xbb\xbf").split(b"\n")  # an editor's byte-order mark


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
