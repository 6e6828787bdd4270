"""The connection of a session: to a board, through a relay that lets no request of it pass."""

import os
import select
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

_RELAY = Path(__file__).with_name("relay.py")
_ENDED = "ended"  # what the relay says where a side just went


class Link:
    """A connection to a board's RPC server and the process that watches over it.

    Raises OSError where there is no connection within `patience_s`.
    """

    def __init__(self, host: str, port: int, patience_s: float) -> None:
        self._until = time.monotonic() + patience_s
        try:
            board = socket.create_connection((host, port), timeout=patience_s)
        except UnicodeError as error:  # no name of a host
            raise OSError(f"{host}: {error}") from error
        with board, socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
            numbers = listener.fileno(), board.fileno()
            self.port: int = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_RELAY), *map(str, numbers)],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        self._said = ""
        # Also where nobody closes it: the relay would be a zombie.
        self.cut = weakref.finalize(self, _end, self._process)

    def open(self, match: str, session_s: int) -> Any:
        """TVM's session over it. Raises TVM's errors; it ends late only with `cut`."""
        from tvm import rpc

        return rpc.connect("127.0.0.1", self.port, match, session_timeout=session_s)

    @property
    def left_s(self) -> float:
        """What is left of the patience."""
        return max(0.0, self._until - time.monotonic())

    def ended(self) -> bool:
        """Whether the connection is no more: the board went, or was refused."""
        if self._said or not self.cut.alive:
            return True
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        if select.select([output], [], [], 0)[0]:
            self._said = os.read(output, 4096).decode(errors="replace") or _ENDED
        return bool(self._said)

    @property
    def refused(self) -> str:
        """What the board sent that no answer is; empty where it did not."""
        return self._said if self.ended() and self._said != _ENDED else ""


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
