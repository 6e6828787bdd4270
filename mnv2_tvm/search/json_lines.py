"""Files of JSON lines: append at once, read what is whole, replace as a whole.

A line that is not valid is named, skipped and kept: a crash may cut the last one short.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mnv2_tvm.errors import UserError

T = TypeVar("T")


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one object and push it to the disk. A cut last line before it stays a line."""
    line = (json.dumps(value) + "\n").encode()
    with path.open("ab") as file:
        if file.tell() and not _ends_a_line(path):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, parse: Callable[[dict[str, Any]], T]) -> tuple[list[T], list[str]]:
    """The parsed lines and the raw text of those that `parse` refuses with UserError.

    Refused lines are named on stderr. A missing file has no lines.
    """
    if not path.exists():
        return [], []
    good, bad = [], []
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise UserError("not a JSON object")
            good.append(parse(value))
        except (ValueError, UserError) as error:
            print(f"warning: {path}:{number}: skipped: {error}", file=sys.stderr)
            bad.append(line)
    return good, bad


def replace_lines(path: Path, lines: Iterable[str]) -> None:
    """Write all lines to a file beside `path` and move it there."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        text = "".join(f"{line}\n" for line in lines)
        scratch.write_text(text, encoding="utf-8", errors="surrogateescape")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
