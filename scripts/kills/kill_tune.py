"""Kill `tune` at random moments, always resumed on one log, and count what that costs.

    scripts/kill_tune --kills 50

Prints JSON. Exits with 1 where a measurement was lost, came twice or was cut, or where the run that
is left in peace leaves a folder or a process behind.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ["--width", "0.35", "--resolution", "32"]
SOON_S = 10.0  # in which the processes of a killed run are gone


def start(arguments: argparse.Namespace, log_dir: Path, scratch: Path) -> "subprocess.Popen[str]":
    """A run of `tune` as the leader of a session, with a folder of its own for temporary files."""
    command = [sys.executable, "-m", "mnv2_tvm.tune", "--target", arguments.target, *NETWORK]
    options = ["--layer", arguments.layer, "--trials", str(arguments.trials)]
    return subprocess.Popen(
        [*command, *options, "--log-dir", str(log_dir)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(owner) == session and state != "Z":
            found.append(int(folder.name))
    return found


def lines_of(log_dir: Path) -> list[str]:
    """Of the measurements, each with its end."""
    files = list(log_dir.glob("*/measurements.jsonl"))
    return files[0].read_text(encoding="utf-8").splitlines(keepends=True) if files else []


def left_in(scratch: Path) -> list[str]:
    """Whatever is there: nothing else writes into it."""
    return sorted(path.name for path in scratch.iterdir())


def gone_after_s(session: int) -> float | None:
    """Seconds until no process of the session is left; None, and they are ended, if not soon."""
    began = time.monotonic()
    while left := processes(session):
        if time.monotonic() - began > SOON_S:
            for process in left:
                os.kill(process, signal.SIGKILL)
            return None
        time.sleep(0.05)
    return time.monotonic() - began


def kill_often(arguments: argparse.Namespace, log_dir: Path, scratch: Path) -> dict[str, object]:
    """Kill the leader alone, as the kernel does when memory is short, and compare the logs."""
    draw = random.Random(arguments.seed)
    found: Counter[str] = Counter()
    slowest_s = 0.0
    before: list[str] = []
    while found["kills"] < arguments.kills:
        run = start(arguments, log_dir, scratch)
        try:
            run.communicate(timeout=draw.uniform(arguments.soonest, arguments.latest))
            found["ended before"] += 1  # all was measured: a new log for the others
            if found["ended before"] > arguments.kills:
                break
            for path in log_dir.glob("*/*"):
                path.unlink()
            before = []
            continue
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
        found["kills"] += 1
        seconds = gone_after_s(run.pid)
        found["processes left"] += seconds is None
        slowest_s = max(slowest_s, seconds or 0.0)
        now = lines_of(log_dir)
        found["measurements"] += len(now) - len(before)
        found["lost"] += len(before) - len(set(before) & set(now))
        found["cut"] += bool(now) and not now[-1].endswith("\n")
        before = now
    return {**found, "slowest end s": round(slowest_s, 2)}


def last_run(arguments: argparse.Namespace, log_dir: Path, scratch: Path) -> dict[str, object]:
    """A run in peace goes on from there; what is wrong with the log and what is left behind."""
    run = start(arguments, log_dir, scratch)
    _, said = run.communicate()
    time.sleep(1)
    tables, corrupt = [], 0
    for line in lines_of(log_dir):
        try:
            tables.append(json.loads(line))
        except ValueError:
            corrupt += 1
    keys = Counter(
        (table["layer"], json.dumps(table["schedule"]))
        for table in tables
        if table["failure"] is None
    )
    return {
        "exit code": run.returncode,
        "corrupt": corrupt + said.count("skipped: "),
        "twice": sum(count - 1 for count in keys.values()),
        "failures": sum(table["failure"] is not None for table in tables),
        "records": sum(1 for path in log_dir.glob("*/records.jsonl") for _ in path.open()),
        "left": left_in(scratch),
        "processes": len(processes(run.pid)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="host")
    parser.add_argument("--layer", default="f32-*conv-*2x2x*")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--soonest", type=float, default=3.0, help="seconds to a kill")
    parser.add_argument("--latest", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        log_dir, scratch = Path(name) / "logs", Path(name) / "scratch"
        scratch.mkdir()
        killed = kill_often(arguments, log_dir, scratch)
        peace = last_run(arguments, log_dir, scratch)
    print(json.dumps({"killed": killed, "last run": peace}, indent=1))
    wrong = [killed.get(key) for key in ("lost", "cut", "processes left")]
    wrong += [peace[key] for key in ("exit code", "corrupt", "twice", "left", "processes")]
    return 1 if any(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
