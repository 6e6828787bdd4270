"""Between TVM's client and a board: answers pass, requests do not.

    python -I -S relay.py LISTENER BOARD     (numbers of two open sockets)

TVM's RPC is symmetric: the side that we take for the server may call functions of ours, load
libraries and copy memory, and the client does as told. TVM also trusts the lengths and the pointers
in an answer. So our client never talks with a board itself, but through this process, which lets
through one well-formed answer to each request and ends with a line that says what else came.

The protocol is `src/runtime/rpc/rpc_endpoint.cc` of TVM, version 0.8.0. The process has nothing but
the standard library, because every session starts one.
"""

import os
import queue
import socket
import struct
import sys
import threading
from typing import NoReturn

CLIENT_S = 30.0  # our client connects within this
_MAGIC = 0xFF271
_ANSWER_BYTES = 2**20  # of an answer or an error; what a copy brings is as long as was asked for
_NAME_BYTES = 4096  # of the name with which a board greets
_CHUNK = 2**16

# RPCCode
_SHUTDOWN, _CALL, _RETURN, _EXCEPTION, _COPY_FROM, _COPY_ACK = 1, 3, 4, 5, 6, 8
# TVMFFITypeIndex: those that a board answers with, and their bytes. TVM takes the pointer in one of
# the others, such as a function, for an object of its own.
_INT, _RAW_STR, _BYTES = 1, 8, 9
_FIXED = {0: 0, _INT: 8, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8}


class RefusedError(Exception):
    """The board sent what no answer is."""


def check_answer(code: int, body: bytes, request: int) -> None:
    """Raises RefusedError unless `body` is an answer of kind `code` to a request of that kind."""
    types = _types(body)
    if code == _EXCEPTION:
        right = types == [_RAW_STR]
    elif request == _CALL:  # the type of the result, and the result
        right = len(types) == 2 and types[0] == _INT
    else:
        right = len(types) == 1 and request != _COPY_FROM
    if not right:
        raise RefusedError(f"an answer {types} to a request {request}")


def _types(body: bytes) -> list[int]:
    """The types of a sequence of values that fills `body`."""
    try:
        (count,) = struct.unpack_from("<i", body)
        if not 1 <= count <= 2:
            raise RefusedError(f"{count} values")
        found, place = [], 4
        for _ in range(count):
            (kind,) = struct.unpack_from("<i", body, place)
            place += 4
            if kind in (_RAW_STR, _BYTES):
                (length,) = struct.unpack_from("<Q", body, place)
                place += 8 + length
            elif kind in _FIXED:
                place += _FIXED[kind]
            else:
                raise RefusedError(f"a value of type {kind}")
            found.append(kind)
    except struct.error as error:
        raise RefusedError("an answer that is cut off") from error
    if place != len(body):
        raise RefusedError("lengths that do not add up")
    return found


class Relay:
    """The two connections, with a thread for each direction, until one of them ends."""

    def __init__(self, client: socket.socket, board: socket.socket) -> None:
        self._client, self._board = client, board
        # Of each request that has no answer yet: its code, and the bytes that it wants copied.
        self._asked: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for side in (client, board):
            side.settimeout(None)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> NoReturn:
        """Relay, then end this process."""
        threading.Thread(target=_end_after, args=(self._requests,), daemon=True).start()
        _end_after(self._answers)

    def _requests(self) -> None:
        """From our client, which is trusted."""
        hello = _receive(self._client, 8)
        self._board.sendall(hello)
        _pass_on(self._client, self._board, struct.unpack("<ii", hello)[1])
        while True:
            size, code, head = _packet(self._client)
            wanted = 0
            if code == _COPY_FROM:
                body = _receive(self._client, size)
                (wanted,) = struct.unpack("<Q", body[-8:])
                head, size = head + body, 0
            if code != _SHUTDOWN:
                self._asked.put((code, wanted))
            self._board.sendall(head)
            _pass_on(self._client, self._board, size)

    def _answers(self) -> None:
        greeting = _receive(self._board, 4)
        if struct.unpack("<i", greeting)[0] != _MAGIC:  # it refuses the key, as TVM then says
            self._client.sendall(greeting)
            return
        length = _receive(self._board, 4)
        if not 0 <= struct.unpack("<i", length)[0] <= _NAME_BYTES:
            raise RefusedError("a name without end")
        self._client.sendall(greeting + length)
        _pass_on(self._board, self._client, struct.unpack("<i", length)[0])
        while True:
            size, code, head = _packet(self._board)
            if code not in (_RETURN, _EXCEPTION, _COPY_ACK):
                raise RefusedError(f"a request of its own, {code}")
            try:
                request, wanted = self._asked.get_nowait()
            except queue.Empty:
                raise RefusedError("an answer that nobody asked for") from None
            if code == _COPY_ACK:
                if (request, wanted) != (_COPY_FROM, size):
                    raise RefusedError(f"a copy of {size} bytes where {wanted} were asked for")
                self._client.sendall(head)
                _pass_on(self._board, self._client, size)
                continue
            if size > _ANSWER_BYTES:
                raise RefusedError(f"an answer of {size} bytes")
            body = _receive(self._board, size)
            check_answer(code, body, request)
            self._client.sendall(head + body)


def _packet(source: socket.socket) -> tuple[int, int, bytes]:
    """How much follows the head of the next packet, its code, and the head."""
    head = _receive(source, 8)
    (size,) = struct.unpack("<Q", head)
    if size < 4:
        raise RefusedError(f"a packet of {size} bytes")
    code = _receive(source, 4)
    return size - 4, struct.unpack("<i", code)[0], head + code


def _receive(source: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = source.recv(min(size, _CHUNK))
        if not part:
            raise ConnectionError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _pass_on(source: socket.socket, to: socket.socket, size: int) -> None:
    while size:
        part = source.recv(min(size, _CHUNK))
        if not part:
            raise ConnectionError
        to.sendall(part)
        size -= len(part)


def _end_after(direction: object) -> NoReturn:
    """Run one direction to its end, which is that of the process; say why before others see it."""
    said = b"ended"
    try:
        direction()  # type: ignore[operator]
    except RefusedError as error:
        said = str(error).encode()
    except OSError:
        pass
    except Exception as error:
        said = f"{type(error).__name__}: {error}".encode()
    try:
        os.write(1, said)
    finally:  # also where nobody hears it: our client was killed
        os._exit(0)


def main() -> NoReturn:
    """Wait for our client and relay."""
    listener, board = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    listener.settimeout(CLIENT_S)
    try:
        client, _ = listener.accept()
    except OSError:
        os._exit(1)
    listener.close()
    Relay(client, board).run()


if __name__ == "__main__":
    main()
