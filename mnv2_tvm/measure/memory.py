"""Peak resident memory of a run, measured in a process that does nothing else.

`python -m mnv2_tvm.measure.memory DIR THREADS` loads the library in DIR, runs it, and prints one
JSON object. It does not import TVM: what it reports is what the product needs.
"""

import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mnv2_tvm.commands import run_command
from mnv2_tvm.deploy.loader import load
from mnv2_tvm.devices.board.words import ending
from mnv2_tvm.errors import UserError
from mnv2_tvm.untrusted import decode_json

_DEADLINE_S = 600.0  # for all runs and the start: some network may be large
_RUNS = 3  # the first touches every page; the others show that nothing grows


@dataclass(frozen=True)
class Memory:
    """Bytes, exact to some 100 KiB: Linux adds up the pages of each CPU lazily."""

    peak_rss_bytes: int  # of the whole process, Python and numpy with it
    rss_growth_bytes: int  # the peak over what was resident after the imports


def measure(folder: Path, threads: int) -> Memory:
    """Of this process, which must not have run anything large before."""
    before = _status_bytes("VmRSS")
    network = load(folder, threads)
    images = np.ones(network.input_shape, np.float32)
    result = np.empty(network.output_shape, np.float32)
    for _ in range(_RUNS):
        network.run(images, result)
    # Not ru_maxrss: across exec it keeps the peak of the process that started this one.
    peak = _status_bytes("VmHWM")
    return Memory(peak_rss_bytes=peak, rss_growth_bytes=peak - before)


def measure_in_child(folder: Path, threads: int) -> Memory:
    """`measure` in a fresh process. Raises UserError with the child's own words.

    A library that hangs or writes without end is cut off.
    """
    command = [sys.executable, "-m", "mnv2_tvm.measure.memory", str(folder), str(threads)]
    what = f"the memory of {folder} cannot be measured"
    doing, remedy = f"running {folder} to measure its memory", "see python -m mnv2_tvm.doctor"
    done = run_command(command, "a process of this host", _DEADLINE_S, doing, remedy, None)
    if done.code:
        raise UserError(f"{what}:\n{done.stderr.strip() or ending(done.code)}")
    *_, last = done.stdout.splitlines() or [""]  # what is imported may say something before
    return decode_json(last, Memory, what)


def _status_bytes(key: str) -> int:
    """A size of /proc/self/status, which has it in KiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    if match is None:
        raise UserError(f"/proc/self/status has no {key}: memory is measured on Linux only")
    return int(match[1]) * 1024


def main() -> None:
    """The child's side of `measure_in_child`."""
    folder, threads = sys.argv[1:]
    try:
        print(json.dumps(asdict(measure(Path(folder), int(threads)))))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
