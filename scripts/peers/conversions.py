"""Every conversion in a process of its own, before anything is measured.

In a folder that is kept, an empty file `NAME.done` says that the conversion ended well; it is not
done again. Our own library is always built anew.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from case import Case
from formats import FORMATS

_SCRIPT = Path(__file__).with_name("formats.py")
_DEADLINE_S = 900
_OURS = "library"

# What holds oneDNN (in torch and OpenVINO), ATen, MKL, OpenVINO's own code and inductor to AVX2.
_AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OV_CPU_MAX_ISA": "AVX2",
    "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",
}


def environment(case: Case) -> dict[str, str]:
    """Of every process that converts or is measured."""
    settings = {
        "OMP_NUM_THREADS": str(case.threads),
        "TMPDIR": str(case.folder),  # inductor leaves what it unpacks there
        # Not the user's cache: what is there was perhaps compiled for another instruction set.
        "TORCHINDUCTOR_CACHE_DIR": str(case.folder / "inductor-cache"),
        "PYTHONWARNINGS": "ignore",
    }
    return os.environ | settings | (_AVX2 if case.avx2 else {})


def convert(case: Case, names: Iterable[str], litert_python: Path) -> dict[str, str]:
    """Write the files of these formats; the result says why for each that cannot be had."""
    failed: dict[str, str] = {}
    sources_first = (step for name in names for step in (FORMATS[name].source, name) if step)
    for name in dict.fromkeys(sources_first):
        source = FORMATS[name].source
        python = litert_python if name == "litert" else Path(sys.executable)
        if source in failed:
            reason: str | None = f"no {source} to convert from: {failed[source]}"
        elif name != _OURS and _done(case, name).exists():
            reason = None
        elif not python.is_file():
            reason = "its converter's venv is not installed"
        else:
            print(f"converting: {name}", file=sys.stderr)
            reason = _run(case, name, python)
            if reason is None:
                _done(case, name).touch()
        if reason is not None:
            failed[name] = reason
    return failed


def _done(case: Case, name: str) -> Path:
    return case.folder / f"{name}.done"


def _run(case: Case, name: str, python: Path) -> str | None:
    """Why it failed, in one line; None: it did not."""
    command = [str(python), str(_SCRIPT), name, case.to_json()]
    try:
        done = subprocess.run(
            command,
            env=environment(case),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        return f"the conversion took more than {_DEADLINE_S} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the converter was killed by signal {-done.returncode}"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1].replace(f"{case.folder}/", "")
