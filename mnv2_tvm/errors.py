"""The one exception for everything a user can mend."""

import re

_LONGEST = 4000  # characters of a message: a path has at most 4096 bytes

# C0 and C1 controls, which steer a terminal, line ends of Unicode, marks that turn the direction
# of writing or cannot be seen, and halves of surrogate pairs, which no stream takes.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_HARMFUL = re.compile(f"(?![\n\t]){_UNPRINTABLE.pattern}")  # line ends and tabs are not


def printable(value: object, limit: int = 200) -> str:
    """Foreign text on one line, without anything that a terminal obeys, cut at `limit`."""
    try:
        cut = str(value)[: limit + 1]
    except (ValueError, RecursionError):  # an integer of 5000 digits, a list in a list in a list...
        cut = f"a {type(value).__name__} too large to print"
    if len(cut) > limit:
        cut = cut[:limit] + "..."
    return _UNPRINTABLE.sub(" ", cut)


class UserError(Exception):
    """Something the user gave or lacks; the text names the thing, the place and the remedy.

    Every verb prints the text without a traceback and exits with 1. It may quote a file or a board:
    whatever these hold, the text is of bounded length and no terminal obeys any of it.
    """

    def __init__(self, text: str) -> None:
        cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
        super().__init__(_HARMFUL.sub(" ", cut))
