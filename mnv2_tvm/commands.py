"""Run another program: with a deadline for all of it, and a bound on what it may say."""

import os
import selectors
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.untrusted import printable

MOST_BYTES = 2**20  # of what a command may say; those that tell more name their own limit
_CHUNK = 2**16
_STEP_S = 0.02  # between two looks whether the command has ended


@dataclass(frozen=True)
class Outcome:
    """How a command on the device ended."""

    code: int  # 128 and a signal's number where that ended it
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """The last line it said, safe to print."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        # Two long paths may stand before the cause.
        return printable(lines[-1].strip(), limit=1000) if lines else "it says nothing"


def run_command(
    command: list[str],
    name: str,
    seconds: float,
    doing: str,
    remedy: str,
    stdin: Path | None,
    most_bytes: int = MOST_BYTES,
) -> Outcome:
    """Run ssh or adb. Raises DeviceError where it is missing, late, or says too much.

    `remedy` is what installs it. The deadline holds for all of it, whatever trickles in meanwhile.
    """
    try:
        with (stdin or Path(os.devnull)).open("rb") as source:
            process = subprocess.Popen(
                command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
    except FileNotFoundError as error:
        raise DeviceError(Kind.LINK, f"{command[0]} is not installed here; {remedy}") from error
    except OSError as error:
        words = f"{command[0]} cannot be started ({error.strerror}); {remedy}"
        raise DeviceError(Kind.LINK, words) from error
    try:
        said = _all_it_says(process, time.monotonic() + seconds, most_bytes)
    except TimeoutError as error:
        words = f"{name} did not answer within {seconds:.0f} s while {doing}"
        raise DeviceError(Kind.TIMEOUT, words, name) from error
    except OverflowError as error:
        words = f"{name} said more than {most_bytes} bytes while {doing}: it was cut off"
        raise DeviceError(Kind.ERROR, words, name) from error
    finally:
        process.kill()  # no more than a look at one that has ended
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
    return Outcome(process.returncode, *(part.decode(errors="replace") for part in said))


def _all_it_says(
    process: "subprocess.Popen[bytes]", deadline: float, most_bytes: int
) -> tuple[bytes, bytes]:
    """Both streams of a process until it has ended.

    It need not close them: ssh leaves them to the process that keeps a shared connection open, adb
    to its server. Raises TimeoutError, and OverflowError for more than `most_bytes` in all.
    """
    assert process.stdout is not None and process.stderr is not None
    streams = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for number in streams:
            os.set_blocking(number, False)
            selector.register(number, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None  # asked first: its last words are in the pipes then
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            ready = selector.select(0 if ended else min(_STEP_S, left))
            for key, _ in ready:
                if part := os.read(key.fd, _CHUNK):
                    streams[key.fd] += part
                else:
                    selector.unregister(key.fd)
            if sum(map(len, streams.values())) > most_bytes:
                raise OverflowError
            if ended and not ready:
                break
    out, err = streams.values()
    return bytes(out), bytes(err)
