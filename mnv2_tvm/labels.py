"""The names of the classes, from a file in one of the forms that they are handed around in."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.untrusted import convert, parse_json, read_bytes

# "17 name", "17: name", "17,name"; a number alone is a name, as of digits.
_NUMBERED = re.compile(r"\s*([0-9]{1,9})(?:\s*[:,;=)]\s*|\.\s+|\s+)(\S.*)")
# An entry of a Python dict, the form of the best known list of ImageNet's names.
_PYTHON_ENTRY = re.compile(r"""([0-9]{1,9})\s*:\s*(['"])(.*)\2""")
_LINES = "give one name a line, in the order of the classes, or a JSON list"


def read_labels(path: Path, classes: int) -> list[str]:
    """The names of the classes in their order.

    From lines, in order or numbered from 0; a JSON list; a JSON object from numbers to names or
    from names to numbers. Raises UserError where it is none, or not of `classes` names.
    """
    source = f"labels {path}"
    data = read_bytes(path, source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} are not UTF-8 text ({error.reason}); convert them") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    entries = [_PYTHON_ENTRY.fullmatch(_bare(line)) for line in lines if _bare(line)]
    if text.lstrip().startswith(("[", "{")) and not all(entries):
        labels = _from_json(data, source)
    elif lines and all(entries):
        labels = _by_number(((entry[1], entry[3]) for entry in entries if entry), source)
    else:
        labels = _from_lines(lines, source)
    if len(labels) != classes:
        raise UserError(
            f"{source} have {len(labels)} names and the network has {classes} classes; "
            f"{_remedy(len(labels) - classes)}"
        )
    return [printable(label) for label in labels]


def _remedy(surplus: int) -> str:
    if surplus == 1:
        return "if the first is a background, as in TensorFlow's lists, take it out"
    if surplus == -1:
        return "if the network has a background class first, as TensorFlow's have, add its name"
    return _LINES


def _bare(line: str) -> str:
    """A line without the braces and the comma that a Python dict has around its entries."""
    inside = line.strip().removeprefix("{").removesuffix("}").rstrip()
    return inside.removesuffix(",").strip()


def _from_lines(lines: list[str], source: str) -> list[str]:
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        return _by_number(((line[1], line[2]) for line in numbered if line), source)
    return lines


def _from_json(data: bytes, source: str) -> list[str]:
    value = parse_json(data, source)
    if isinstance(value, list):
        return convert(value, list[str], source)
    table: dict[str, Any] = convert(value, dict[str, int | str | list[str]], source)
    if all(isinstance(number, int) for number in table.values()):
        return _by_number(((number, name) for name, number in table.items()), source)
    return _by_number(
        (
            (number, " ".join(name) if isinstance(name, list) else str(name))
            for number, name in table.items()
        ),
        source,
    )


def _by_number(pairs: Iterable[tuple[int | str, str]], source: str) -> list[str]:
    """The names in the order of their numbers, which must be 0, 1, 2 and so on."""
    names: dict[int, str] = {}
    for number, name in pairs:
        if isinstance(number, str) and not re.fullmatch("[0-9]{1,9}", number):
            raise UserError(
                f"{source} name class {printable(repr(number))}, which is no number; {_LINES}"
            )
        if int(number) in names:
            raise UserError(f"{source} name class {int(number)} twice; {_LINES}")
        names[int(number)] = name
    wrong = next((number for number in range(len(names)) if number not in names), None)
    if wrong is not None:
        raise UserError(
            f"{source} have {len(names)} names with numbers, and none for class {wrong}; number "
            "them from 0, or give a JSON list if the numbers belong to the names"
        )
    return [names[number] for number in range(len(names))]
