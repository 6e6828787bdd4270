"""Weights from files: every naming and nesting that is read, every mistake that is named."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture, load_weights, random_state

TINY = Architecture(0.35, 32, classes=10)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(TINY, 0)


def timm_key(key: str) -> str:
    """timm's name of torchvision's key, written out apart from the package's own table."""
    stages = [(s, i) for s, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(blocks)]
    head, leaf = key.rsplit(".", 1)
    fixed = {
        "features.0.0": "conv_stem",
        "features.0.1": "bn1",
        "features.18.0": "conv_head",
        "features.18.1": "bn2",
        "classifier.1": "classifier",
    }
    if head in fixed:
        return f"{fixed[head]}.{leaf}"
    _, block, _, inner = head.split(".", 3)
    separable = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    inverted = {
        "0.0": "conv_pw",
        "0.1": "bn1",
        "1.0": "conv_dw",
        "1.1": "bn2",
        "2": "conv_pwl",
        "3": "bn3",
    }
    stage, index = stages[int(block) - 1]
    name = (separable if block == "1" else inverted)[inner]
    return f"blocks.{stage}.{index}.{name}.{leaf}"


def as_timm(state: State) -> State:
    return {timm_key(key): tensor for key, tensor in state.items()}


def assert_loads(path: Path, state: State) -> None:
    loaded = load_weights(path, TINY)
    assert list(loaded) == list(state)
    for key, tensor in state.items():
        assert torch.equal(torch.from_numpy(loaded[key]), tensor), key


def refusal(path: Path, architecture: Architecture = TINY) -> str:
    """The text of the error, which must name the file."""
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        load_weights(path, architecture)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, state: State, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert_loads(path, state)


@pytest.mark.parametrize("rename", [dict, as_timm], ids=["torchvision", "timm"])
def test_safetensors_files(tmp_path: Path, state: State, rename: Callable[[State], State]) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(rename(state), path)
    assert_loads(path, state)


@pytest.mark.parametrize("rename", [dict, as_timm], ids=["torchvision", "timm"])
@pytest.mark.parametrize("nest", ["state_dict", "model", "state_dict_ema"])
def test_nested_and_parallel_checkpoints(
    tmp_path: Path, state: State, rename: Callable[[State], State], nest: str
) -> None:
    path = tmp_path / "checkpoint.pth"
    parallel = {f"module.{key}": tensor for key, tensor in rename(state).items()}
    torch.save({"epoch": 3, "arch": "mobilenetv2", nest: parallel}, path)
    assert_loads(path, state)


def test_averaged_weights_come_before_the_last_ones(tmp_path: Path, state: State) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": random_state(TINY, 1), "state_dict_ema": state}, path)
    assert_loads(path, state)


def test_counters_are_optional_and_zeroed(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    torch.save({key: tensor for key, tensor in state.items() if key not in counters}, path)
    assert_loads(path, state)
    torch.save(state | {key: torch.tensor(77) for key in counters}, path)
    assert_loads(path, state)


def test_half_precision_becomes_float32(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({key: tensor.to(torch.bfloat16) for key, tensor in state.items()}, path)
    loaded = load_weights(path, TINY)
    stem = torch.from_numpy(loaded["features.0.0.weight"])
    torch.testing.assert_close(stem, state["features.0.0.weight"], rtol=1e-2, atol=0)


@pytest.mark.parametrize("rename", [dict, as_timm], ids=["torchvision", "timm"])
def test_missing_tensors_have_the_names_of_the_file(
    tmp_path: Path, state: State, rename: Callable[[State], State]
) -> None:
    path = tmp_path / "weights.pth"
    tensors = rename(state)
    lost = [key for key in tensors if key.endswith("running_var")][:5]
    torch.save({key: tensor for key, tensor in tensors.items() if key not in lost}, path)
    assert f"lack {', '.join(lost[:3])} and 2 more" in refusal(path)


def test_another_network_lacks_keys(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.ones(64, 3, 7, 7)}, path)
    assert "lack features.0.0.weight" in refusal(path)


def test_extra_tensor(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state | {"features.19.0.weight": torch.ones(1)}, path)
    assert "hold features.19.0.weight, which MobileNetV2 has not" in refusal(path)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("--width 0.35 --classes 10", Architecture(classes=10)),
        ("--width 0.35 --classes 10", Architecture(0.35)),
        ("--width 0.35 --classes 10", Architecture(1.4, classes=3)),
    ],
)
def test_wrong_shape_suggests_the_options_that_fit(
    tmp_path: Path, state: State, options: str, asked: Architecture
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(as_timm(state), path)
    text = refusal(path, asked)
    assert text.endswith(f"the file fits {options}")
    assert f"--width {asked.width} --classes {asked.classes} needs [" in text


def test_unpublished_width_is_told_from_the_shapes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    odd = Architecture(1.17, classes=2)
    torch.save(random_state(odd, 0), path)
    options = re.search(r"the file fits --width (\S+) --classes (\d+)$", refusal(path))
    assert options is not None
    fit = Architecture(float(options[1]), classes=int(options[2]))
    assert fit.state_shapes() == odd.state_shapes()


def test_shape_that_no_option_fits(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state | {"features.1.conv.1.weight": torch.ones(5, 16, 1, 1)}, path)
    text = refusal(path)
    assert "features.1.conv.1.weight has shape [5, 16, 1, 1]" in text
    assert "needs [8, 16, 1, 1]; no width and number of classes fits it" in text


@pytest.mark.parametrize(
    ("key", "tensor", "text"),
    [
        ("classifier.1.bias", torch.full((10,), float("nan")), "not finite"),
        ("classifier.1.bias", torch.full((10,), 1e300, dtype=torch.float64), "not finite"),
        ("classifier.1.bias", torch.ones(10, dtype=torch.int8), "torch.int8"),
        ("classifier.1.bias", torch.ones(10, dtype=torch.complex64), "torch.complex64"),
        ("classifier.1.bias", torch.ones(10, device="meta"), "no numbers"),
        ("features.0.1.running_var", torch.full((16,), -1.0), "negative"),
    ],
)
def test_bad_numbers(
    tmp_path: Path, state: State, key: str, tensor: torch.Tensor, text: str
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state | {key: tensor}, path)
    refused = refusal(path)
    assert key in refused and text in refused


def test_quantized_tensor(tmp_path: Path, state: State) -> None:
    path, key = tmp_path / "weights.pth", "classifier.1.weight"
    with warnings.catch_warnings(action="ignore"):  # torch is about to drop these tensors
        quantized = torch.quantize_per_tensor(state[key], 0.1, 0, torch.qint8)
        torch.save(state | {key: quantized}, path)
    text = refusal(path)
    assert key in text and "torch.qint8" in text


def test_every_layout_is_the_same_tensor(tmp_path: Path, state: State) -> None:
    """Sparse, transposed, a view into a larger storage, a Parameter, one number for all."""
    weight, bias = state["classifier.1.weight"], state["classifier.1.bias"]
    stem = "features.0.0.weight"
    same = {"features.0.1.weight": torch.full((16,), 1.5)}
    forms = {
        "classifier.1.weight": weight.to_sparse(),
        "classifier.1.bias": torch.stack([bias, -bias])[0],
        stem: state[stem].to(memory_format=torch.channels_last),
        "features.18.0.weight": torch.nn.Parameter(state["features.18.0.weight"]),
        "features.0.1.weight": torch.tensor(1.5).expand(16),
    }
    path = tmp_path / "weights.pth"
    for zipped in (True, False):
        torch.save(state | forms, path, _use_new_zipfile_serialization=zipped)
        assert_loads(path, state | same)
        loaded = load_weights(path, TINY)
        assert all(array.flags.c_contiguous for array in loaded.values())
    with warnings.catch_warnings(action="ignore"):  # "in beta state"
        forms["classifier.1.weight"] = weight.to_sparse_csr()
    torch.save(state | forms, path)
    assert_loads(path, state | same)
