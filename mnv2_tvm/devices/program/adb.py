"""A phone over `adb`, Android's debug bridge.

`adb devices` says who is there and in which state; the commands that follow name the device:
`adb -s SERIAL push FILE PATH` and `adb -s SERIAL shell COMMAND`, whose exit code and stderr are
those of the command on Android 7 and later. What adb itself has to say starts with `adb:` or
`error:`. The one folder of a phone where a shell may run programs is /data/local/tmp.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from mnv2_tvm.commands import MOST_BYTES, Outcome, run_command
from mnv2_tvm.devices.program.transport import quoted_sh
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.untrusted import printable

# A phone found over the air is called `adb-SERIAL-abc (2)._adb-tls-connect._tcp`. No serial number
# starts with `-`: adb would take it for an option.
_SERIAL = re.compile(r"[\w.:\[]([\w.:\[\]()#+@ -]{0,126}[\w.:\])])?", re.ASCII)
_HEADING = "List of devices attached"
_LOST = re.compile(
    r"^(adb|error|adb: error): (closed|no devices|device\b|protocol fault|connect failed).*", re.M
)
_LIST_S = 30.0  # the first call starts adb's server
_INSTALL = "apt install adb, or unpack Android's platform-tools"
_REMEDIES = {  # of a state
    "unauthorized": "unlock the phone and allow this computer's key, then see adb devices",
    "authorizing": "unlock the phone and allow this computer's key, then see adb devices",
    "offline": "unplug it and plug it in again, or adb reconnect offline",
    "no permissions": "let your user open it: apt install android-sdk-platform-tools-common, "
    "then adb kill-server",
}


class Adb:
    """The phone with a serial number as `adb devices` shows it, or the only one there."""

    folder = "/data/local/tmp/mnv2-XXXXXX"

    def __init__(self, serial: str | None) -> None:
        if serial is not None and not _SERIAL.fullmatch(serial):
            words = f"'{printable(serial)}' is no serial number of adb; see adb devices"
            raise UserError(words)
        self.name = f"adb:{serial}" if serial else "adb"
        self._serial = serial
        self._found = False

    def connected(self) -> AbstractContextManager[None]:
        """Nothing to do: adb's server keeps the connection."""
        return nullcontext()

    def shell(
        self, script: str, seconds: float, doing: str, most_bytes: int = MOST_BYTES
    ) -> Outcome:
        """Run a script there. Raises DeviceError of kind link or timeout."""
        return self._run(["shell", quoted_sh(script)], seconds, doing, most_bytes)

    def push(self, local: Path, remote: str, seconds: float) -> Outcome:
        """Copy a file there."""
        return self._run(["push", str(local), remote], seconds, f"taking {local.name}")

    def _run(
        self, words: list[str], seconds: float, doing: str, most_bytes: int = MOST_BYTES
    ) -> Outcome:
        if not self._found:
            self._serial, self._found = self._choose(), True
        assert self._serial is not None
        done = self._adb(["-s", self._serial, *words], seconds, doing, most_bytes)
        if done.code and (lost := _LOST.search(done.stderr)):
            what = f"{self.name} is lost while {doing}: {printable(lost[0])}; see adb devices"
            raise DeviceError(Kind.LINK, what, self.name)
        return done

    def _choose(self) -> str:
        """The serial number of the device that is meant. Raises DeviceError unless it is ready."""
        done = self._adb(["devices"], _LIST_S, "listing its devices", MOST_BYTES)
        if done.code:
            raise DeviceError(Kind.LINK, f"adb devices failed: {done.words}; adb kill-server")
        states = _states(done.stdout)
        there = ", ".join(f"{serial} ({state})" for serial, state in states.items())
        if not states:
            raise DeviceError(
                Kind.LINK,
                "adb sees no device: plug the phone in, switch on USB debugging in its developer "
                "options, then see adb devices",
            )
        if self._serial is None and len(states) > 1:
            raise DeviceError(Kind.LINK, f"adb sees {there}; name one with --on adb:SERIAL")
        serial = self._serial or next(iter(states))
        if serial not in states:
            remedy = f"; adb connect {serial}" if ":" in serial else "; see adb devices"
            raise DeviceError(Kind.LINK, f"adb sees no {serial}, but {there}{remedy}", self.name)
        if (state := states[serial]) != "device":
            remedy = next(
                (remedy for name, remedy in _REMEDIES.items() if state.startswith(name)),
                "start Android on it, then see adb devices",
            )
            raise DeviceError(Kind.LINK, f"the device {serial} is '{state}'; {remedy}", self.name)
        return serial

    def _adb(self, words: list[str], seconds: float, doing: str, most_bytes: int) -> Outcome:
        return run_command(["adb", *words], self.name, seconds, doing, _INSTALL, None, most_bytes)


def _states(listing: str) -> dict[str, str]:
    """The state of each device that `adb devices` lists, by its serial number.

    Before and between its lines adb may tell of its server: that it starts one, or ends one of
    another version. Only the line of a device has a tab.
    """
    rows = (line.strip().partition("\t") for line in listing.partition(_HEADING)[2].split("\n"))
    return {printable(name): printable(state.strip()) for name, tab, state in rows if tab and name}
