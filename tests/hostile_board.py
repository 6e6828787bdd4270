"""Boards and trackers that mean harm: what they send is written by hand."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tvm.rpc import base

INIT_SERVER, CALL, RETURN, GLOBAL_FUNCTION = 2, 3, 4, 9  # RPCCode
NONE, POINTER, RAW_STR, FUNCTION = 0, 4, 8, 68  # TVMFFITypeIndex


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Whoever connects to the port is served by a thread of his own."""

    def serve_one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(
                    target=serve_one, args=(listener.accept()[0],), daemon=True
                ).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def packet(code: int, body: bytes) -> bytes:
    """A packet of TVM's RPC."""
    return struct.pack("<Qi", 4 + len(body), code) + body


def text(value: str) -> bytes:
    """A text as a value of an answer or a call."""
    return struct.pack("<iQ", RAW_STR, len(value)) + value.encode()


def greet(connection: socket.socket) -> None:
    """What a board does before the first packet; then the client's first one."""
    _, size = struct.unpack("<ii", base.recvall(connection, 8))
    base.recvall(connection, size)
    connection.sendall(struct.pack("<ii", base.RPC_MAGIC, 8) + b"server:x")
    receive(connection)


def receive(connection: socket.socket) -> bytes:
    """The body of the client's next packet."""
    (size,) = struct.unpack("<Q", base.recvall(connection, 8))
    return bytes(base.recvall(connection, size)[4:])


def loader(library: str) -> Callable[[socket.socket], None]:
    """A board that lets its client load a library, of which the client knows nothing."""

    def serve(connection: socket.socket) -> None:
        greet(connection)
        version = struct.pack("<Q", 5) + b"0.8.0"
        connection.sendall(packet(INIT_SERVER, version + struct.pack("<i", 0)))
        receive(connection)
        name = struct.pack("<i", 1) + text("ffi.ModuleLoadFromFile")
        connection.sendall(packet(GLOBAL_FUNCTION, name))
        _, _, handle = struct.unpack("<iiQ", receive(connection))
        call = struct.pack("<Qi", handle, 1) + text(library)
        connection.sendall(packet(CALL, call))
        receive(connection)

    return serve


def answering(*answers: bytes) -> Callable[[socket.socket], None]:
    """A board that sends these packets, whatever it is asked."""

    def serve(connection: socket.socket) -> None:
        greet(connection)
        connection.sendall(b"".join(answers))
        time.sleep(30)

    return serve


def tracker(answer: bytes, pause_s: float = 0.0) -> Callable[[socket.socket], None]:
    """A tracker that sends this, with a pause after each byte, whatever it is asked."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(base.recvall(connection, 4))
        base.recvall(connection, 4)
        if not pause_s:
            connection.sendall(answer)
            time.sleep(30)
        for byte in answer:
            connection.sendall(bytes([byte]))
            time.sleep(pause_s)

    return serve


def framed(value: Any) -> bytes:
    """An answer of a tracker: JSON, or the bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<i", len(data)) + data
