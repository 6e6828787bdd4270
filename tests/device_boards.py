"""Help for tests with a tracker and boards: waiting, sessions with a deadline, processes."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tvm import rpc
from tvm.rpc.base import TrackerCode

from mnv2_tvm.deploy.link import compile_c, link_shared
from mnv2_tvm.devices.rpc.listing import summary
from mnv2_tvm.devices.rpc.session import Address as BoardAddress
from mnv2_tvm.devices.rpc.tracker import Tracker, ask, connect, start_tracker
from mnv2_tvm.failures import DeviceError
from mnv2_tvm.target import Target

Address = tuple[str, int]
PATIENCE_S = 120.0  # for what must happen soon; a loaded machine may take its time
SLACK_S = 20.0  # for all but the waiting: the reference's answer, imports, a loaded machine
SHORT_S = 2.0  # with the fixture `short`

_CRASH = """
#include <stdint.h>
__attribute__((visibility("default"))) int __tvm_ffi_crash(
    void *self, const void *arguments, int32_t count, void *result) {
  volatile int *volatile nowhere = 0;
  return *nowhere;
}
__attribute__((visibility("default"))) int __tvm_ffi_hang(
    void *self, const void *arguments, int32_t count, void *result) {
  for (volatile int i = 0;; i++) {}
}
"""


def wait_until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for the condition; fail with `what` when it takes too long."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.05)


@contextmanager
def ready_tracker(port: int = 0) -> Iterator[Tracker]:
    """A tracker that answers: on a loaded machine its start takes longer than anybody waits."""

    with start_tracker(port=port) as tracker:
        wait_until(lambda: answers(tracker), "an answer of the tracker")
        yield tracker


def answers(tracker: Tracker) -> bool:
    """Whether it does by now."""
    try:
        summary((tracker.host, tracker.port))
    except DeviceError:
        return False
    return True


def wait_for_boards(tracker: Address, key: str, count: int = 1) -> None:
    """Wait until so many boards of the key are free."""
    wait_until(lambda: summary(tracker)[1].get(key, 0) >= count, f"{count} free boards of {key}")


def addresses(tracker: Address) -> set[str]:
    """HOST:PORT of all boards at the tracker."""
    return {f"{board.host}:{board.port}" for board in summary(tracker)[0]}


@contextmanager
def registered(address: BoardAddress, port: int, match: str) -> Iterator[None]:
    """An entry of the tracker, made by hand, for a board at a port of the loopback."""
    with closing(connect(address.tracker)) as connection:
        server = {"key": f"server:{address.key}", "addr": ("127.0.0.1", port)}
        ask(connection, TrackerCode.UPDATE_INFO, server)
        ask(connection, TrackerCode.PUT, address.key, (port, match), None)
        yield


def session(tracker: Address, key: str, timeout_s: float = 0) -> Any:
    """A session on any board of the key. The tracker answers within 5 s or this raises."""
    with closing(connect(tracker)) as connection:
        _, (host, port, match) = ask(connection, TrackerCode.REQUEST, key, "test", 1)
    return rpc.connect(host, port, match, session_timeout=timeout_s)


def upload(remote: Any, library: Path) -> None:
    """Send the file under its own name. Given a name, TVM would leave the file open."""
    remote.upload(bytearray(library.read_bytes()), library.name)


def assert_fails(
    tracker: Address, key: str, library: Path, name: str, timeout_s: float = 0
) -> None:
    """A function of `crashing_library` ends its session on a board in an error."""
    remote = session(tracker, key, timeout_s)
    upload(remote, library)
    function = remote.load_module(library.name)[name]
    with pytest.raises(Exception, match=r".+"):
        function()


def crashing_library(target: Target, folder: Path) -> Path:
    """A library whose functions `crash` and `hang` do just that."""
    source, built, library = (folder / f"crash.{suffix}" for suffix in ("c", "o", "so"))
    source.write_text(_CRASH)
    compile_c(source, target, built)
    link_shared([built], target, library)
    return library


def processes_with(word: str) -> list[int]:
    """The living processes whose command line holds the word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if word.encode() in command and state != "Z":
                found.append(int(entry.name))
    return found


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def way(address: BoardAddress) -> str:
    """As `--on` takes it."""
    return "tracker:{}:{}".format(*address.tracker)
