"""Checkpoints as training scripts leave them: nested, prefixed, averaged, two sets, modules."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_python
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel
from weight_files import TINY, State, as_timm, assert_loads, refusal, torch_state, under

from mnv2_tvm.model import read_weights


@pytest.fixture(scope="module")
def state() -> State:
    return torch_state(0)


@pytest.fixture(scope="module")
def other() -> State:
    return torch_state(1)


def module_of(state: State) -> torch.nn.Module:
    """A module with this state dict."""
    whole = torch.nn.Module()
    for key, tensor in state.items():
        *path, leaf = key.split(".")
        part = whole
        for name in path:
            if name not in part._modules:
                part.add_module(name, torch.nn.Module())
            part = part.get_submodule(name)
        if leaf in ("weight", "bias"):
            part.register_parameter(leaf, torch.nn.Parameter(tensor))
        else:
            part.register_buffer(leaf, tensor)
    assert whole.state_dict().keys() == state.keys()
    return whole


class Trainer:
    """Something of a training script's own, which the reader does not have."""

    def __init__(self) -> None:
        self.history = [{"loss": 0.5}, (1, 2, 3)]


def training_state(state: State) -> dict[str, object]:
    """What stands beside the weights in checkpoints of torchvision's references and others."""
    module = module_of(state)
    optimizer = torch.optim.Adam(module.parameters())
    for parameter in module.parameters():
        optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": parameter / 2}
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    return {
        "optimizer": optimizer.state_dict(),
        "optimizer_object": optimizer,
        "lr_scheduler": schedule.state_dict(),
        "epoch": 29,
        "args": argparse.Namespace(model="mobilenet_v2", lr=0.1, output_dir=Path("runs")),
        "best_acc1": np.float64(71.5),
        "confusion": np.eye(10),
        "rng_state": torch.get_rng_state(),
        "trainer": Trainer(),
        "seen": {1, 2, 3},
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_training_state_beside_the_weights(
    tmp_path: Path, state: State, zipped: bool, protocol: int
) -> None:
    path = tmp_path / "checkpoint"
    content = training_state(state) | {"model": state}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_loads(path, state)
    assert read_weights(path, TINY).notes == ()


NESTS = (
    *("model", "state_dict", "model_state_dict", "net", "network", "ema", "model_ema"),
    *("state_dict_ema", "ema_state_dict", "teacher", "any-name"),
)


@pytest.mark.parametrize("nest", NESTS)
def test_nested(tmp_path: Path, state: State, nest: str) -> None:
    path = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 3, "arch": "mobilenetv2", nest: as_timm(state)}, path)
    assert_loads(path, state)
    assert read_weights(path, TINY).source == "model_best.pth.tar"


def test_nested_deeper(tmp_path: Path, state: State) -> None:
    path = tmp_path / "last.ckpt"
    ema = {"decay": 0.99, "ema_state_dict": under("module.", state)}
    torch.save({"callbacks": {"EMA": ema}, "history": [1, 2]}, path)
    assert_loads(path, state)
    torch.save([29, state], path)
    assert_loads(path, state)


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "net.", "model.backbone.", "a-b.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixed(tmp_path: Path, state: State, prefix: str) -> None:
    """DataParallel's, torch.compile's, Lightning's, and any other."""
    path = tmp_path / "weights.ckpt"
    torch.save({"state_dict": under(prefix, state), "global_step": 7}, path)
    assert_loads(path, state)
    save_file(under(prefix, as_timm(state)), path)
    assert_loads(path, state)


def test_what_is_beside_the_prefix_is_told(tmp_path: Path, state: State) -> None:
    path = tmp_path / "last.ckpt"
    beside = {"criterion.weight": torch.ones(10), "n_averaged": torch.tensor(7)}
    torch.save({"state_dict": under("model.", state) | beside}, path)
    assert_loads(path, state)
    (note,) = read_weights(path, TINY).notes
    assert "criterion.weight left out" in note and "n_averaged" not in note


def test_whole_modules(tmp_path: Path, state: State, other: State) -> None:
    path = tmp_path / "whole.pth"
    module = module_of(state)
    for zipped in (True, False):
        torch.save(module, path, _use_new_zipfile_serialization=zipped)
        assert_loads(path, state)
    torch.save({"epoch": 1, "net": torch.nn.DataParallel(module)}, path)
    assert_loads(path, state)
    averaged = AveragedModel(module)
    torch.save({"net": module_of(other), "averaged": averaged}, path)
    assert_loads(path, state)
    assert_loads(path, other, "net")


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema", "swa_model", "teacher"])
def test_averaged_weights_come_first(
    tmp_path: Path, state: State, other: State, average: str
) -> None:
    path = tmp_path / "two-sets.pth"
    averaged = under("module.", state) | {"n_averaged": torch.tensor(7)}
    torch.save({"model": other, average: averaged, "schema": 1}, path)
    assert_loads(path, state)
    assert_loads(path, state, average)
    assert_loads(path, other, "model")
    read = read_weights(path, TINY)
    assert read.source == f"two-sets.pth, {average}"
    (note,) = read.notes
    assert f"{average} was taken" in note and "--state" in note and "(model)" in note
    assert f"there is: model, {average}" in refusal(path, key="nothing")


def test_two_networks_in_one_dict(tmp_path: Path, state: State, other: State) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": under("student.", other) | under("teacher.", state)}, path)
    assert_loads(path, state)
    assert_loads(path, other, "state_dict.student")
    torch.save(other | under("ema.", state), path)
    assert_loads(path, state)
    assert_loads(path, other, ".")


def test_a_set_that_is_not_whole_comes_last(tmp_path: Path, state: State, other: State) -> None:
    """Some averages hold parameters alone; a teacher may be wider."""
    path = tmp_path / "checkpoint.pth"
    parameters = {key: t for key, t in other.items() if key.endswith((".weight", ".bias"))}
    torch.save({"ema": parameters, "model": state}, path)
    assert_loads(path, state)
    assert "lack features.0.1.running_mean" in refusal(path, key="ema")
    assert read_weights(path, TINY, "model").notes == ()


def test_an_unknown_network(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"net": state}, path)
    assert refusal(path, key="\x1b[2J").endswith("there is: net")
    assert_loads(path, state, "net")


READ = """
import sys
from pathlib import Path

sys.modules["torch"] = None
import numpy as np
from mnv2_tvm.model import Architecture, fold_batch_norm, load_weights

architecture = Architecture(0.35, 32, classes=10)
state = load_weights(Path(sys.argv[1]), architecture)
np.savez(sys.argv[2], **state)
fold_batch_norm(state, architecture)
try:
    import torch
except ModuleNotFoundError:
    print("without torch")
"""


def test_torch_is_not_needed(tmp_path: Path, state: State) -> None:
    torch.save(training_state(state) | {"model": state}, tmp_path / "w.pth")
    (tmp_path / "read.py").write_text(READ, encoding="utf-8")
    paths = [tmp_path / name for name in ("read.py", "w.pth", "read.npz")]
    done = run_python(*paths)
    assert (done.returncode, done.stdout, done.stderr) == (0, "without torch\n", "")
    with np.load(paths[2]) as arrays:
        assert list(arrays) == list(state)
        for key, tensor in state.items():
            assert np.array_equal(arrays[key], tensor.numpy()), key
