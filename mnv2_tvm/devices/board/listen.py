"""TVM's own RPC listener, kept going where it would end or spin.

It registers with the tracker and forks a process for each session. A session that crashes ends
TVM's loop, so that loop is entered again at once.
"""

import argparse
import gc
import json
import logging
import multiprocessing
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from .connection import connect_patiently, keep_alive
from .info import board_info
from .words import ending, say

_GREETING_S = 5  # who connects says within this who he is
_LINGER_S = 2  # a session ends by itself within this when its client has gone
_CHATTER = ("start serving", "load_module")  # of TVM's log


def listen(options: argparse.Namespace, scratch: str) -> NoReturn:
    """Serve sessions for ever. `scratch` is a folder for their files.

    Raises OSError where the port is taken and ImportError where TVM is missing.
    """
    import tvm_ffi
    from tvm.rpc import base, server

    # TVM's own spins on any error but a refused connection, and then waits for ever on a silent
    # tracker.
    base.connect_with_retry = connect_patiently
    server._serve_loop = partial(_serve_session, server._serve_loop)
    log = logging.Handler()
    log.emit = _log  # type: ignore[method-assign]
    server.logger.handlers = [log]
    # Sessions inherit what is registered here only by fork.
    multiprocessing.set_start_method("fork")
    tvm_ffi.register_global_func(
        "mnv2.board_info", lambda: json.dumps(board_info(options.emulated))
    )
    socket_ = _open(options.host, options.port)
    port = socket_.getsockname()[1]
    say(f"{options.key} listens on {options.host} port {port}")
    tracker = (options.tracker, None, options.address)
    while True:
        os.chdir(scratch)  # a failed session leaves us in its folder
        try:
            server._listen_loop(socket_, port, options.key, *tracker)
        except Exception as error:
            crash = re.search(r"exited unsuccessfully with error code (-?\d+)", str(error))
            if crash:
                say(f"a session ended with {ending(int(crash[1]))}; the board is free again")
            else:
                say(f"{type(error).__name__}: {error}")
                time.sleep(5)
        gc.collect()  # closes the sockets of the session and of the tracker, removes its folder


def _open(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = _Listener(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen()
    return listener


def _serve_session(
    serve_loop: "Callable[..., None]", connection: socket.socket, *arguments: Any
) -> None:
    """Run TVM's session in this process of its own, and end with the client."""
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    serve_loop(connection, *arguments)


def _end_with(connection: socket.socket) -> None:
    """A kernel that hangs does not see that its client has gone, and would keep the board."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.poll()
    time.sleep(_LINGER_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _log(record: logging.LogRecord) -> None:
    if not record.getMessage().startswith(_CHATTER):
        say(record.getMessage())


class _Listener(socket.socket):
    """A listening socket that drops who connects and says nothing: he would block the board."""

    def accept(self) -> "tuple[socket.socket, Any]":
        connection, address = super().accept()
        while not select.select([connection], [], [], _GREETING_S)[0]:
            connection.close()
            if not select.select([self], [], [], 0)[0]:
                raise TimeoutError(f"{address} connected and said nothing")
            connection, address = super().accept()
        keep_alive(connection)  # a client that is cut off must not keep the board for ever
        return connection, address
