"""Weights files that cannot be read: each is refused with its name and a remedy, none is run."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.checkpoint import read_checkpoint

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    generator = torch.Generator().manual_seed(0)
    return {f"layer{i}.weight": torch.randn(40, 40, generator=generator) for i in range(3)}


def refusal(path: Path) -> str:
    """The text of the error, which must name the file."""
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        read_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_missing_file_and_directory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"nowhere{suffix}"
    assert "check the path" in refusal(path)
    path.mkdir()
    assert "check the path" in refusal(path)


def test_unknown_suffix(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.touch()
    assert "give a file of .pth, .pt, .bin, .safetensors" in refusal(path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_file(tmp_path: Path, state: State, kind: str, kept: float) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("content", [b"<html>404", b"version https://git-lfs", b"hello world"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_of_another_kind(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert "of another kind" in refusal(path)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, witness = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"x": Touch(witness)}, path, _use_new_zipfile_serialization=zipped)
    assert "would run code" in refusal(path)
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists(), "the file was harmless, so this test proved nothing"


def test_code_in_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    path, witness = tmp_path / "weights.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Touch(witness)))
    refusal(path)
    assert not witness.exists()


def test_whole_module_is_refused_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    text = refusal(path)
    assert "torch.nn.modules.linear.Linear" in text
    assert "torch.save(model.state_dict()" in text


@pytest.mark.parametrize("content", [[1, 2], 3.0, {}, {"a": 1}, {"a": {"b": 2}}, {0: 0}])
def test_no_dict_of_tensors(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert "torch.save(model.state_dict(), ...)" in refusal(path)


def test_same_tensor_twice(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state | {"module.layer1.weight": torch.ones(10)}, path)
    assert "layer1.weight twice" in refusal(path)
