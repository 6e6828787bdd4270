"""A phone over `adb`, Android's debug bridge.

`adb devices` says who is there and in which state; the commands that follow name the device:
`adb -s SERIAL push FILE PATH` and `adb -s SERIAL shell COMMAND`, whose exit code and stderr are
those of the command on Android 7 and later. What adb itself has to say starts with `adb:` or
`error:`. The one folder of a phone where a shell may run programs is /data/local/tmp.
"""

import re
from pathlib import Path

from mnv2_tvm.device.failure import DeviceError, Kind
from mnv2_tvm.errors import UserError
from mnv2_tvm.via.transport import Outcome, quoted_sh, run_command

_SERIAL = re.compile(r"[\w.:\[][\w.:\[\]-]*", re.ASCII)
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
            raise UserError(f"'{serial}' is no serial number of adb; see adb devices")
        self.name = f"adb:{serial}" if serial else "adb"
        self._serial = serial
        self._found = False

    def shell(self, script: str, seconds: float, doing: str) -> Outcome:
        """Run a script there. Raises DeviceError of kind link or timeout."""
        return self._run(["shell", quoted_sh(script)], seconds, doing)

    def push(self, local: Path, remote: str, seconds: float) -> Outcome:
        """Copy a file there."""
        return self._run(["push", str(local), remote], seconds, f"taking {local.name}")

    def _run(self, words: list[str], seconds: float, doing: str) -> Outcome:
        if not self._found:
            self._serial, self._found = self._choose(), True
        assert self._serial is not None
        done = self._adb(["-s", self._serial, *words], seconds, doing)
        if done.code and (lost := _LOST.search(done.stderr)):
            what = f"{self.name} is lost while {doing}: {lost[0]}; see adb devices"
            raise DeviceError(Kind.LINK, what, self.name)
        return done

    def _choose(self) -> str:
        """The serial number of the device that is meant. Raises DeviceError unless it is ready."""
        done = self._adb(["devices"], _LIST_S, "listing its devices")
        if done.code:
            raise DeviceError(Kind.LINK, f"adb devices failed: {done.words}; adb kill-server")
        rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()[1:]]
        states = {row[0]: row[1].strip() for row in rows if len(row) == 2 and row[0] != "*"}
        there = ", ".join(f"{serial} ({state})" for serial, state in states.items())
        if not states:
            raise DeviceError(
                Kind.LINK,
                "adb sees no device: plug the phone in, switch on USB debugging in its developer "
                "options, then see adb devices",
            )
        if self._serial is None and len(states) > 1:
            raise DeviceError(Kind.LINK, f"adb sees {there}; name one with --via adb:SERIAL")
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

    def _adb(self, words: list[str], seconds: float, doing: str) -> Outcome:
        return run_command(["adb", *words], self.name, seconds, doing, _INSTALL, None)
