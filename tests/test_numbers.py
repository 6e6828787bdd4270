"""Whole networks against torch: every published width, odd resolutions, weights from files."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_oracle import torch_logits
from weight_files import State, as_timm, torch_state

from mnv2_tvm.build import build
from mnv2_tvm.deploy.loader import load
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.target import Target

ARCHITECTURES = [
    # Every published width, and each resolution with a narrow and a wide one.
    Architecture(0.35, 224),
    Architecture(0.5, 160),
    Architecture(0.75, 96),
    Architecture(1.0, 224),
    Architecture(1.3, 160),
    Architecture(1.4, 96),
    # Resolutions that no stride divides: border and left-over tiles in every layer.
    Architecture(0.75, 97),
    Architecture(1.0, 131),
]


def error_of(target: Target, network: SourceNetwork, reference: SourceNetwork) -> float:
    """Build the network, run it on two images, and compare with torch."""
    images = np.concatenate([network.images(seed=1), network.images(seed=2)])
    with tempfile.TemporaryDirectory() as name:  # pytest would keep all of the libraries
        build(target, network, Path(name) / "out")
        logits = load(Path(name) / "out")(images)
    expected = torch_logits(reference.architecture, reference.state, images)
    assert logits.shape == expected.shape
    assert relative_error(logits, expected[::-1]) > TOLERANCE, "both images look alike"
    return relative_error(logits, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a.width}-{a.resolution}")
def test_network_gives_the_numbers_of_torch(here: Target, architecture: Architecture) -> None:
    network = SourceNetwork.make(architecture, None, seed=0)
    assert error_of(here, network, network) <= TOLERANCE


def save_torchvision_pth(state: State, folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def save_timm_safetensors(state: State, folder: Path) -> Path:
    save_file(as_timm(state), folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.mark.parametrize("save", [save_torchvision_pth, save_timm_safetensors])
def test_weights_of_a_file_reach_the_library(
    here: Target, tmp_path: Path, save: Callable[[State, Path], Path]
) -> None:
    architecture = Architecture(0.5, 96, classes=7)
    state = torch_state(3, architecture)
    path = save(state, tmp_path)
    network = SourceNetwork.make(architecture, path, seed=0)
    assert network.weights == path.name
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    reference = SourceNetwork(architecture, arrays, "as they were before the file")
    assert error_of(here, network, reference) <= TOLERANCE
