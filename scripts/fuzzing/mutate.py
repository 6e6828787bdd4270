"""Damage to inputs: bytes that flip, vanish and multiply; JSON and TOML with wrong values in it."""

import copy
import functools
import json
import math
import struct
import zlib
from random import Random
from typing import Any

# What means something to a terminal, a table, a shell, a decoder or a parser of numbers.
_TOKENS = [
    *(
        b"\x1b[2J",
        b"\x1b]52;c;QUJD\x07",
        b"\x9b2J",
        b"\x07",
        b"\r\n",
        b"\n\n",
        b"\0",
        b"\t",
        b"\x7f",
    ),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xc2\x85"),
    *(b"-1", b"0", b"1e400", b"-1e400", b"NaN", b"Infinity", b"0x", b"1_0", b"+1", b"9" * 5000),
    *("²".encode(), "٣".encode(), b"true", b"null", b"None", b"[/red]", b"%s%n", b"../", b"-oX=y"),
    *(b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b"\\u001b", b":", b",", b";", b" ", b"$(x)"),
]
_INTEGERS = (
    0,
    1,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
_LONGEST = 50_000  # of a run: what takes a square of it in time is noticed


class Raw(str):
    """A piece of JSON or TOML that is written as it is."""


def damage(data: bytes, random: Random) -> bytes:
    """The bytes with a few mutations, most often one."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        data = _damage_once(data, random)
    return data


def _damage_once(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice((1, 1, 2, 4, 8, 64)))
    kind = random.randrange(10)
    if kind == 0 and start < len(data):
        return data[:start] + bytes([data[start] ^ 1 << random.randrange(8)]) + data[start + 1 :]
    if kind == 1:
        return data[:start] + data[end:]
    if kind == 2:
        return data[:start]
    if kind == 3:
        return data[:end] + data[start:end] * random.choice((1, 2, 100)) + data[end:]
    if kind == 4:
        return data[:start] + random.randbytes(random.choice((1, 4, 16))) + data[start:]
    if kind == 5:
        return data[:start] + random.randbytes(end - start) + data[end:]
    if kind == 6:
        size, order = random.choice((1, 2, 4, 8)), random.choice(("<", ">"))
        number = random.choice(_INTEGERS) % 2 ** (8 * size)
        packed = struct.pack(f"{order}{'_BH_I___Q'[size]}", number)
        return data[:start] + packed + data[start + size :]
    if kind == 7 and random.random() < 0.2:
        byte = random.choice((b" ", b"a", b"9", b"[", b"(", b"{", b"\t", b"\n", b"\0", b"/", b"."))
        return data[:start] + byte * random.choice((300, 5000, _LONGEST)) + data[start:]
    token = random.choice(_TOKENS)
    return data[:start] + token + (data[end:] if kind == 8 else data[start:])


def bend(tree: Any, random: Random) -> Any:
    """A copy of nested dicts and lists with one to three values wrong, missing, twice or new."""
    tree = {"": copy.deepcopy(tree)}
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        container, key = random.choice(_places(tree))
        kind = random.randrange(8)
        if kind == 0 and container is not tree:
            del container[key]
        elif kind == 1:
            new = random.choice(("", "x", "\x1b[2J", "\u202e", "k" * 10_000, "name", "__class__"))
            container[key] = {new: wrong_value(random), **_as_dict(container[key])}
        elif kind == 2 and isinstance(container, list):
            few = isinstance(container[key], dict | list | str)
            container.extend([container[key]] * random.choice((1, 2, 5 if few else 1000)))
        elif kind == 3 and isinstance(container[key], int | float):
            container[key] = _near(container[key], random)
        elif kind == 4:
            container[key] = random.choice(([container[key]], {"x": container[key]}))
        elif kind == 5 and isinstance(container[key], str):
            text = damage(container[key].encode("utf-8", "surrogatepass"), random)
            container[key] = text.decode("utf-8", "replace")
        else:
            container[key] = wrong_value(random)
    return tree[""]


def wrong_value(random: Random) -> Any:
    """A value of some type, often at a bound or beyond one."""
    if random.random() < 0.1:
        depth = random.choice((10, 200, 900, 20_000))
        pair = random.choice((("[", "1", "]"), ('{"a":', "1", "}"), ("[", "", "")))
        return Raw(pair[0] * depth + pair[1] + pair[2] * depth)
    if random.random() < 0.02:
        return random.choice(([0] * 100_000, {str(n): n for n in range(10_000)}, "x" * 200_000))
    return random.choice(
        [
            *(
                None,
                True,
                False,
                0,
                1,
                -1,
                2,
                64,
                65,
                1 << 31,
                -(1 << 31),
                1 << 32,
                1 << 62,
                1 << 63,
            ),
            *(1 << 64, 10**400, 0.5, -0.5, -0.0, 1e-320, 1e300, -1e300, math.nan, math.inf),
            *map(Raw, ("1e400", "-1e400", "NaN", "-Infinity", "nan", "inf", "01", '"\\ud800"', "")),
            *(Raw("9" * 5000), Raw("-" + "9" * 5000), Raw("0." + "9" * 5000), Raw(" " * _LONGEST)),
            *(
                "",
                "5",
                "-5",
                "nan",
                "9" * 5000,
                "\x1b]52;c;QUJD\x07",
                "a\nb",
                "[/red]",
                "\u202e",
                "\0",
            ),
            *("²", "x" * 5000, " " * 5000, [], [[]], {}, [None], [""], {"": ""}, [-1], ["\x1b[2J"]),
            *(Raw("1979-05-27"), Raw("07:32:00"), Raw("0xff"), Raw("{}"), Raw('"""'), Raw("'")),
        ]
    )


def to_json(tree: Any) -> bytes:
    """As JSON text, its raw pieces as they are."""
    raw: list[str] = []

    def replaced(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(value)
            return f"\ue000{len(raw) - 1}\ue000"
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        return [replaced(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(replaced(tree), ensure_ascii=False)
    for number, piece in enumerate(raw):
        text = text.replace(f'"\ue000{number}\ue000"', piece)
    return text.encode("utf-8", "surrogatepass")


def to_toml(tree: Any) -> bytes:
    """As TOML text: one level of tables, what is deeper is inline."""
    if not isinstance(tree, dict):
        return _inline(tree).encode("utf-8", "surrogatepass")
    plain = [f"{_key(k)} = {_inline(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    for name, table in tree.items():
        if isinstance(table, dict):
            plain += [
                "",
                f"[{_key(name)}]",
                *(f"{_key(k)} = {_inline(v)}" for k, v in table.items()),
            ]
    return "\n".join([*plain, ""]).encode("utf-8", "surrogatepass")


def with_right_sums(png: bytes, random: Random) -> bytes:
    """A PNG with damage inside one of its chunks, whose length and checksum are then right."""
    chunks, at = [], 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    number = random.randrange(len(chunks))
    kind, data = chunks[number]
    if random.random() < 0.3:
        kind = random.choice(
            (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL")
        )
        bomb = _compressed(random.choice((10, 10_000, 30_000_000)))
        data = random.choice((b"a\0\0" + bomb, b"a\0\1\0\0\0" + bomb, data))
        chunks.insert(number + 1, (kind, data))
    else:
        chunks[number] = kind, damage(data, random)
    parts = [png[:8]]
    for kind, data in chunks:
        parts += [
            len(data).to_bytes(4, "big"),
            kind,
            data,
            zlib.crc32(kind + data).to_bytes(4, "big"),
        ]
    return b"".join(parts)


@functools.cache
def _compressed(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        found.append((tree, key))
        if isinstance(value, dict | list):
            found += _places(value)
    return found


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _near(value: float, random: Random) -> Any:
    part = value // 7 if isinstance(value, int) else value / 7
    return random.choice((-value, value + 1, value - 1, value * 1000, part, str(value), 0))


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(key)


def _inline(value: Any) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return json.dumps(value)
