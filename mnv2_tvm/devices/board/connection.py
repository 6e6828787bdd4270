"""Connections of a board: tried for ever, and ended when the other side is gone without a word."""

import socket
import time

from .words import address_text, say

_PAUSE_S = 5  # between two tries at most
_SILENCE_S = 20  # a tracker that is silent for so long is gone
# Seconds of silence, seconds between the questions after it, and how many of these.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 6}


def connect_patiently(address: "tuple[str, int]") -> socket.socket:
    """A connection to the tracker, tried for ever.

    It is there again soon after the other side is: somebody may wait for this board. What is tried
    is said until the pause no longer grows, for that may last for days.
    """
    where = f"tracker {address_text(*address)}"
    pause_s, said_s = 1, 0
    while True:
        try:
            connection = socket.create_connection(address, timeout=_SILENCE_S)
            say(f"registers with the {where}")
            return connection
        except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
            if pause_s > said_s:
                say(f"no {where} ({error}); next try in {pause_s} s")
                said_s = pause_s
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_S)


def keep_alive(connection: socket.socket) -> None:
    """Let the kernel ask whether the other side is there; what a listener accepts inherits it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
