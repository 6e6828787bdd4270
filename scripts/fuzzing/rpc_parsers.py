"""What comes over TVM's RPC: the answers of a tracker and of a board.

The tracker is on loopback and answers with the input, at once, byte by byte, or without end.
"""

import contextlib
import json
import socket
import struct
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

from inputs import from_bytes, json_like
from sandbox import Parse, Parser
from tvm.rpc import base

from mnv2_tvm.devices.rpc import session, tracker
from mnv2_tvm.devices.rpc.listing import summary
from mnv2_tvm.devices.rpc.relay import _CALL, _RETURN, RefusedError, check_answer
from mnv2_tvm.devices.rpc.session import Address
from mnv2_tvm.errors import UserError

_PATIENCE_S = 0.3  # for an answer, in place of 5 s
_MAGIC = struct.pack("<i", base.RPC_TRACKER_MAGIC)
_SIZES = (-5, -1, 0, 1, 2**24, 2**31 - 1, -(2**31))
_SERVERS = [
    {"key": "server:rasp4", "addr": ["10.0.0.7", 9091]},
    {"key": "server:rasp5", "addr": ["10.0.0.8", "9092"]},
]
_SUMMARY = [0, {"server_info": _SERVERS, "queue_info": {"rasp4": {"free": 2, "pending": 0}}}]
_REQUEST = [0, ["10.0.0.7", 9091, "rasp4:0.123"]]

_summaries, _requests = json_like(_SUMMARY), json_like(_REQUEST)
_magics = from_bytes(_MAGIC)

# manner, magic, answer to SUMMARY, answer to REQUEST
Script = tuple[str, bytes, bytes, bytes]


def _framed(text: bytes, random: Random) -> bytes:
    size = random.choice(_SIZES) if random.random() < 0.1 else len(text)
    return struct.pack("<i", size) + text


def _make(random: Random) -> Script:
    sound = (json.dumps(answer).encode() for answer in (_SUMMARY, _REQUEST))
    summary_text, request_text = sound
    magic, draw = _MAGIC, random.random()
    if draw < 0.02:
        magic = _magics(random)
    elif draw < 0.5:
        summary_text = _summaries(random)
    else:
        request_text = _requests(random)
    manner = "plain"
    if random.random() < 0.004:  # each costs the whole patience
        manner = random.choice(("drip", "flood", "silent"))
    answers = _framed(summary_text, random), _framed(request_text, random)
    return (manner, magic, *answers)


class _Tracker:
    """One connection after the other, in a thread."""

    def __init__(self) -> None:
        self.script: Script = ("plain", b"", b"", b"")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with contextlib.suppress(OSError), connection:
                connection.settimeout(10)
                # The client's second small packet waits for this side to confirm the first.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        manner, magic, *answers = self.script
        base.recvall(connection, 4)
        connection.sendall(magic)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        size = struct.unpack("<i", base.recvall(connection, 4))[0]
        code = json.loads(base.recvall(connection, size))[0]
        answer = answers[code == base.TrackerCode.REQUEST]
        if manner == "plain":
            connection.sendall(answer)
        elif manner == "silent":
            connection.recv(1)
        elif manner == "flood":
            connection.sendall(struct.pack("<i", 2**31 - 1))
            for _ in range(10_000):
                connection.sendall(bytes(65536))
        else:
            connection.sendall(struct.pack("<i", 10_000))
            for _ in range(10_000):
                connection.sendall(b" ")
                time.sleep(_PATIENCE_S / 10)


def _open(folder: Path) -> Parse:
    tracker._ANSWER_S = _PATIENCE_S
    (tracker.ask.__kwdefaults__ or {}).update(within_s=_PATIENCE_S)  # holds the 5 s as well
    there = _Tracker()

    def parse(script: Any) -> None:
        there.script = script
        summary(there.address)
        session._request(Address(there.address, "rasp4"), _PATIENCE_S, _PATIENCE_S)

    return parse


_SOUND: Script = (
    *("plain", _MAGIC),
    *(
        struct.pack("<i", len(t)) + t
        for t in (json.dumps(a).encode() for a in (_SUMMARY, _REQUEST))
    ),
)  # type: ignore[assignment]

# What a call answers: the type of the result and the result, here a number, a text, nothing.
_ANSWERS = (
    struct.pack("<iiqiq", 2, 1, 1, 1, 7),
    struct.pack("<iiqiQ", 2, 1, 8, 8, 5) + b"hello",
    struct.pack("<iiqi", 2, 1, 0, 0),
)


def _open_answer(_: Path) -> Parse:
    def parse(body: Any) -> None:
        try:
            check_answer(_RETURN, body, _CALL)
        except RefusedError as error:
            raise UserError(str(error)) from error

    return parse


PARSERS = [
    Parser("tracker", _make, _open, (_SOUND,)),
    Parser("board, answer", from_bytes(*_ANSWERS), _open_answer, _ANSWERS),
]
