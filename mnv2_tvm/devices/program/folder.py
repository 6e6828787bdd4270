"""A private folder on a device, with the name of the process on this host that it belongs to.

A process that is killed, or loses its device, cannot remove its folder. The next one on the same
device does: it knows which processes of its own host are gone. Of another host's it only sees when
they last put a program there.
"""

import hashlib
import os
import platform
import re
import shlex
from contextlib import suppress
from pathlib import Path

_MARK = ".mnv2-owner"  # a folder without it is not ours, and stays
_MADE = re.compile(r"^(/.*/mnv2-\w{6})\s*\Z", re.MULTILINE | re.ASCII)
_FOUND = re.compile(
    r"^=== (mnv2-\w{6}) ([0-9a-f]{16})-(\d{1,10})-(\d{1,20}) "
    rf"?(mnv2-\w{{6}}/{re.escape(_MARK)})?$",
    re.MULTILINE | re.ASCII,
)
# The list has folders of anybody who can write there: links are left out, and so are other files.
# The last word of a line is there where no program came for a day.
_SCRIPT = f"""\
folder=$(mktemp -d PATTERN) || exit 1
echo OWNER >"$folder/{_MARK}" || {{ rm -rf "$folder"; exit 1; }}
cd "${{folder%/*}}" && for mark in mnv2-??????/{_MARK}; do
    if [ -f "$mark" ] && [ ! -L "$mark" ] && [ ! -L "${{mark%/*}}" ]; then
        echo "=== ${{mark%/*}} $(head -c 99 "$mark") $(find "$mark" -mtime +0)"
    fi
done
echo "$folder"
"""


def make_script(pattern: str) -> str:
    """For a device's `sh`: make a folder for this process, list those of ours, print its name.

    `pattern` is one of `mktemp -d` that ends in `/mnv2-XXXXXX`, as a shell is to read it.
    """
    place, number, start = _this_process()
    return _SCRIPT.replace("PATTERN", pattern).replace("OWNER", f"{place}-{number}-{start}")


def read_made(text: str) -> tuple[str | None, list[str]]:
    """What the script printed: the new folder, and those that nobody needs any more.

    A login shell may say something before.
    """
    made = _MADE.search(text)
    if not made:
        return None, []
    beside = made[1].rpartition("/")[0]
    here = _this_process()[0]
    left = [
        f"{beside}/{name}"
        for name, place, number, start, old in _FOUND.findall(text)
        if (_start_of(int(number)) != int(start) if place == here else old)
    ]
    return made[1], left


def keep_script(folder: str) -> str:
    """For a device's `sh`: show that the folder is in use."""
    return f"touch {shlex.quote(f'{folder}/{_MARK}')}"


def _this_process() -> tuple[str, int, int]:
    """Where processes have numbers of their own, a number among them, and its start.

    The first is the boot of a machine and a namespace there, and the user: others cannot be seen.
    """
    words = [platform.node(), str(os.getuid())]
    with suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        words.append(str(Path("/proc/self/ns/pid").readlink()))
    place = hashlib.sha256("\n".join(words).encode(errors="replace")).hexdigest()[:16]
    return place, os.getpid(), _start_of(os.getpid()) or 0


def _start_of(number: int) -> int | None:
    """When a process here started, in ticks since the boot; None where there is none."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="ascii", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
