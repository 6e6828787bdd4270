"""`run --check`: the reference on the same image, for random weights and for a file's."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Built, ended
from weight_files import torch_state

from mnv2_tvm.build import build
from mnv2_tvm.deploy.manifest import MANIFEST, Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.images import load_image
from mnv2_tvm.measure.check import check
from mnv2_tvm.model.source import SourceNetwork, open_source
from mnv2_tvm.ranking import rank
from mnv2_tvm.run import main
from mnv2_tvm.target import Target

CAT = Path(load_image.__code__.co_filename).parent / "samples" / "cat.jpg"
AGREES = re.compile(
    r"the reference agrees: the same top (\d+), largest error (\S+) of the largest logit"
)


def invoke(capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, str, str]:
    """Exit code and both streams of `python -m mnv2_tvm.run OPTIONS`."""
    return ended(capsys, main, *options)


@pytest.fixture(scope="module")
def trained(here: Target, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A library built from a file of weights, and that file."""
    folder = tmp_path_factory.mktemp("trained")
    weights = folder / "weights.pth"
    torch.save(torch_state(5), weights)
    build(here, SourceNetwork.make(TINY, weights, 0), folder / "out")
    return folder / "out", weights


@pytest.fixture
def other_seed(tiny: Built, tmp_path: Path) -> Path:
    """The tiny library beside a manifest that names another seed than that of its weights."""
    folder = tmp_path / "out"
    shutil.copytree(tiny.folder, folder)
    table = json.loads((folder / MANIFEST).read_text())
    assert table["weights"] == "random, seed 0"
    table["network"]["weights"]["seed"] = 1
    (folder / MANIFEST).write_text(json.dumps(table))
    return folder


def test_random_weights_are_made_again_from_the_seed(
    tiny: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--image", CAT, "--image", CAT, "--top", 3, "--check"]
    code, output, errors = invoke(capsys, tiny.folder, *options)
    assert (code, errors) == (0, "")
    note, *lines = output.splitlines()
    assert note.startswith("note: the weights are random ones (random, seed 0)")
    assert lines[:5] == lines[5:]
    agrees = AGREES.fullmatch(lines[4])
    assert agrees is not None and agrees[1] == "3"
    assert 0 < float(agrees[2]) <= 1e-4


def test_fewer_classes_than_top(tiny: Built, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = invoke(capsys, tiny.folder, "--image", CAT, "--top", 99, "--check")
    assert code == 0
    assert f"the same top {TINY.classes}," in output.splitlines()[-1]


def test_weights_of_a_file(trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, weights = trained
    code, output, errors = invoke(capsys, folder, "--image", CAT, "--check", "--weights", weights)
    assert (code, errors) == (0, "")
    assert output.startswith(f"{CAT}\n"), "no note: these weights may mean something"
    assert AGREES.fullmatch(output.splitlines()[-1])


def test_one_of_two_networks_in_a_file(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Averaged weights are taken before those of the last step, and --state takes the others."""
    both = tmp_path / "both.pth"
    torch.save({"model": torch_state(5), "model_ema": torch_state(6)}, both)
    options = ["--image", CAT, "--check", "--weights", both]
    code, _, errors = invoke(capsys, trained[0], *options)
    assert code == 1 and "other weights than those that the library was built with" in errors
    code, output, errors = invoke(capsys, trained[0], *options, "--state", "model")
    assert code == 0 and AGREES.fullmatch(output.splitlines()[-1])
    assert "model was taken" in errors
    code, _, errors = invoke(capsys, trained[0], *options, "--state", "teacher")
    assert code == 1 and errors.endswith("there is: model, model_ema\n")
    # A library says which it was built from.
    built = {"file": "both.pth, model"}
    identity = Manifest.read(trained[0]).identity | {"weights": built}
    assert open_source(identity, both).weights == "both.pth, model"


def test_weights_of_a_file_are_asked_for(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = invoke(capsys, trained[0], "--image", CAT, "--check")
    assert (code, output) == (1, "")
    assert "weights.pth" in errors and "--weights FILE" in errors


def test_other_weights_disagree(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.pth"
    torch.save(torch_state(6), other)
    options = ["--image", CAT, "--check", "--weights", other]
    code, _, errors = invoke(capsys, trained[0], *options)
    assert code == 1
    assert errors == (
        f"error: {other} holds other weights than those that the library was built with, "
        "weights.pth; give that file, or build the library again\n"
    )


def test_another_seed_disagrees(other_seed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, errors = invoke(capsys, other_seed, "--image", CAT, "--check")
    assert code == 1
    assert "the reference agrees" not in output
    assert errors.startswith("error: wrong numbers: ") and str(CAT) in errors
    assert invoke(capsys, other_seed, "--image", CAT)[0] == 0


def test_another_order_of_the_top_classes_disagrees(tiny: Built) -> None:
    """Two logits as near as a rounding, exchanged: the error alone would pass."""
    image = load_image(CAT, TINY.resolution)
    network = replace(tiny.network, state=dict(tiny.network.state))
    twin = "classifier.1.weight", "classifier.1.bias"
    first, second = (r.index for r in rank(network.reference(image)[0], 2, None))
    for key in twin:
        tensor = network.state[key].copy()
        tensor[second] = tensor[first]
        network.state[key] = tensor
    network.state["classifier.1.bias"][second] -= 1e-5
    logits = network.reference(image)
    assert [r.index for r in rank(logits[0], 2, None)] == [first, second]
    assert check(logits, image, network, 2, "cat.jpg").error == 0

    logits[0, [first, second]] = logits[0, [second, first]]
    with pytest.raises(
        UserError,
        match=re.escape(f"top classes are [{first}, {second}], the library's [{second}, {first}]"),
    ):
        check(logits, image, network, 2, "cat.jpg")


def test_an_error_above_the_tolerance_disagrees(tiny: Built) -> None:
    image = load_image(CAT, TINY.resolution)
    logits = tiny.network.reference(image)
    smallest = int(np.argmin(np.abs(logits)))
    largest = float(np.abs(logits).max())
    for share, agrees in ((0.5e-4, True), (2e-4, False)):
        wrong = logits.copy()
        wrong[0, smallest] += share * largest
        if agrees:
            assert check(wrong, image, tiny.network, 1, "x").error == pytest.approx(share, rel=0.1)
        else:
            with pytest.raises(UserError, match=r"wrong numbers: .* is off by 2\.0e-04"):
                check(wrong, image, tiny.network, 1, "x")
    with pytest.raises(UserError, match="is off by inf"):
        check(np.full_like(logits, np.nan), image, tiny.network, 1, "x")


def test_the_reference_has_the_architecture_of_the_manifest(tiny: Built) -> None:
    source = open_source(tiny.manifest.identity)
    assert (source.architecture.width, source.architecture.classes) == (TINY.width, TINY.classes)
    images = tiny.network.images(3)
    np.testing.assert_array_equal(source.reference(images), tiny.network.reference(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", CAT, "--weights", "w.pth"], "--weights goes with --check"),
        (["--image", CAT, "--state", "model"], "--weights goes with --check"),
        (["--image", CAT, "--check", "--state", "model"], "--state goes with --weights FILE"),
        (["--input", "x.npy", "--output", "y.npy", "--check"], "--check goes with --image"),
        (["--image", CAT, "--check", "--weights", "w.pth"], "the library was built with random"),
    ],
)
def test_wrong_options_end_in_one_sentence(
    tiny: Built, options: list[object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = invoke(capsys, tiny.folder, *options)
    assert (code, output) == (1, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
