"""TVM's tracker: it knows which boards are there and gives them to who asks."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any

from mnv2_tvm.devices.board import words
from mnv2_tvm.devices.board.serve import QUICK_IMPORT, end_with_parent
from mnv2_tvm.devices.board.words import address_text, is_loopback, open_port_warning
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.untrusted import convert, parse_json, printable

LOOPBACK = "127.0.0.1"
PORT = 9190  # TVM's
_ANSWER_S = 5.0
_ANSWER_BYTES = 2**20  # some ten thousand boards


class Tracker:
    """A tracker in a process of its own, from here to `close`."""

    def __init__(self, host: str = LOOPBACK, port: int = PORT) -> None:
        listener = open_listener("tracker", host, port)
        self.host, self.port = listener.getsockname()[:2]
        descriptor = listener.fileno()
        command = [sys.executable, "-m", "mnv2_tvm.devices.rpc.tracker", str(descriptor)]
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
        return address_text(self.host, self.port)

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
    where = address_text(host, listener.getsockname()[1])
    print(f"tracker on {where}; Ctrl-C ends it", flush=True)
    _serve(listener)


def parse_address(text: str, option: str = "--tracker") -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPV6]:PORT, or of a host alone with TVM's port 9190.

    Raises UserError for anything else.
    """
    try:
        return words.parse_address(text, PORT)
    except ValueError:
        raise UserError(
            f"{option} '{printable(text, 80)}' is not HOST:PORT, such as {LOOPBACK}:{PORT} or "
            f"[::1]:{PORT}"
        ) from None


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection that speaks the tracker's protocol (`tvm.rpc.base`), 5 s for every answer.

    TVM's own client waits a minute for a tracker that is not there, and for ever for one that
    does not answer. Raises UserError where there is no tracker.
    """
    from tvm.rpc import base

    until = time.monotonic() + _ANSWER_S
    try:
        connection = socket.create_connection(address, timeout=_ANSWER_S)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        raise _absent(address, str(error)) from error
    magic = struct.pack("<i", base.RPC_TRACKER_MAGIC)
    try:
        connection.sendall(magic)
        answer = _receive(connection, len(magic), until)
    except OSError as error:
        connection.close()
        raise _absent(address, f"it does not answer: {error}") from error
    if answer != magic:
        connection.close()
        raise _absent(address, "something else listens there")
    return connection


def ask(
    connection: socket.socket, *message: Any, kind: Any = Any, within_s: float = _ANSWER_S
) -> Any:
    """The answer to one message of `tvm.rpc.base.TrackerCode`, of the type `kind`.

    Raises OSError where it is not there, all of it, `within_s`, and DeviceError where it is none.
    """
    from tvm.rpc import base

    until = time.monotonic() + within_s
    connection.settimeout(within_s)
    base.sendjson(connection, list(message))
    (size,) = struct.unpack("<i", _receive(connection, 4, until))
    what = f"what answers at {address_text(*connection.getpeername()[:2])} is no tracker"
    if not 0 < size <= _ANSWER_BYTES:
        raise DeviceError(Kind.LINK, f"{what}: an answer of {size} bytes")
    data = _receive(connection, size, until)
    connection.settimeout(within_s)
    try:
        return convert(parse_json(data, what), kind, what)
    except UserError as error:
        raise DeviceError(Kind.LINK, str(error)) from error


def _receive(connection: socket.socket, size: int, until: float) -> bytes:
    """So many bytes, all of them before `until`: a side that sends drop by drop ends there too."""
    data = bytearray()
    while len(data) < size:
        connection.settimeout(max(1e-3, until - time.monotonic()))
        part = connection.recv(min(size - len(data), 2**16))
        if not part:
            raise ConnectionError("it ended the connection")
        data += part
        if time.monotonic() > until and len(data) < size:
            raise TimeoutError("timed out")
    return bytes(data)


def _absent(address: tuple[str, int], why: str) -> DeviceError:
    return DeviceError(
        Kind.LINK,
        f"no tracker at {address_text(*address)} ({why}); start one there with python -m "
        f"mnv2_tvm.device tracker --port {address[1]}, or give the address "
        "HOST:PORT of another",
    )


def open_listener(what: str, host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises UserError where `what` cannot have it."""
    try:
        if not 0 <= port < 65536:
            raise OSError("a port is a number from 0 to 65535")
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=64)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        raise UserError(
            f"the {what} cannot listen on {printable(address_text(host, port))}: {error}; give "
            "another --host or --port"
        ) from error


def _serve(listener: socket.socket) -> None:
    # TVM's Tracker class starts a process through cloudpickle and psutil for this one call.
    from tvm.rpc import base, tracker

    tracker._tracker_server(listener, base.random_key("tracker"))


if __name__ == "__main__":
    end_with_parent(signal.SIGKILL, int(sys.argv[2]))
    _serve(socket.socket(fileno=int(sys.argv[1])))
