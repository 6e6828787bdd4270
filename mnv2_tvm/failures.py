"""Why a measurement or a session failed: the kinds, as they stand in messages and logs."""

from dataclasses import dataclass
from enum import StrEnum

from mnv2_tvm.errors import UserError


class Kind(StrEnum):
    """What went wrong."""

    ERROR = "error"  # an exception, of our code or of the board's
    LINK = "link"  # no tracker, no board to be had, or it is gone
    UPLOAD = "upload"  # the library did not get there, or does not load there
    REFUSED = "refused"  # the board has other versions, or a server that is not ours
    CRASH = "crash"  # the process that ran the kernel died
    TIMEOUT = "timeout"  # no answer before the deadline
    WRONG_NUMBERS = "wrong numbers"
    IMPOSSIBLE = "impossible time"  # shorter than any CPU of the target can do


class DeviceError(UserError):
    """A step on the way to a board, or on it, failed.

    The text starts with the kind, unless that says no more than every verb does before its text.
    """

    def __init__(self, kind: Kind, message: str, board: str = "") -> None:
        super().__init__(message if kind is Kind.ERROR else f"{kind}: {message}")
        self.kind, self.message, self.board = kind, message, board


@dataclass(frozen=True)
class Failure:
    """Why a worker's job has no result."""

    kind: Kind
    message: str
    board: str = ""  # HOST:PORT of the board that is to blame; empty: none that is known

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"
