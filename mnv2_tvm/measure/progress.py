"""What a long search tells its user: a live line on a terminal, plain lines in a log."""

import time

from rich.console import Console
from rich.status import Status
from rich.text import Text

from mnv2_tvm.untrusted import printable

_LONGEST = 4000  # characters of a line


class Progress:
    """Layer, candidate, best so far and time left."""

    def __init__(self, console: Console, budget_s: float) -> None:
        self._console = console
        self._end = time.monotonic() + budget_s
        self._live: Status | None = console.status("starting") if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left, not below 0."""
        return max(0.0, self._end - time.monotonic())

    def now(self, text: str) -> None:
        """What is going on: the live line; nothing in a log."""
        if self._live:
            self._live.update(Text(f"{_plain(text)}, at most {self.left_s:.0f} s left"))

    def line(self, text: str) -> None:
        """Something worth keeping: a line on the terminal and in a log."""
        self._console.print(Text(_plain(text)), highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    """Without what a terminal obeys: devices and linkers have their say in it."""
    return "\n".join(printable(line, _LONGEST) for line in text.split("\n"))
