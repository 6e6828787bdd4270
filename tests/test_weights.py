"""Weights against the architecture they are for: every mistake is named, with the file's names."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weight_files import State, as_timm, assert_loads, refusal, torch_state

from mnv2_tvm.model import Architecture


@pytest.fixture(scope="module")
def state() -> State:
    return torch_state(0)


def test_counters_are_optional_and_zeroed(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    torch.save({key: tensor for key, tensor in state.items() if key not in counters}, path)
    assert_loads(path, state)
    torch.save(state | {key: torch.tensor(77) for key in counters}, path)
    assert_loads(path, state)


def test_what_others_count_is_left_out(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    counted = {"total_ops": torch.zeros(1), "features.total_params": torch.zeros(1)}
    torch.save(state | counted, path)
    assert_loads(path, state)


@pytest.mark.parametrize("rename", [dict, as_timm], ids=["torchvision", "timm"])
def test_missing_tensors_have_the_names_of_the_file(
    tmp_path: Path, state: State, rename: Callable[[State], State]
) -> None:
    path = tmp_path / "weights.pth"
    tensors = rename(state)
    lost = [key for key in tensors if key.endswith("running_var")][:5]
    torch.save({f"net.{key}": t for key, t in tensors.items() if key not in lost}, path)
    names = ", ".join(f"net.{key}" for key in lost[:3])
    assert f"lack {names} and 2 more" in refusal(path)


def test_another_network_lacks_keys(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.ones(64, 3, 7, 7)}, path)
    text = refusal(path)
    assert "lack features.0.0.weight" in text and "conv1.weight" in text


def test_extra_tensor(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state | {"features.19.0.weight": torch.ones(1)}, path)
    assert "hold features.19.0.weight, which MobileNetV2 has not" in refusal(path)


def flat_key(key: str) -> str:
    """The name in repositories whose blocks are one flat Sequential."""
    head, leaf = key.rsplit(".", 1)
    fixed = {"features.18.0": "conv.0", "features.18.1": "conv.1", "classifier.1": "classifier"}
    if head in fixed or ".conv." not in head:
        return f"{fixed.get(head, head)}.{leaf}"
    block, inner = head.split(".conv.")
    first = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
    others = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
    return f"{block}.conv.{(first if block == 'features.1' else others)[inner]}.{leaf}"


def test_blocks_that_are_flat(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save({flat_key(key): tensor for key, tensor in state.items()}, path)
    assert_loads(path, state)


@pytest.mark.parametrize("rename", [dict, as_timm], ids=["torchvision", "timm"])
def test_the_one_linear_layer_may_have_any_name(
    tmp_path: Path, state: State, rename: Callable[[State], State]
) -> None:
    path = tmp_path / "weights.pth"
    tensors = {re.sub(r"^classifier(\.1)?\b", "fc", k): t for k, t in rename(state).items()}
    assert "fc.bias" in tensors
    torch.save(tensors, path)
    assert_loads(path, state)
    torch.save(tensors | {"other.weight": torch.ones(2, 2)}, path)  # which one is it?
    assert "lack classifier" in refusal(path)


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
    torch.save(torch_state(0, odd), path)
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
        ("classifier.1.bias", torch.ones(10, dtype=torch.int8), "int8"),
        ("classifier.1.bias", torch.ones(10, dtype=torch.uint16), "uint16"),
        ("classifier.1.bias", torch.ones(10, dtype=torch.complex64), "complex64"),
        ("classifier.1.bias", torch.ones(10, dtype=torch.bool), "bool"),
        ("classifier.1.bias", torch.ones(10).to(torch.float8_e5m2), "float8_e5m2"),
        ("classifier.1.bias", torch.ones(10, device="meta"), "no numbers"),
        ("classifier.1.bias", torch._neg_view(torch.ones(10)), "resolve_neg"),
        ("classifier.1.weight", torch.ones(10, 1280).to_sparse(), "to_dense"),
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


def test_other_kinds_of_tensors(tmp_path: Path, state: State) -> None:
    path, key = tmp_path / "weights.pth", "classifier.1.weight"
    with warnings.catch_warnings(action="ignore"):  # in beta state, or about to be dropped
        odd = {
            "is quantized": torch.quantize_per_tensor(state[key], 0.1, 0, torch.qint8),
            "is sparse": state[key].to_sparse_csr(),
            "a kind of its own": torch.nested.nested_tensor([state[key]]),
        }
        for text, tensor in odd.items():
            torch.save(state | {key: tensor}, path)
            refused = refusal(path)
            assert key in refused and text in refused


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.complex64])
def test_other_numbers_in_safetensors(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    path, key = tmp_path / "w.safetensors", "classifier.1.bias"
    save_file(state | {key: state[key].to(dtype)}, path)
    refused = refusal(path)
    assert key in refused and str(dtype).removeprefix("torch.") in refused
