"""An `adb` without a phone: the same commands, answers and exit codes, on this machine.

Written as a script by `write_fake_adb`; its folder `phone` stands for /data/local/tmp. The answers
are those of adb 1.0.41 in `packages/modules/adb`.
"""

import sys
from pathlib import Path

SCRIPT = """\
#!{python}
import shutil, subprocess, sys
from pathlib import Path

MODE, PHONE = {mode!r}, {phone!r}
AIR = "adb-PHONE1-Xy (2)._adb-tls-connect._tcp"
BEFORE = {{
    "starts": "* daemon not running; starting now at tcp:5037\\n* daemon started successfully\\n",
    "other version": "adb server version (39) doesn't match this client (41); killing...\\n",
}}
STATES = {{
    "unauthorized": "PHONE1\\tunauthorized\\n", "offline": "PHONE1\\toffline\\n", "none": "",
    "no permissions": "PHONE1\\tno permissions (user in plugdev group; are your udev rules "
    "wrong?); see [http://developer.android.com/tools/device.html]\\n",
    "recovery": "PHONE1\\trecovery\\n",
    "two": "PHONE1\\tdevice\\n192.168.1.5:5555\\tdevice\\n", "air": AIR + "\\tdevice\\n",
    "other version": "* daemon started successfully\\nPHONE1\\tdevice\\n",
}}
words = sys.argv[1:]
if words == ["devices"]:
    print(BEFORE.get(MODE, "") + "List of devices attached")
    print(STATES.get(MODE, "PHONE1\\tdevice\\n"))
    sys.exit(0)
assert words[0] == "-s" and words[1] in ("PHONE1", "192.168.1.5:5555", AIR), words
command, rest = words[2], words[3:]
if MODE == "lost" and "--deadline" in " ".join(rest):
    sys.exit("error: device 'PHONE1' not found")
if command == "push":
    source, target = rest
    if MODE == "full":
        sys.exit(f"adb: error: failed to copy '{{source}}' to '{{target}}': remote write failed: "
                 "No space left on device")
    shutil.copyfile(source, target.replace("/data/local/tmp", PHONE))
    if MODE == "cut":
        with open(target.replace("/data/local/tmp", PHONE), "r+b") as file:
            file.truncate(1000)
    print(f"{{source}}: 1 file pushed, 0 skipped. 30.1 MB/s")
elif command == "shell":
    (line,) = rest
    line = line.replace("/data/local/tmp", PHONE)
    if MODE == "noexec":
        line = line.replace("chmod 700", "chmod 600")
    done = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL)
    # The phone's shell tells of a signal as every shell does.
    sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)
else:
    sys.exit(f"adb: unknown command {{command}}")
"""


def write_fake_adb(folder: Path, mode: str = "") -> Path:
    """Write `adb` into `folder`; the folder that stands for /data/local/tmp."""
    phone = folder / "phone"
    phone.mkdir()
    command = folder / "adb"
    command.write_text(SCRIPT.format(python=sys.executable, mode=mode, phone=str(phone)))
    command.chmod(0o700)
    return phone
