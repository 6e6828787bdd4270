"""The network in torch: what the tests hold the reference, and everything else, to."""

import sys
from pathlib import Path

import numpy as np
import torch

from mnv2_tvm.model import Architecture, State

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts/peers"))

from torch_network import MobileNetV2 as MobileNetV2
from torch_network import torch_network as torch_network


def torch_logits(architecture: Architecture, state: State, images: np.ndarray) -> np.ndarray:
    """Of images [n, y, x, 3], in float64."""
    network = torch_network(architecture, state).double()
    with torch.inference_mode():
        logits = network(torch.from_numpy(images.astype(np.float64).transpose(0, 3, 1, 2)))
    return np.asarray(logits)
