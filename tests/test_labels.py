"""Files of labels: every form that is handed around, and no name that is ever shifted."""

import json
import os
from pathlib import Path

import pytest

from mnv2_tvm.errors import UserError
from mnv2_tvm.labels import read_labels

NAMES = ["tench", "cock, rooster", "jack-o'-lantern", "10 euro", "café"]
COUNT = len(NAMES)
ORDER = [0, 1, 3, 2, 4]


def read(tmp_path: Path, content: str | bytes, classes: int = COUNT) -> list[str]:
    path = tmp_path / "labels"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labels(path, classes)


def refusal(tmp_path: Path, content: str | bytes, classes: int = COUNT) -> str:
    with pytest.raises(UserError, match="labels ") as caught:
        read(tmp_path, content, classes)
    return str(caught.value)


LINES = "\n".join(NAMES)


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES + "\n",
        LINES + "\n\n \r\n",
        "\ufeff" + LINES.replace("\n", "\r\n"),
        LINES.replace("\n", "\r"),
        json.dumps(NAMES),
        "\ufeff\n" + json.dumps(NAMES, indent=0) + "\n",
        json.dumps({str(i): NAMES[i] for i in ORDER}),
        json.dumps({NAMES[i]: i for i in ORDER}),
        *(
            "\n".join(f"{i}{separator}{NAMES[i]}" for i in ORDER)
            for separator in (" ", "\t", ": ", ",", ". ", ":")
        ),
        "{" + ",\n ".join(f"{i}: {NAMES[i]!r}" for i in ORDER) + "}",
        "{\n" + "".join(f"{i}: {NAMES[i]!r},\n" for i in ORDER) + "}\n",
    ],
)
def test_the_same_names(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == NAMES


def test_identifiers_of_imagenet_stay(tmp_path: Path) -> None:
    """They are no numbers: "n01440764 tench"; in Keras' file they stand beside the name."""
    assert read(tmp_path, "n01440764 tench\nn01443537 goldfish", 2)[1] == "n01443537 goldfish"
    keras = json.dumps({"1": ["n01443537", "goldfish"], "0": ["n01440764", "tench"]})
    assert read(tmp_path, keras, 2) == ["n01440764 tench", "n01443537 goldfish"]


def test_numbers_may_be_names(tmp_path: Path) -> None:
    assert read(tmp_path, "3\n1\n2", 3) == ["3", "1", "2"]
    assert read(tmp_path, '["20 km/h", "30 km/h"]', 2) == ["20 km/h", "30 km/h"]
    assert read(tmp_path, "stop\n30 km/h", 2) == ["stop", "30 km/h"]


def test_names_are_what_can_be_printed_of_them(tmp_path: Path) -> None:
    assert read(tmp_path, "a\u2028\x1bb\n c, d\n\nd", 4) == ["a  b", " c, d", "", "d"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (json.dumps(NAMES[:3], indent=0), "3 names"),  # with its brackets it has five lines
        ("", "0 names"),
        ("1 a\n2 b\n3 c\n4 d\n5 e", "class 0"),
        ("0 a\n1 b\n1 c\n2 d\n3 e", "class 1 twice"),
        ("0 a\n1 b\n2 c\n3 d\n7 e", "class 4"),
        ('{"0": "a", "one": "b"}', "'one'"),
        ('{"a": -1, "b": 0}', "class 1"),
        ('["a", 2, "c", "d", "e"]', "$[1]"),
        ('["a",\n"b",\n"c",\n"d",\n]', "JSON"),
        ('{"a": {"b": 1}}', "$"),
        ("[" * 100_000, "nested"),
        ('{"a": ' + "9" * 5000 + "}", "$"),
        (b"caf\xe9\n", "UTF-8"),
        ("a\n" * 9_000_000, "16777216"),
        (json.dumps({"x" * 100_000: "a"}), "number"),
        # For regular expressions that try again: they would take minutes.
        ("0: 'a'" + " " * 300_000 + "x", "1 names"),
        ("{0:" + " " * 300_000 + "'" * 300_000 + ",", "class"),
        (" " * 300_000 + "\n" + "1" * 300_000 + " " * 300_000 + ":\nx", "3 names"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, content: str | bytes, named: str) -> None:
    message = refusal(tmp_path, content)
    assert named in message and len(message) < 1000


@pytest.mark.parametrize("classes", [COUNT - 1, COUNT + 1])
def test_a_background_class_is_suspected(tmp_path: Path, classes: int) -> None:
    message = refusal(tmp_path, LINES, classes)
    assert f"{COUNT} names" in message and f"{classes} classes" in message
    assert "background" in message


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (("none", "No such file"), (".", "directory"), ("fifo", "ordinary")):
        with pytest.raises(UserError, match=reason):
            read_labels(tmp_path / name, 1)
