"""The names of a network's classes, as people keep them in files."""

import re
from pathlib import Path
from typing import Any

from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.untrusted import parse_json, read_bytes

_NUMBERED = re.compile(r"([0-9]{1,9})(?:\s*[:,;]\s*|\s+)(\S.*)")


def read_labels(path: Path, classes: int) -> list[str]:
    """The names of the classes in their order.

    The file has one name a line, or `NUMBER NAME` on every line, or is a JSON list of names or a
    JSON object of them by number. Empty lines at the end do not count. Raises UserError for another
    count, and where the numbers are not 0 to `classes` - 1, each once: no name is ever shifted.
    """
    what = f"labels {path}"
    data = read_bytes(path, what)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} are not UTF-8 text ({error.reason}); convert them") from error
    if text.lstrip().startswith(("[", "{")):
        labels = _from_json(what, parse_json(text, what))
    else:
        labels = _from_lines(what, [line.rstrip("\r") for line in text.rstrip().split("\n")])
    if len(labels) != classes:
        more = ""
        if len(labels) == classes + 1:
            more = "; the first may be a background class, which this network does not have"
        raise UserError(
            f"{what} have {len(labels)} names and the network has {classes} classes{more}; give "
            "one name a line, in the order of the classes"
        )
    return [printable(label) for label in labels]


def _from_json(what: str, table: Any) -> list[str]:
    if isinstance(table, dict):
        numbers = {key: int(key) for key in table if re.fullmatch("[0-9]{1,9}", key)}
        if len(numbers) < len(table):
            raise UserError(f"{what} are a JSON object whose keys are not the numbers of classes")
        table = _in_order(what, {number: table[key] for key, number in numbers.items()})
    if not isinstance(table, list) or not all(isinstance(name, str) for name in table):
        raise UserError(f"{what} are JSON, but neither a list of names nor an object of them")
    return table


def _from_lines(what: str, lines: list[str]) -> list[str]:
    if lines == [""]:
        return []
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if len(lines) < 2 or not all(numbered):
        return lines
    rows = [(int(match[1]), match[2]) for match in numbered if match]
    table = dict(rows)
    if len(table) < len(rows):
        raise UserError(f"{what} have a number twice; give each class one line")
    return _in_order(what, table)


def _in_order(what: str, table: dict[int, Any]) -> list[Any]:
    if sorted(table) != list(range(len(table))):
        raise UserError(
            f"{what} are numbered, but not from 0 to {len(table) - 1}; number the classes from 0 "
            "as the network does, or leave the numbers out"
        )
    return [table[number] for number in range(len(table))]
