"""TVM's tracker: it knows which boards are there and gives them to who asks."""

import os
import signal
import socket
import struct
import subprocess
import sys
from typing import Any

from mnv2_tvm.device.board.serve import QUICK_IMPORT, end_with_parent
from mnv2_tvm.device.board.words import is_loopback, open_port_warning
from mnv2_tvm.device.failure import DeviceError, Kind
from mnv2_tvm.errors import UserError

LOOPBACK = "127.0.0.1"
PORT, PROXY_PORT = 9190, 9090  # TVM's
_ANSWER_S = 5.0


class Tracker:
    """A tracker in a process of its own, from here to `close`."""

    def __init__(self, host: str = LOOPBACK, port: int = PORT) -> None:
        listener = open_listener("tracker", host, port)
        self.host, self.port = listener.getsockname()[:2]
        descriptor = listener.fileno()
        command = [sys.executable, "-m", "mnv2_tvm.device.tracker", str(descriptor)]
        self._process = subprocess.Popen(
            [*command, str(os.getpid())],
            pass_fds=[descriptor],
            env=os.environ | QUICK_IMPORT,
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        listener.close()

    @property
    def address(self) -> str:
        """HOST:PORT, as `--tracker` takes it."""
        return f"{self.host}:{self.port}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def start_tracker(host: str = LOOPBACK, port: int = PORT) -> Tracker:
    """Start a tracker on `host`; port 0 is any free one.

    Raises UserError where the port is taken.
    """
    return Tracker(host, port)


def run_tracker(host: str, port: int) -> None:
    """Be a tracker until the process is ended. Raises UserError where the port is taken."""
    listener = open_listener("tracker", host, port)
    if not is_loopback(host):
        print(open_port_warning("tracker", host), file=sys.stderr)
    print(f"tracker on {host}:{listener.getsockname()[1]}; Ctrl-C ends it", flush=True)
    _serve(listener)


def parse_address(text: str, option: str = "--tracker") -> tuple[str, int]:
    """Host and port of 'HOST:PORT', or of 'HOST' with TVM's port 9190."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, str(PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{option} '{text}' is not HOST:PORT, such as {LOOPBACK}:{PORT}")
    return host, int(port)


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection that speaks the tracker's protocol (`tvm.rpc.base`), 5 s for every answer.

    TVM's own client waits a minute for a tracker that is not there, and for ever for one that
    does not answer. Raises UserError where there is no tracker.
    """
    from tvm.rpc import base

    try:
        connection = socket.create_connection(address, timeout=_ANSWER_S)
    except OSError as error:
        raise _absent(address, str(error)) from error
    magic = struct.pack("<i", base.RPC_TRACKER_MAGIC)
    try:
        connection.sendall(magic)
        answer = base.recvall(connection, len(magic))
    except OSError as error:
        connection.close()
        raise _absent(address, f"it does not answer: {error}") from error
    if answer != magic:
        connection.close()
        raise _absent(address, "something else listens there")
    return connection


def ask(connection: socket.socket, *message: Any) -> Any:
    """The answer to one message of `tvm.rpc.base.TrackerCode`. Raises OSError after 5 s."""
    from tvm.rpc import base

    base.sendjson(connection, list(message))
    return base.recvjson(connection)


def _absent(address: tuple[str, int], why: str) -> DeviceError:
    host, port = address
    return DeviceError(
        Kind.LINK,
        f"no tracker at {host}:{port} ({why}); start one there with python -m mnv2_tvm.device "
        f"tracker --port {port}, or give its address with --tracker HOST:PORT",
    )


def open_listener(what: str, host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises UserError where `what` cannot have it."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise UserError(
            f"the {what} cannot listen on {host}:{port}: {error}; give another --host or --port"
        ) from error


def _serve(listener: socket.socket) -> None:
    # TVM's Tracker class starts a process through cloudpickle and psutil for this one call.
    from tvm.rpc import base, tracker

    tracker._tracker_server(listener, base.random_key("tracker"))


if __name__ == "__main__":
    end_with_parent(signal.SIGKILL, int(sys.argv[2]))
    _serve(socket.socket(fileno=int(sys.argv[1])))
