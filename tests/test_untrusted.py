"""Hostile text becomes one short, harmless sentence; memory and time stay small."""

import os
import pickle
import tracemalloc
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from mnv2_tvm.errors import UserError
from mnv2_tvm.untrusted import convert, decode_json, parse_json, printable, read_bytes

SOURCE = "board 10.0.0.7"
CONTROLS = {*range(0x20), *range(0x7F, 0xA0)}


@dataclass(frozen=True)
class Layer:
    name: str
    flops: int
    times: tuple[float, ...] = ()


class Answer(msgspec.Struct):
    layers: list[Layer]
    clock_mhz: Annotated[float, msgspec.Meta(gt=0)] | None = None
    note: Any = None


GOOD = b'{"layers": [{"name": "a", "flops": 7, "times": [1, 2.5]}], "clock_mhz": 1500}'


def refused(data: str | bytes, kind: Any = Answer) -> str:
    """What is said of a text that is no `kind`: from its source on, one bounded harmless line."""
    with pytest.raises(UserError) as caught:
        decode_json(data, kind, SOURCE)
    words = str(caught.value)
    assert words.startswith(f"{SOURCE}: ") and len(words) < 300
    assert not CONTROLS & set(map(ord, words))
    return words


def test_a_whole_answer_is_taken_with_a_byte_order_mark_too() -> None:
    for data in (GOOD, b"\xef\xbb\xbf" + GOOD, GOOD.decode(), "\ufeff" + GOOD.decode()):
        answer = decode_json(data, Answer, SOURCE)
        assert answer == Answer([Layer("a", 7, (1.0, 2.5))], 1500.0)
    # What a later version adds does not make an answer unreadable.
    assert decode_json(GOOD.replace(b"{", b'{"new": 1, ', 1), Answer, SOURCE) == answer


def test_an_answer_that_is_not_whole_is_refused_with_the_place() -> None:
    for old, new, place in [
        (b"7", b'"7"', "$.layers[0].flops"),
        (b"7", b"7.5", "$.layers[0].flops"),
        (b"7", b"true", "$.layers[0].flops"),
        (b"2.5", b"null", "$.layers[0].times[1]"),
        (b'"name": "a", ', b"", "name"),
        (b"1500", b"0", "$.clock_mhz"),
        (b"1500", b"-1", "$.clock_mhz"),
        (b"[{", b"7, [{", "byte"),
    ]:
        assert place in refused(GOOD.replace(old, new))
    for text in (b"", b"\0", b"null", b"[]", b"7", b"{", GOOD[:-1], GOOD + b"x", b"\xff\xfe{\0}\0"):
        refused(text)


@pytest.mark.parametrize(
    "number",
    [
        *("1e400", "-1e400", "NaN", "-Infinity", "Infinity"),
        *(str(2**63), str(-(2**63) - 1), str(10**400), str(10**4000), "9" * 5000, "-" + "9" * 5000),
    ],
    ids=lambda number: f"{number[:9]}-{len(number)}",
)
def test_a_number_beyond_all_bounds_is_refused(number: str) -> None:
    """Wherever it stands: as a count, a time, in a field of no type, in a field nobody knows."""
    for place in (b"7", b"2.5", b"1500"):
        refused(GOOD.replace(place, number.encode()))
    for key in (b'"note"', b'"unknown"'):
        refused(GOOD[:-1] + b", " + key + b": [" + number.encode() + b"]}")
    refused(number, int)
    refused(number, float)


def test_a_number_at_the_bounds_is_taken() -> None:
    for number in (2**63 - 1, -(2**63), 0):
        assert decode_json(str(number), int, SOURCE) == number
    assert decode_json("0." + "3" * 5000, float, SOURCE) == pytest.approx(1 / 3)
    assert decode_json("1e308", float, SOURCE) == 1e308


def test_what_is_nested_too_deeply_is_refused() -> None:
    for depth in (100, 990, 100_000):
        for text in ("[" * depth, "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            refused(text, Any)
            refused(f'{{"layers": [], "unknown": {text}}}')
    value: Any = []
    for _ in range(10_000):
        value = [value]
    for kind in (Any, list[int]):
        with pytest.raises(UserError, match=SOURCE):
            convert(value, kind, SOURCE)


def test_text_that_is_not_unicode_is_refused() -> None:
    for value in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\\ud800", b"\\udc00", b"\x1b[2J"):
        refused(b'{"layers": [], "note": "' + value + b'"}')
    # As text: undecodable bytes that a file's reader kept, and half of a surrogate pair.
    for character in ("\udcff", "\ud800"):
        refused(f'{{"layers": [], "note": "{character}"}}')


def test_foreign_keys_and_values_in_a_message_are_short_and_harmless() -> None:
    class Strict(msgspec.Struct, forbid_unknown_fields=True):
        state: str = ""

    for key in ("\\u001b]52;c;AAAA\\u0007", "k" * 100_000, "\\u202e"):
        refused(f'{{"{key}": 1}}', Strict)
        refused(f'{{"{key}": "x"}}', dict[str, int])
        refused(f'{{"{key}": {2**63}}}', dict[str, int])


def test_plain_values_that_json_does_not_have() -> None:
    """TOML has infinity, NaN and dates."""
    for value, place in [
        (float("nan"), "$.flops"),
        (float("-inf"), "$.flops"),
        (date.min, "flops"),
    ]:
        with pytest.raises(UserError) as caught:
            convert({"name": "a", "flops": value}, Layer, SOURCE)
        assert place in str(caught.value)
    with pytest.raises(UserError, match=r"\$\.times\[1\]"):
        convert({"name": "a", "flops": 1, "times": (1.0, float("nan"))}, Layer, SOURCE)


def test_the_memory_for_a_text_is_bounded() -> None:
    """Empty lists are the dearest: 3 bytes of text each, 64 of memory. 8 MB are refused."""
    many = b"[" + b"[]," * 30_000 + b"[]]"
    too_many = b" " * (8 * 2**20) + many
    tracemalloc.start()
    try:
        refused(too_many)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        refused(many)
        assert tracemalloc.get_traced_memory()[1] < 32 * len(many) + 2**20
    finally:
        tracemalloc.stop()
    assert parse_json(b" " * 2**20 + b"[1, 2]", SOURCE) == [1, 2]


def test_printable_leaves_nothing_that_a_terminal_obeys() -> None:
    clipboard, clear = "\x1b]52;c;AAAA\x07", "\x9b2J\x1bc"
    assert printable(f"cpu{clipboard}{clear}") == "cpu ]52;c;AAAA  2J c"
    for code in (*CONTROLS, 0x2028, 0x202E, 0x2066, 0x200F, 0x61C, 0xFEFF, 0xD800, 0xDCFF):
        assert printable(f"a{chr(code)}b") == "a b"
    for text in ("Grüße, 東京 [v2] 🙂", "میر\u200cست"):
        assert printable(text) == text
    printable("\ud800").encode()  # any stream takes it


def test_printable_cuts_what_is_long_and_takes_any_value() -> None:
    assert printable("x" * 10**6, limit=5) == "xxxxx..."
    assert printable("x" * 5, limit=5) == "xxxxx"
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    for value in (10**5000, [10**5000], nested):
        assert len(printable(value)) < 100


def test_the_text_of_an_error_is_bounded_and_harmless() -> None:
    error = UserError(
        "ld.lld failed:\n\tcannot open \x1b]52;c;AAAA\x07\x9b2J\u202e\udcff" + "x" * 10**6
    )
    words = str(error)
    assert words.startswith("ld.lld failed:\n\tcannot open  ]52;c;AAAA  2J  xxx")
    assert len(words) < 5000 and not (CONTROLS - {9, 10}) & set(map(ord, words))
    assert str(pickle.loads(pickle.dumps(error))) == words


def test_read_bytes_reads_ordinary_files_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0\xff")
    assert read_bytes(tmp_path / "file", "labels file") == b"\0\xff"
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", "labels link", limit=2) == b"\0\xff"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    names = ["fifo", "dangling", "loop", "", "none", "file/x", "a\0b", "x" * 5000]
    for path in (*(tmp_path / name for name in names), Path("/dev/zero")):
        with pytest.raises(UserError, match="labels file "):
            read_bytes(path, "labels file")
    with pytest.raises(UserError, match="larger than 1 bytes"):
        read_bytes(tmp_path / "file", "labels file", limit=1)
