"""How inputs of a kind are made: from whole ones, bent as values or damaged as bytes."""

from collections.abc import Callable
from random import Random
from typing import Any

from mutate import bend, damage, to_json, to_toml

Make = Callable[[Random], bytes]
_SOUND = 0.01  # of the inputs: parsers must also be right after many that are wrong


def from_bytes(*wholes: bytes) -> Make:
    """Damaged copies of whole inputs."""

    def make(random: Random) -> bytes:
        whole = random.choice(wholes)
        return whole if random.random() < _SOUND else damage(whole, random)

    return make


def from_values(write: Callable[[Any], bytes], *wholes: Any) -> Make:
    """Values that `write` makes bytes of, bent, and some of them damaged as bytes too."""

    def make(random: Random) -> bytes:
        whole, draw = random.choice(wholes), random.random()
        if draw < _SOUND:
            return write(whole)
        if draw < 0.75:
            return write(bend(whole, random))
        return damage(write(bend(whole, random) if draw > 0.95 else whole), random)

    return make


def json_like(*wholes: Any) -> Make:
    """JSON texts."""
    return from_values(to_json, *wholes)


def toml_like(*wholes: Any) -> Make:
    """TOML texts."""
    return from_values(to_toml, *wholes)


def lines_of(make_line: Make, *good: bytes) -> Make:
    """Some good lines around one of `make_line`."""

    def make(random: Random) -> bytes:
        lines = [random.choice(good) for _ in range(random.randrange(3))]
        lines.insert(random.randrange(len(lines) + 1), make_line(random))
        return b"\n".join(lines) + random.choice((b"\n", b"\n", b"", b"\n\n"))

    return make


def between(before: bytes, make: Make, after: bytes = b"") -> Make:
    """Other text around an input: a login shell's words, say."""
    return lambda random: before + make(random) + after


def as_text(data: bytes) -> str:
    """As a program's argument or a file that is not UTF-8 comes to Python."""
    return data.decode("utf-8", "surrogateescape")


def as_said(data: bytes) -> str:
    """As the words of another program come to Python."""
    return data.decode("utf-8", "replace")
