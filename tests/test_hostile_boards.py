"""Boards and trackers that mean harm, or are broken: they get no further than a sentence."""

import json
import math
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Built
from device_boards import SHORT_S, registered, wait_for_boards
from hostile_board import (
    FUNCTION,
    NONE,
    POINTER,
    RAW_STR,
    RETURN,
    answering,
    framed,
    listening,
    loader,
    packet,
    text,
)
from hostile_board import (
    tracker as tracker_of,
)

from mnv2_tvm import device as device
from mnv2_tvm.devices.board.info import board_info
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.boards import Boards
from mnv2_tvm.devices.rpc.listing import list_boards, request, summary
from mnv2_tvm.devices.rpc.relay import RefusedError, check_answer
from mnv2_tvm.devices.rpc.remote_network import RemoteNetwork
from mnv2_tvm.devices.rpc.session import Address, Session
from mnv2_tvm.devices.rpc.told import checked
from mnv2_tvm.devices.rpc.tracker import Tracker, ask, connect
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.target import Target

CALL, SYSCALL, COPY_FROM, EXCEPTION = 3, 9, 6, 5
NO_VALUE = struct.pack("<ii", 1, NONE)
ESCAPES = "\x1b]52;c;aGk=\x07\x1b[2J\u202e"


@pytest.fixture
def evil(tmp_path: Path) -> tuple[Path, Path]:
    """A library that writes a file where it is loaded, and that file."""
    source, library, proof = (tmp_path / name for name in ("evil.c", "evil.so", "proof"))
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ fclose(fopen("{proof}", "w")); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library, proof


def test_a_board_runs_no_code_on_the_host(
    tracker: Tracker, here: Target, evil: tuple[Path, Path]
) -> None:
    """TVM's own client would load the library, as the last lines show."""
    library, proof = evil
    address = Address((tracker.host, tracker.port), here.name)
    with listening(loader(str(library))) as port:
        with registered(address, port, f"{here.name}:0.1"):
            (board,) = [b for b in list_boards(address.tracker) if b.port == port]
        assert board.state == "no answer" and "refused" in board.info["name"]
        with registered(address, port, f"{here.name}:0.2"), pytest.raises(DeviceError) as error:
            Session(address)
        assert error.value.kind is Kind.REFUSED
        assert error.value.board == f"127.0.0.1:{port}" and "ssh" in str(error.value)
        assert not proof.exists()
        code = f"from tvm import rpc; rpc.connect('127.0.0.1', {port}, 'x')"
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
        assert proof.exists(), "the attack of this test is none"


def test_answers_that_tvm_would_follow_blindly_do_not_reach_it(
    tracker: Tracker, here: Target
) -> None:
    """A pointer to a function of ours, a text of 2**64 - 1 bytes, an answer too many."""
    address = Address((tracker.host, tracker.port), here.name)
    for number, wrong in enumerate(
        (
            packet(RETURN, struct.pack("<iiQ", 1, FUNCTION, 0x41414141)),
            packet(RETURN, struct.pack("<iiQ", 1, RAW_STR, 2**64 - 1)),
            struct.pack("<Qi", 2**62, RETURN),
            packet(RETURN, NO_VALUE) * 3,
        )
    ):
        with (
            listening(answering(packet(RETURN, NO_VALUE), wrong)) as port,
            registered(address, port, f"{here.name}:0.{number}"),
            pytest.raises(DeviceError) as error,
        ):
            Session(address)
        assert error.value.kind is Kind.REFUSED, str(error.value)


def test_the_form_of_an_answer() -> None:
    result = struct.pack("<iiqiQ", 2, 1, 68, POINTER, 77)
    check_answer(RETURN, result, CALL)
    check_answer(RETURN, NO_VALUE, SYSCALL)
    check_answer(EXCEPTION, struct.pack("<i", 1) + text("why"), COPY_FROM)
    for code, body, asked in (
        (RETURN, NO_VALUE, CALL),
        (RETURN, result, SYSCALL),
        (RETURN, NO_VALUE, COPY_FROM),
        (EXCEPTION, NO_VALUE, CALL),
        (RETURN, result + b"x", CALL),
        (RETURN, result[:-1], CALL),
        (RETURN, struct.pack("<i", -1), CALL),
        (RETURN, struct.pack("<i", 2**31 - 1), CALL),
        (RETURN, b"", CALL),
    ):
        with pytest.raises(RefusedError):
            check_answer(code, body, asked)


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack("<i", -5),
        struct.pack("<i", 0),
        struct.pack("<i", 2**31 - 1) + bytes(2**16),
        framed(b"no JSON"),
        framed(b"\xff\xfe"),
        framed(b"[" * 100_000),
        framed(b"[0, 1" + b"0" * 5000 + b"]"),
        framed(None),
        framed([0]),
        framed({"server_info": []}),
        framed([0, {"server_info": None, "queue_info": {}}]),
        framed([0, {"server_info": [], "queue_info": {"x": {"free": "many"}}}]),
        framed([0, ["127.0.0.1", {}, "x:0.1"]]),
        framed([-1, "refused \x1b[2J"]),
    ],
    ids=range(14),
)
def test_what_is_no_answer_of_a_tracker(answer: bytes) -> None:
    with listening(tracker_of(answer)) as port:
        where = ("127.0.0.1", port)
        for question in (lambda: summary(where), lambda: request(where, "x", "test", 5)):
            start = time.monotonic()
            with pytest.raises(DeviceError) as error:
                question()
            assert error.value.kind is Kind.LINK
            assert str(error.value).startswith("link: ") and "\x1b" not in str(error.value)
            assert f"127.0.0.1:{port}" in str(error.value)
            assert time.monotonic() - start < 2


def test_an_answer_that_drips_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnv2_tvm.devices.rpc.tracker._ANSWER_S", 0.5)
    with listening(tracker_of(framed([0, {}]) * 10, pause_s=0.2)) as port:
        start = time.monotonic()
        with closing(connect(("127.0.0.1", port))) as link, pytest.raises(TimeoutError):
            ask(link, 6, within_s=0.5)
        assert time.monotonic() - start < SHORT_S


def test_a_wrong_board_hides_no_other(
    tracker: Tracker, here: Target, capsys: pytest.CaptureFixture[str], evil: tuple[Path, Path]
) -> None:
    address = tracker.host, tracker.port
    wrong: list[Any] = [
        {"key": "server:" + ESCAPES, "addr": ["10.0.0.7", 1]},
        {"key": "server:x", "addr": [7, "x"]},
        {"key": "server:y", "addr": ["10.0.0.7", 99999]},
        {"key": "server:z", "addr": ["10.0.0.7", 1], "boards": {"z": 10**9}},
    ]
    with ExitStack() as stack:
        stack.enter_context(LocalBoards(here, address))
        for info in wrong:
            connection = stack.enter_context(closing(connect(address)))
            ask(connection, 5, info)
        port = stack.enter_context(listening(loader(str(evil[0]))))
        stack.enter_context(registered(Address(address, here.name), port, f"{here.name}:0.7"))
        wait_for_boards(address, here.name, 2)
        device.list_(tracker.address)
    output = capsys.readouterr().out
    assert "\x1b" not in output and "\u202e" not in output
    rows = [line.split() for line in output.splitlines() if here.name in line]
    assert sorted(row[2] for row in rows) == ["free", "no"], output


@pytest.mark.parametrize(
    "change",
    [
        {"clock_mhz": "fast"},
        {"clock_mhz": -1},
        {"cores": 10**30},
        {"features": "avx"},
        {"features": [1]},
        {"name": None},
        {"emulated": None},
    ],
)
def test_what_a_board_tells_has_types(change: dict[str, Any]) -> None:
    told = board_info(False)
    assert checked(json.dumps(told)) == told
    (field,) = change
    for text_ in (json.dumps(told | change), json.dumps([told]), "{" * 10**5, "", "1e400"):
        with pytest.raises(UserError, match="what it tells of itself"):
            checked(text_)
    with pytest.raises(UserError, match=field):
        checked(json.dumps(told | change))
    with pytest.raises(UserError):
        checked(b"no text")


def test_what_a_board_tells_steers_no_terminal() -> None:
    told = checked(json.dumps(board_info(False) | {"name": ESCAPES, "cpu": ESCAPES}))
    assert told["name"].isprintable() and told["cpu"].isprintable()


@pytest.mark.parametrize(
    "times", [[1e-3], [1e-3, 0.0], [1e-3, -1.0], [1e-3, math.nan], [1e-3, 1e400]]
)
def test_times_that_no_clock_measures(times: list[float]) -> None:
    """Whatever TVM makes of a board's bytes."""
    network = RemoteNetwork.__new__(RemoteNetwork)
    network.session = SimpleNamespace(board="10.0.0.7:9091")  # type: ignore[assignment]
    with pytest.raises(DeviceError, match=r"the board at 10\.0\.0\.7:9091 says that it took \["):
        network._possible(times, 2, 1e-9)


def test_the_networks_of_a_job_give_their_board_back(
    tracker: Tracker, here: Target, tiny: Built
) -> None:
    """Also where somebody keeps them: the session ends with the block, and with it the relay."""
    address = Address((tracker.host, tracker.port), here.name)
    with LocalBoards(here, address.tracker):
        wait_for_boards(address.tracker, address.key)
        with Boards(address, print) as boards, boards.open(tiny.folder) as kept:
            assert len(kept.times_s(tiny.network.images(0), 2)) == 2
        wait_for_boards(address.tracker, address.key)
        assert kept.session.board
