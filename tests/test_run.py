"""The run verb on a network of a few lines: ranking, labels, arrays in and out, every mistake."""

import errno
import io
import json
import os
import pickle
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ended
from PIL import Image

import mnv2_tvm.run as verb
from mnv2_tvm.cli import run_verb
from mnv2_tvm.errors import UserError
from mnv2_tvm.labels import read_labels
from mnv2_tvm.npy_files import read_input, write_output
from mnv2_tvm.ranking import rank
from mnv2_tvm.run import run

Array = np.ndarray[Any, Any]
CLASSES = 4


class MeanColours:
    """Logits: the mean of each channel, and of all; what `mnv2_tvm.load` returns, in short."""

    input_shape = (2, 32, 32, 3)
    output_shape = (2, CLASSES)
    manifest = SimpleNamespace(weights="weights.pth")

    def __call__(self, images: Array) -> Array:
        channels = images.mean(axis=(1, 2), dtype=np.float32)  # [m, c]
        return np.concatenate([channels, channels.mean(axis=1, keepdims=True)], axis=1)


def invoke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: object
) -> tuple[int, str, str]:
    """Exit code and both streams of `python -m mnv2_tvm.run OUT OPTIONS`."""
    monkeypatch.setattr(verb, "_open", lambda *_: nullcontext(MeanColours()))
    return ended(capsys, verb.main, "out", *options)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A plain green image."""
    path = tmp_path / "green.png"
    Image.new("RGB", (50, 40), (0, 255, 0)).save(path)
    return path


@pytest.fixture
def array(tmp_path: Path) -> Path:
    """Five normalised images in an .npy file."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((5, 32, 32, 3), dtype=np.float32))
    return path


def test_rank_is_by_probability() -> None:
    logits = np.array([0, 3, -1, 1], np.float32)
    ranked = rank(logits, 3, ["a", "b", "c", "d"])
    assert [(r.index, r.label) for r in ranked] == [(1, "b"), (3, "d"), (0, "a")]
    softmax = np.exp([3, 1, 0]) / np.exp([0, 3, -1, 1]).sum()
    np.testing.assert_allclose([r.probability for r in ranked], softmax)


def test_rank_of_large_equal_and_few_logits() -> None:
    ranked = rank(np.array([-3e38, 3e38, 3e38, -2e38], np.float32), 9, None)
    assert [r.index for r in ranked] == [1, 2, 3, 0]
    assert [r.probability for r in ranked] == [0.5, 0.5, 0, 0]


def test_prints_the_top_classes_of_each_image(
    tmp_path: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blue, labels = tmp_path / "blue.png", tmp_path / "labels.txt"
    Image.new("RGB", (40, 40), (0, 0, 255)).save(blue)
    labels.write_text("red\ngreen [G]\nblue\ngrey\n", encoding="utf-8")
    options = ["--image", picture, "--image", blue, "--labels", labels, "--top", 1]
    code, output, errors = invoke(monkeypatch, capsys, *options)
    assert (code, errors) == (0, "")
    first, green, second, bluish = output.splitlines()
    assert (first, second) == (str(picture), str(blue))
    assert green.split()[:3] == ["1", "class", "1"]
    assert green.endswith("  green [G]")
    assert bluish.endswith("  blue")
    assert 0.5 < float(green.split()[3]) < 1


def test_prints_all_of_few_classes_without_labels(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = invoke(monkeypatch, capsys, "--image", picture)
    rows = [line.split() for line in output.splitlines()[1:]]
    assert code == 0
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert {row[2] for row in rows} == {"0", "1", "2", "3"}
    assert sum(float(row[3]) for row in rows) == pytest.approx(1, abs=1e-3)


def test_array_to_array(
    tmp_path: Path,
    array: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "y.npy"
    output.write_bytes(b"an earlier result")
    code, *streams = invoke(monkeypatch, capsys, "--input", array, "--output", output)
    assert (code, streams) == (0, ["", ""])
    np.testing.assert_array_equal(np.load(output), MeanColours()(np.load(array)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "y.npy"]


def test_threads_reach_the_network(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def opened(folder: Path, threads: int | None, *_: object) -> nullcontext[MeanColours]:
        calls.append((folder, threads))
        return nullcontext(MeanColours())

    monkeypatch.setattr(verb, "_open", opened)
    for options in (["--threads", "3"], []):
        with pytest.raises(SystemExit):
            run_verb(verb.main, ["out", "--image", str(picture), *options])
    assert calls == [(Path("out"), 3), (Path("out"), None)]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --image FILE or --input X.npy"),
        (["--image", "a.png", "--input", "x.npy"], "give either --image FILE or --input X.npy"),
        (["--input", "x.npy"], "--input X.npy and --output Y.npy go together"),
        (["--image", "a.png", "--output", "y.npy"], "--input X.npy and --output Y.npy go together"),
        (
            ["--input", "x.npy", "--output", "y.npy", "--labels", "l"],
            "--labels and --json go with --image",
        ),
        (["--image", "none.png"], "image none.png cannot be opened"),
        (["--input", "none.npy", "--output", "y.npy"], "input none.npy cannot be opened"),
    ],
)
def test_wrong_options_end_in_one_sentence(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = invoke(monkeypatch, capsys, *options)
    assert (code, output) == (1, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unreadable_image_does_not_end_the_run(
    tmp_path: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:60])
    code, output, errors = invoke(monkeypatch, capsys, broken, picture)
    assert code == 1
    assert output.count("class ") == CLASSES and str(picture) in output
    assert errors.count("error: ") == 1 and "broken.png" in errors
    code, output, errors = invoke(monkeypatch, capsys, broken, picture, "--json")
    assert code == 1
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["image"] for row in rows] == [str(broken), str(picture)]
    assert "broken.png" in rows[0]["error"]
    assert [one["class"] for one in rows[1]["top"]][:2] == [1, 3]


def test_folders_and_patterns(
    tmp_path: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The images of a folder in natural order; what is none by its name is counted."""
    for name in ("cat10.PNG", "cat9.png", "notes.txt"):
        (tmp_path / name).write_bytes(picture.read_bytes())
    code, output, _ = invoke(monkeypatch, capsys, "--image", tmp_path)
    said = [line for line in output.splitlines() if "class" not in line]
    assert code == 0
    places = [Path(line).name for line in said if line.startswith("/")]
    assert places == ["cat9.png", "cat10.PNG", "green.png"]
    assert any("1 files" in line for line in said)
    code, output, _ = invoke(monkeypatch, capsys, tmp_path / "cat*.png", "--json")
    assert (code, output.count("\n")) == (0, 1)
    code, output, errors = invoke(monkeypatch, capsys, tmp_path / "*", "--json")
    assert (code, output.count("\n")) == (0, 3), "the notes are no image"
    assert "1 files" in errors
    for nothing in (tmp_path / "dog*.png", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        code, output, errors = invoke(monkeypatch, capsys, nothing)
        assert (code, output) == (1, "") and str(nothing) in errors


def test_an_image_on_standard_input(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with picture.open("rb") as stream:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
        code, output, _ = invoke(monkeypatch, capsys, "-", "--json")
    assert code == 0
    row = json.loads(output)
    assert (row["image"], row["top"][0]["class"]) == ("-", 1)


def test_one_class_has_a_sigmoid() -> None:
    for logit, wanted in ((0.0, 0.5), (2.0, 0.880797), (-2000.0, 0.0), (2000.0, 1.0)):
        (ranked,) = rank(np.array([logit], np.float32), 5, None)
        assert ranked.probability == pytest.approx(wanted, abs=1e-6)


def test_labels_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcafé\r\nb\u2028b\r\n c, d".encode())
    assert read_labels(path, 3) == ["café", "b b", " c, d"]


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\nc\nd\n\n \n",
        '["a", "b",\n "c", "d"]',
        '{"3": "d", "0": "a", "1": "b", "2": "c"}',
        "0 a\n1 b\n3 d\n2 c\n",
        "\ufeff3: d\r\n0: a\r\n1: b\r\n2: c\r\n",
    ],
    ids=["blank-last-lines", "json-list", "json-object", "numbers", "colons"],
)
def test_labels_as_people_keep_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(path, CLASSES) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "text",
    [
        '["a",\n"b"\n]\n',
        "1 a\n2 b\n3 c\n4 d\n",
        "0 a\n0 b\n1 c\n2 d\n",
        '{"a": "0", "b": "1", "c": "2", "d": "3"}',
        "[1, 2, 3, 4]",
        "[" * 5000,
    ],
)
def test_labels_that_would_be_shifted_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=str(path)):
        read_labels(path, CLASSES)


def test_labels_with_their_own_identifiers_stay(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("n01440764 tench, Tinca tinca\n7 goldfish\n", encoding="utf-8")
    assert read_labels(path, 2) == ["n01440764 tench, Tinca tinca", "7 goldfish"]


@pytest.mark.parametrize(("text", "lines"), [("", 0), ("a\nb\nc\n", 3), ("background\n" * 5, 5)])
def test_labels_of_another_count(tmp_path: Path, text: str, lines: int) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"labels\.txt have {lines} names .* has 4 classes"):
        read_labels(path, CLASSES)


def test_labels_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"labels\.txt are not UTF-8 text"):
        read_labels(path, 1)
    with pytest.raises(UserError, match=r"labels .* cannot be opened \(No such file"):
        read_labels(tmp_path / "none.txt", 1)


def zeros(*shape: int, dtype: str = "float32") -> Array:
    return np.zeros(shape, dtype)


def with_two_holes() -> Array:
    array = zeros(2, 32, 32, 3)
    array[1, 4, 5, 2], array[1, 9, 9, 0] = np.nan, np.inf
    return array


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zeros(1, 32, 32, 3, dtype="float64"), r"type float64; .* float32 \[n, 32, 32, 3\]"),
        (zeros(1, 32, 32, 3, dtype="uint8"), r"type uint8; .*array\.astype\(numpy\.float32\)"),
        (zeros(32, 32, 3), r"shape \[32, 32, 3\]; .* \[n, 32, 32, 3\]"),
        (zeros(), r"shape \[\]"),
        (zeros(1, 32, 33, 3), r"shape \[1, 32, 33, 3\]; .*of that shape"),
        (zeros(2, 3, 32, 32), r"shape \[2, 3, 32, 32\]; .*array\.transpose\(0, 2, 3, 1\)"),
        (with_two_holes(), r"2 values that are not finite, the first at \[1, 4, 5, 2\]"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, content: Array, message: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, content)
    with pytest.raises(UserError, match=rf"input .*x\.npy .*{message}"):
        read_input(path, MeanColours.input_shape)


def test_input_of_another_byte_order_is_converted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((2, 32, 32, 3), dtype=np.float32)
    np.save(tmp_path / "x.npy", values.astype(">f4"))
    result = read_input(tmp_path / "x.npy", MeanColours.input_shape)
    assert result.dtype.isnative and np.array_equal(result, values)


def test_a_header_that_promises_more_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, zeros(1, 32, 32, 3))
    content = path.read_bytes().replace(b"(1, 32,", b"(9999999, 32,").replace(b"      \n", b"\n")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npy"):
        read_input(path, MeanColours.input_shape)


class Trap:
    """What a pickle would run if it were loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("the pickle was loaded",)


def test_files_that_are_no_array(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, zeros(1, 32, 32, 3))
    whole = path.read_bytes()
    np.savez(tmp_path / "x.npz", zeros(1))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    objects = (tmp_path / "objects.npy").read_bytes()
    archive = (tmp_path / "x.npz").read_bytes()
    damaged = [b"", b"words", whole[:3], whole[:40], whole[:200], whole[:-1], archive[:60]]
    for content in (*damaged, archive, objects, pickle.dumps(Trap())):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"input .*x\.npy is not a whole \.npy file"):
            read_input(path, MeanColours.input_shape)


def test_input_of_any_length_and_order(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for length in (0, 1, 3):
        values = np.random.default_rng(0).standard_normal((length, 32, 32, 3), dtype=np.float32)
        np.save(path, np.asfortranarray(values))
        result = read_input(path, MeanColours.input_shape)
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, values)
        assert run(MeanColours(), result, "x.npy").shape == (length, CLASSES)


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("none/y.npy", "file/y.npy", "folder", ".", "n" * 300):
        with pytest.raises(UserError, match=r"output .* cannot be written \(\w.*; give a path"):
            write_output(tmp_path / path, zeros(1, CLASSES))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_leaves_the_earlier_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "y.npy"
    path.write_bytes(b"an earlier result")

    def sync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(UserError, match="No space left"):
        write_output(path, zeros(1, CLASSES))
    assert path.read_bytes() == b"an earlier result"
    assert list(tmp_path.iterdir()) == [path]


def test_output_of_broken_weights() -> None:
    images = np.full((1, 32, 32, 3), 3e38, np.float32)
    with np.errstate(over="ignore"), pytest.raises(UserError, match="is not finite; check"):
        run(MeanColours(), images, "x.npy")
