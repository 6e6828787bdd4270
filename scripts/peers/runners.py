"""How each peer runs the same network: one function a peer, all with one signature.

A runner takes a `Case` and returns a function that runs once and gives the logits [n, classes].
Imports stand inside, so that a peer that is not installed costs its own row only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One network with its input, as each peer takes it; the parent prepared the files."""

    width: float
    resolution: int
    seed: int  # of the weights
    threads: int
    images: np.ndarray  # [n, y, x, 3]
    library: Path  # a folder of mnv2_tvm.build
    onnx: Path | None  # None: the extra [peers] is not installed

    @property
    def nchw(self) -> np.ndarray:
        """The input as [n, 3, y, x]."""
        return np.ascontiguousarray(self.images.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Peer:
    """A runtime to compare with: what it imports, and how it runs."""

    package: str  # on PyPI
    modules: tuple[str, ...]  # imported before memory is counted
    prepare: Callable[[Case], Run]


def _ours(case: Case) -> Run:
    from mnv2_tvm import load

    library = load(case.library, case.threads)
    result = np.empty(library.output_shape, np.float32)

    def run() -> np.ndarray:
        library.run(case.images, result)
        return result

    return run


def _onnxruntime(case: Case) -> Run:
    """The CPU provider with all graph optimisations, its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(case.onnx), options, providers=["CPUExecutionProvider"]
    )
    feed = {"input": case.nchw}
    return lambda: session.run(None, feed)[0]


def _openvino(case: Case) -> Run:
    """The CPU plugin with the latency hint; float32 is kept where it would use bfloat16."""
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(case.onnx, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(case.nchw))

    def run() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data

    return run


def _torch(case: Case) -> Run:
    """The eager module, channels last, traced and frozen."""
    import torch

    torch.set_num_threads(case.threads)
    model = reference_module(case.width, case.resolution, case.seed)
    model = model.to(memory_format=torch.channels_last)
    x = torch.from_numpy(case.nchw).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(model, x))

    def run() -> np.ndarray:
        with torch.no_grad():
            return frozen(x).numpy()

    return run


PEERS = {
    "mnv2_tvm": Peer("mnv2-tvm", ("mnv2_tvm",), _ours),
    "ONNX Runtime": Peer("onnxruntime", ("onnxruntime",), _onnxruntime),
    "OpenVINO": Peer("openvino", ("openvino",), _openvino),
    "torch, frozen": Peer("torch", ("torch", "mnv2_tvm.network"), _torch),
}


def reference_module(width: float, resolution: int, seed: int) -> Any:
    """The torch module with seeded random weights, in eval mode."""
    from mnv2_tvm.model import Architecture, MobileNetV2, random_state

    architecture = Architecture(width, resolution)
    model = MobileNetV2(architecture).eval()
    model.load_state_dict(random_state(architecture, seed))
    return model
