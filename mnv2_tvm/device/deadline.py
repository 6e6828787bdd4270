"""Deadlines for TVM's RPC calls, which by themselves wait for ever.

Such a call sleeps in C++ on its socket, where neither a signal nor an exception reaches it. It ends
with an error when the connection under it is cut.
"""

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_AGAIN_S = 0.2  # a call that opened its connection late is cut then
_SYN_SENT = 2  # of Linux's TCP states

Peer = tuple[str, int]


@contextmanager
def deadline(seconds: float, peer: Peer) -> Iterator[None]:
    """Cut this process's connections to `peer` when the block takes longer than `seconds`.

    Raises TimeoutError then, whatever the block came to.
    """
    done, late = threading.Event(), threading.Event()

    def watch() -> None:
        patience = seconds
        while not done.wait(patience):
            late.set()
            cut(peer)
            patience = _AGAIN_S

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        done.set()
        watcher.join()
    if late.is_set():
        raise TimeoutError


def cut(peer: Peer) -> None:
    """End this process's connections to `peer`; whoever waits on one gets an error."""
    for connection in _connections(peer):
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def is_open(peer: Peer) -> bool:
    """Whether this process has a connection to `peer` that the other side has not ended."""
    return any(_is_open(connection) for connection in _connections(peer))


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _connections(peer: Peer) -> Iterator[socket.socket]:
    """This process's sockets that lead to `peer`. TVM does not tell which are its own."""
    resolved = {info[4][:2] for info in socket.getaddrinfo(*peer, type=socket.SOCK_STREAM)}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if not stat.S_ISSOCK(entry.stat().st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.type == socket.SOCK_STREAM and _leads_to(connection, resolved):
                    yield connection


def _leads_to(connection: socket.socket, peers: set[Any]) -> bool:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    # One that still waits for the other side's first answer has no peer yet.
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == _SYN_SENT or connection.getpeername()[:2] in peers
