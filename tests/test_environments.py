"""Users whose machines are not as ours: what they lack stops neither `build` nor `run`."""

import re
import stat
from pathlib import Path

import pytest
from built_folder import names
from conftest import ended
from mounts import run_as_a_stranger

from mnv2_tvm import run
from mnv2_tvm.data import data_folder
from mnv2_tvm.records.tuning_log import RECORDS
from mnv2_tvm.target import Target

PHOTO = Path(run.__file__).parent / "samples" / "cat.jpg"
SIZES = ["--width", "0.35", "--resolution", "32"]  # there is a record of its last layer


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def test_a_stranger_builds_and_runs(
    here: Target, tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No home, nothing but the output writable, no code from temporary files, ASCII, umask 077."""
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    plain |= {"PYTHONIOENCODING": "ascii", "TMPDIR": str(temporary)}
    out, labels = tmp_path / "aus\u0131", tmp_path / "labels.txt"
    labels.write_text("\u0131\n\xe9\n" * 500, encoding="utf-8")
    words = ["-m", "mnv2_tvm.build", "--target", here.name, *SIZES, "-o", out]
    built = run_as_a_stranger(temporary, *words, **plain)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600, 0o700}
    words = [out, "--image", PHOTO, "--labels", labels]
    done = run_as_a_stranger(temporary, "-m", "mnv2_tvm.run", *words, **plain)
    assert done.returncode == 0, done.stderr
    code, told, _ = ended(capsys, run.main, *words)
    assert code == 0 and len(classes(told)) == 5
    assert classes(done.stdout) == classes(told)


def classes(told: str) -> list[str]:
    """The table of `run`, a line a class."""
    return re.findall(r"^ +\d  class +\d.*", told, re.MULTILINE)


def test_a_home_of_somebody_else(here: Target, tmp_path: Path, temporary: Path) -> None:
    """It cannot be written, its records cannot be read; and neither TMPDIR nor the locale exist."""
    records = tmp_path / "home/.local/share/mnv2_tvm/tuning_logs" / here.name / RECORDS
    records.parent.mkdir(parents=True)
    records.touch()
    records.chmod(0)
    (tmp_path / "home").chmod(0o500)
    home = {"HOME": str(tmp_path / "home"), "TMPDIR": "/missing", "LC_ALL": "tr_TR.UTF-8"}
    words = ["-m", "mnv2_tvm.build", "--target", here.name, *SIZES, "-o", tmp_path / "out"]
    built = run_as_a_stranger(temporary, *words, **home)
    assert built.returncode == 0, built.stderr
    assert f"cannot read {records}" in built.stderr and built.stderr.count("\n") == 1
    shipped = data_folder("tuning_logs") / here.name / RECORDS
    assert (f"in {shipped}" in built.stdout) is shipped.is_file()
    assert names(tmp_path / "home") == {".local"}
