"""A supervised TVM RPC server for a board: the standard library and TVM, nothing else.

    python -m board.serve --tracker HOST:PORT --key rasp4

A supervisor forks the listener and starts it again when it dies. Fork instead of exec, because an
emulated board cannot start a binary of its own architecture.
"""

import argparse
import ctypes
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from typing import NoReturn

from .listen import listen
from .words import ending, is_loopback, open_port_warning, parse_address, say

_STEADY_S = 60  # a server that lived so long starts again without a pause
_PR_SET_PDEATHSIG = 1

# The environment in which TVM is imported twice as fast: without the compiler.
QUICK_IMPORT = {"TVM_USE_RUNTIME_LIB": "1", "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"}


def end_with_parent(number: int, parent: int) -> None:
    """Let the kernel send this process the signal `number` when the process `parent` is gone."""
    with suppress(OSError, AttributeError):  # another libc: no more than a convenience
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # gone before we asked
        os.kill(os.getpid(), number)


def supervise(options: argparse.Namespace) -> int:
    """Keep a listener alive until SIGTERM, SIGINT or SIGHUP; then end all of its processes."""
    ends = {signal.SIGTERM, signal.SIGINT}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        ends.add(signal.SIGHUP)
    awaited = ends | {signal.SIGCHLD}
    # Waited for instead of handled: none can come between a fork and the line after it.
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    if options.with_parent:
        end_with_parent(signal.SIGTERM, options.with_parent)
    pause_s = 1
    while True:
        started = time.monotonic()
        code, stop = _one_listener(options, awaited)
        if stop is None:
            if time.monotonic() - started > _STEADY_S:
                pause_s = 1
            say(f"the server ended with {ending(code)}; it starts again in {pause_s} s")
            waited = signal.sigtimedwait(ends, pause_s)
            stop = waited and signal.Signals(waited.si_signo)
        if stop is not None:
            say(f"ended by {stop.name}")
            return 0
        pause_s = min(2 * pause_s, _STEADY_S)


def _one_listener(
    options: argparse.Namespace, awaited: "set[signal.Signals]"
) -> "tuple[int, signal.Signals | None]":
    """Run a listener: its exit code, or the signal that was sent to end the board."""
    scratch = tempfile.mkdtemp(prefix="mnv2-board-")
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
        _run_listener(options, scratch)
    with suppress(OSError):  # the child does the same: whoever comes first
        os.setpgid(child, child)
    ended = status = 0
    stop = None
    while not ended and stop is None:
        got = signal.Signals(signal.sigwait(awaited))
        if got == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
        else:
            stop = got
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # sessions too
    if not ended:
        os.waitpid(child, 0)
    shutil.rmtree(scratch, ignore_errors=True)
    return os.waitstatus_to_exitcode(status), stop


def _run_listener(options: argparse.Namespace, scratch: str) -> NoReturn:
    """The listener process."""
    try:
        os.setpgid(0, 0)
        parent = os.getppid()
        end_with_parent(signal.SIGKILL, parent)
        me = os.getpid()
        os.register_at_fork(after_in_child=lambda: end_with_parent(signal.SIGKILL, me))
        # A session that hangs in a kernel must die of TVM's SIGTERM, and leave no core file.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        tempfile.tempdir = scratch
        os.environ.update(QUICK_IMPORT)
        listen(options, scratch)
    except BaseException as error:
        say(f"the server failed: {type(error).__name__}: {error}")
        if not isinstance(error, (OSError, ImportError)):
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _address(text: str) -> "tuple[str, int]":
    try:
        return parse_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT") from None


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def main(arguments: "list[str] | None" = None) -> int:
    """Run the server; 0 after a signal to end."""
    parser = argparse.ArgumentParser(description="A supervised TVM RPC server for a board.")
    parser.add_argument(
        "--tracker", type=_address, metavar="HOST:PORT", required=True, help="register there"
    )
    parser.add_argument("--key", required=True, help="the name of the target")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_port, default=0, help="port to listen on; 0: any free one")
    parser.add_argument("--address", help="address that the tracker gives to clients")
    parser.add_argument("--emulated", action="store_true", help="not real hardware: say so")
    parser.add_argument("--with-parent", type=int, default=0, metavar="PID", help="end with it")
    options = parser.parse_args(arguments)
    if not is_loopback(options.host):
        say(open_port_warning("board", options.host))
    elif not options.address and not is_loopback(options.tracker[0]):
        parser.error(
            "the tracker is on another machine, but this server would listen on 127.0.0.1 only: "
            "add --host 0.0.0.0 in a network that you trust, or tunnel with ssh as README.txt shows"
        )
    if is_loopback(options.host):
        # A tracker on ::1 would give out that address, and the server listens on 127.0.0.1.
        options.address = options.address or options.host
    return supervise(options)


if __name__ == "__main__":
    sys.exit(main())
