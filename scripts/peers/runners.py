"""How each peer runs its model file: one function a peer, all with one signature.

A runner takes a `Case` and a file, and returns a function that runs once and gives the logits
[n, classes]. Imports stand inside, so that a peer that is not installed costs its own row only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from case import Case

Run = Callable[[], np.ndarray]
OURS = "mnv2_tvm"
ONE_THREAD = "mnv2_tvm, 1 thread"  # beside ours with more, for what those gain


@dataclass(frozen=True)
class Peer:
    """A runtime to compare with."""

    package: str  # on PyPI
    modules: tuple[str, ...]  # imported before memory is counted
    format: str  # of formats.py
    prepare: Callable[[Case, Path], Run]
    avx512: str = ""  # what no setting holds to AVX2; empty: nothing


def _ours(case: Case, model: Path) -> Run:
    return _our_library(case, model, case.threads)


def _ours_on_one_thread(case: Case, model: Path) -> Run:
    return _our_library(case, model, 1)


def _our_library(case: Case, model: Path, threads: int) -> Run:
    from mnv2_tvm import load

    library, images = load(model, threads), case.images
    result = np.empty(library.output_shape, np.float32)

    def run() -> np.ndarray:
        library.run(images, result)
        return result

    return run


def _relax(case: Case, model: Path) -> Run:
    """On one thread, whatever is asked for: without a schedule there is no parallel loop."""
    import tvm
    from tvm import relax

    main = relax.VirtualMachine(tvm.runtime.load_module(str(model)), tvm.cpu())["main"]
    images = tvm.runtime.tensor(case.images)
    return lambda: np.from_dlpack(main(images))


def _onnxruntime(case: Case, model: Path) -> Run:
    """The CPU provider with all graph optimisations, its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = {"input": case.nchw}
    return lambda: session.run(None, feed)[0]


def _openvino(case: Case, model: Path) -> Run:
    """The CPU plugin with the latency hint; float32 is kept where it would use bfloat16."""
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(case.nchw))

    def run() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data

    return run


def _torch(case: Case, model: Path) -> Run:
    """Frozen, then optimised for inference: convolutions of oneDNN with packed weights."""
    import torch

    torch.set_num_threads(case.threads)
    x = torch.from_numpy(case.nchw)
    with torch.no_grad():
        frozen = torch.jit.optimize_for_inference(torch.jit.load(str(model)))

    def run() -> np.ndarray:
        with torch.no_grad():
            return frozen(x).numpy()

    return run


def _inductor(case: Case, model: Path) -> Run:
    """The compiled package; it needs no compiler here."""
    import torch

    torch.set_num_threads(case.threads)
    x = torch.from_numpy(case.nchw).to(memory_format=torch.channels_last)
    compiled = torch._inductor.aoti_load_package(str(model))

    def run() -> np.ndarray:
        with torch.no_grad():
            return compiled(x).numpy()

    return run


def _ncnn(case: Case, model: Path) -> Run:
    """float32 throughout: its default stores bfloat16 or float16 where the machine has them."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = case.threads
    net.opt.use_vulkan_compute = False
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    for load, file in ((net.load_param, model), (net.load_model, model.with_suffix(".bin"))):
        if load(str(file)) != 0:
            raise RuntimeError(f"ncnn cannot load {file.name}")
    image = case.nchw[0]  # [3, y, x]: a Mat has no batch
    mat = ncnn.Mat(image).clone()  # one that is not cloned does not keep its array alive

    def run() -> np.ndarray:
        with net.create_extractor() as extractor:
            extractor.input("in0", mat)
            return np.array(extractor.extract("out0")[1])[None]

    return run


def _mnn(case: Case, model: Path) -> Run:
    """The module API; high precision is float32."""
    import MNN

    settings = {"backend": "CPU", "numThread": case.threads, "precision": "high"}
    manager = MNN.nn.create_runtime_manager((settings,))
    module = MNN.nn.load_module_from_file(
        str(model), ["input"], ["output"], runtime_manager=manager
    )
    images = case.nchw
    x = MNN.expr.placeholder(list(images.shape), MNN.expr.NCHW)
    x.write(images)
    return lambda: np.array(module.forward(x).read())


def _executorch(case: Case, model: Path) -> Run:
    """With a thread pool of the asked size."""
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(case.threads)
    method = Runtime.get().load_program(model).load_method("forward")
    x = torch.from_numpy(case.nchw).to(memory_format=torch.channels_last)
    return lambda: method.execute([x])[0].numpy()


def _litert(case: Case, model: Path) -> Run:
    """The interpreter, which gives the graph to XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=case.threads)
    interpreter.allocate_tensors()
    images, x = case.images, interpreter.get_input_details()[0]["index"]
    logits = interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        interpreter.set_tensor(x, images)
        interpreter.invoke()
        return interpreter.get_tensor(logits)

    return run


_ALL = "AVX-512 cannot be turned off"
_EXECUTORCH = ("torch", "executorch.runtime", "executorch.extension.pybindings.portable_lib")

PEERS = {
    OURS: Peer("mnv2-tvm", ("mnv2_tvm",), "library", _ours),
    ONE_THREAD: Peer("mnv2-tvm", ("mnv2_tvm",), "library", _ours_on_one_thread),
    "OpenVINO": Peer("openvino", ("openvino",), "onnx", _openvino, "AVX-512 in its last layer"),
    "ONNX Runtime": Peer("onnxruntime", ("onnxruntime",), "onnx", _onnxruntime, _ALL),
    "LiteRT": Peer("ai-edge-litert", ("ai_edge_litert.interpreter",), "litert", _litert, _ALL),
    "ExecuTorch": Peer("executorch", _EXECUTORCH, "executorch", _executorch, _ALL),
    "ncnn": Peer("ncnn", ("ncnn",), "ncnn", _ncnn, _ALL),
    "MNN": Peer("MNN", ("MNN",), "mnn", _mnn),  # its wheel has no AVX-512 code
    "torch, inductor": Peer("torch", ("torch", "torch._inductor"), "inductor", _inductor),
    "torch, frozen": Peer("torch", ("torch",), "torchscript", _torch),
    "TVM, stock Relax": Peer("apache-tvm", ("tvm", "tvm.relax"), "relax", _relax),
}
