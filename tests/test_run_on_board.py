"""The run verb on a board: a photo on an emulated Raspberry Pi 4, and every wrong use."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Built, ended
from device_boards import free_port, ready_tracker, wait_for_boards

from mnv2_tvm.build import build
from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.deploy.manifest import MANIFEST
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.session import Address
from mnv2_tvm.devices.rpc.tracker import Tracker
from mnv2_tvm.images import load_image
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.run import main
from mnv2_tvm.target import Target

CAT = Path(load_image.__code__.co_filename).parent / "samples" / "cat.jpg"
SMALL = Architecture(0.35, 96)
RASP4 = Target.load("rasp4")


@pytest.fixture
def there(rasp4: Address, tracker: Tracker) -> list[str]:
    """The options for the emulated board, once it is free."""
    wait_for_boards(rasp4.tracker, rasp4.key)
    return ["--on", f"tracker:{tracker.address}"]


@pytest.fixture(scope="module")
def folders(here: Target, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One network of one seed, built for this host and for the board; batches of two."""
    folder = tmp_path_factory.mktemp("out")
    architecture = Architecture(SMALL.width, SMALL.resolution, batch=2)
    source = SourceNetwork.make(architecture, None, 7)
    build(here, source, folder / "here")
    build(RASP4, source, folder / "board")
    return folder / "here", folder / "board"


def invoke(capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, str, str]:
    """Exit code and both streams of `python -m mnv2_tvm.run OPTIONS`."""
    return ended(capsys, main, *options)


def test_a_photo_has_the_same_classes_as_here(
    there: list[str],
    folders: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    here, board = folders
    code, expected, _ = invoke(capsys, here, "--image", CAT)
    assert code == 0
    code, output, errors = invoke(capsys, board, "--image", CAT, "--check", *there)
    assert (code, errors) == (0, "")
    *table, agreement = output.splitlines()
    assert [re.findall(r"class \d+", line) for line in table] == [
        re.findall(r"class \d+", line) for line in expected.splitlines()
    ]
    assert len(table) == 2 + 5  # note, path, top five
    assert agreement.startswith("the reference agrees: the same top 5")


def test_logits_are_those_of_here(
    there: list[str],
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three images in batches of two: the last one is filled up."""
    size = SMALL.resolution
    photo = load_image(CAT, size)
    noise = np.random.default_rng(0).standard_normal((2, size, size, 3), dtype=np.float32)
    np.save(tmp_path / "x.npy", np.concatenate([photo, noise]))
    logits = []
    for folder, options in zip(folders, ([], there), strict=True):
        arrays = ["--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
        assert invoke(capsys, folder, *arrays, *options) == (0, "", "")
        logits.append(np.load(tmp_path / "y.npy"))
    here, board = logits
    assert board.shape == (3, 1000)
    assert relative_error(board, here) <= 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--on", "tracker:nowhere:x"], "'nowhere:x'"),
        (["--threads", "65"], "65"),
    ],
)
def test_wrong_options_end_in_a_sentence(
    there: list[str],
    folders: tuple[Path, Path],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = [] if "--on" in options else there
    code, output, errors = invoke(capsys, folders[1], "--image", CAT, *where, *options)
    assert (code, output) == (1, "")
    assert message in errors and errors.count("\n") == 1


def test_no_tracker_and_no_board_are_named(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    image = ["--image", CAT, "--on"]
    nowhere = f"127.0.0.1:{free_port()}"
    code, _, errors = invoke(capsys, folders[1], *image, f"tracker:{nowhere}")
    assert code == 1 and f"no tracker at {nowhere}" in errors
    with ready_tracker() as own:
        code, _, errors = invoke(capsys, folders[1], *image, f"tracker:{own.address}")
    assert code == 1 and f"no board 'rasp4' at the tracker {own.address}" in errors
    assert "device emulate --target rasp4" in errors


def test_a_damaged_library_is_not_uploaded(
    there: list[str],
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(folders[1], tmp_path / "out")
    with (tmp_path / "out" / LIBRARY).open("ab") as file:
        file.write(b"\0")
    code, _, errors = invoke(capsys, tmp_path / "out", "--image", CAT, *there)
    assert code == 1 and "is damaged" in errors
    (tmp_path / "out" / MANIFEST).unlink()
    code, _, errors = invoke(capsys, tmp_path / "out", "--image", CAT, *there)
    assert code == 1 and f"holds no {MANIFEST}" in errors


def test_a_board_without_a_cpu_feature_is_refused(
    tracker: Tracker,
    here: Target,
    tiny: Built,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(tiny.folder, tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"cpu_features": [*table["cpu_features"], "warp"]}))
    address = tracker.host, tracker.port
    with LocalBoards(here, address):
        wait_for_boards(address, here.name)
        there = ["--on", f"tracker:{tracker.address}"]
        code, _, errors = invoke(capsys, tmp_path / "out", "--image", CAT, *there)
    assert code == 1
    assert re.search(rf"was built for {here.name}; the board at \S+ lacks warp\.", errors)
