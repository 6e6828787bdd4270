"""`--on`: tune, bench and run do the same on every kind of device.

`tune` on one device over ssh is in `test_via_tune.py`, on this machine in `test_search.py`.
"""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Built, ended
from device_boards import wait_for_boards
from fake_adb import write_fake_adb
from rich.console import Console
from small_search import short_tune
from ssh_server import ssh_server

from mnv2_tvm.bench import main as bench_main
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.tracker import Tracker
from mnv2_tvm.run import main as run_main
from mnv2_tvm.target import Target

LAYER = "f32-dwconv-3x3s1-8x8x*"
WAYS = {
    "here": ["here"],
    "tracker": ["tracker:TRACKER"],
    "ssh": ["ssh:board"],
    "adb": ["adb"],
    "several": ["ssh:board", "adb:PHONE1"],
}


@pytest.fixture(scope="module")
def there(
    tmp_path_factory: pytest.TempPathFactory, here: Target, tracker: Tracker
) -> Iterator[str]:
    """An ssh server, a phone and two boards of this kind of machine; the tracker's address."""
    folder = tmp_path_factory.mktemp("there")
    (folder / "adb").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(ssh_server(folder))
        write_fake_adb(folder / "adb")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PATH", f"{server.bin}:{folder / 'adb'}", prepend=":")
        stack.enter_context(LocalBoards(here, (tracker.host, tracker.port), count=2))
        wait_for_boards((tracker.host, tracker.port), here.name, 2)
        yield tracker.address


@pytest.fixture(params=WAYS)
def ways(request: pytest.FixtureRequest, there: str) -> list[str]:
    return [way.replace("TRACKER", there) for way in WAYS[request.param]]


@pytest.mark.parametrize("ways", ["tracker", "several"], indirect=True)
def test_tune(ways: list[str], here: Target, tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=1000)
    report = short_tune(
        here, TINY, trials=4, layer=LAYER, log_dir=tmp_path, on=ways, console=console
    )
    assert report.tally.measured >= 4 and report.tally.failed == 0, said.getvalue()
    assert report.result.tuned_ms > 0
    assert all(0 < record.max_error < 1e-4 for record in report.records if record.schedule)


def test_bench_and_run(
    ways: list[str], tiny: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tiny.network.images(0)
    np.save(tmp_path / "x.npy", images)
    for way in ways:
        words = [
            "--library",
            tiny.folder,
            "--on",
            way,
            "--runs",
            "5",
            "--warmup",
            "0",
            "--per-layer",
        ]
        code, _, errors = ended(capsys, bench_main, *words, "--json", tmp_path / "out.json")
        assert code == 0, errors
        result = json.loads((tmp_path / "out.json").read_text())
        assert 0 < result["relative_error"] < 1e-4 and result["peak_gflop_per_s"] > 0
        assert [row["name"] for row in result["layers"]] == [
            row["name"] for row in tiny.manifest.layers
        ]
        arrays = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
        assert ended(capsys, run_main, tiny.folder, "--on", way, *arrays) == (0, "", "")
        error = np.abs(np.load(tmp_path / "y.npy") - tiny.network.reference(images)).max()
        assert error < 1e-4
