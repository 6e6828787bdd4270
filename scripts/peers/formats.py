"""The model file of each peer: one function a format, all from the same torch module.

`python formats.py FORMAT CASE` writes one of them, in a process that does nothing else: what a
converter needs, and what it takes, is no part of what is measured. Imports stand inside, so that
each format needs its own packages only.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from case import Case, why


@dataclass(frozen=True)
class Format:
    """One kind of model file, and how it is made."""

    write: Callable[[Case, Path, Path], None]  # case, the source's file, the file to write
    file: str  # inside the case's folder
    source: str | None = None  # the format it is made from; None: the torch module


def _source_network(case: Case) -> Any:
    from mnv2_tvm.model import Architecture
    from mnv2_tvm.model.source import SourceNetwork

    return SourceNetwork.make(Architecture(case.width, case.resolution), None, case.seed)


def _torch_module(case: Case) -> tuple[Any, Any]:
    """The reference module, and the input [n, 3, y, x]."""
    import torch
    from torch_network import torch_network

    network = _source_network(case)
    return torch_network(network.architecture, network.state), torch.from_numpy(case.nchw)


def _library(case: Case, _: Path, path: Path) -> None:
    """Ours, on the records of this machine's target."""
    from mnv2_tvm.build import build
    from mnv2_tvm.records.decisions import Decisions
    from mnv2_tvm.target import Target

    target = Target.load(case.target)
    decisions = Decisions.load(target, case.threads)
    build(target, _source_network(case), path, threads=case.threads, decisions=decisions)


def _relax(case: Case, _: Path, path: Path) -> None:
    """As `tvm.compile` builds it without any schedule of ours: a library for Relax's VM."""
    import tvm
    from tvm import relax

    from mnv2_tvm.deploy.link import link_shared
    from mnv2_tvm.target import Target

    target = Target.load(case.target)
    codegen = target.codegen()
    pipeline = relax.get_default_pipeline(codegen)
    module = _source_network(case).relax()
    executable = tvm.compile(module, target=codegen, relax_pipeline=pipeline)

    def link(file: str, objects: list[str], **_: Any) -> None:
        link_shared([Path(name) for name in objects], target, Path(file))

    link.output_format = "so"  # type: ignore[attr-defined]
    executable.export_library(str(path), fcompile=link)


def _torchscript(case: Case, _: Path, path: Path) -> None:
    """Traced and frozen, which folds BatchNorm."""
    import torch

    model, x = _torch_module(case)
    with torch.no_grad():
        torch.jit.save(torch.jit.freeze(torch.jit.trace(model, x)), str(path))


def _onnx(case: Case, _: Path, path: Path) -> None:
    """By the tracing exporter: old, and enough here."""
    import torch

    model, x = _torch_module(case)
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    torch.onnx.export(model, (x,), str(path), dynamo=False, **names)


def _exported(case: Case, _: Path, path: Path) -> None:
    """A `torch.export` program.

    Its mean keeps the dimensions, with the same numbers: ExecuTorch has no XNNPACK kernel for
    one that does not, and would run it in slow portable code.
    """
    import torch

    model, x = _torch_module(case)

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.classifier = model.features, model.classifier

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            pooled = self.features(image).mean((2, 3), keepdim=True)
            logits: torch.Tensor = self.classifier(pooled.flatten(1))
            return logits

    torch.export.save(torch.export.export(Pooled().eval(), (x,)), str(path))


def _inductor(case: Case, source: Path, path: Path) -> None:
    """What `torch.compile` makes, ahead of time; frozen and channels last, its fastest here."""
    import torch

    torch.set_num_threads(case.threads)  # the generated code has the number in it
    program = torch.export.load(str(source))
    model = program.module().to(memory_format=torch.channels_last)
    x = torch.from_numpy(case.nchw).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch._inductor.config.patch(freezing=True):
        again = torch.export.export(model, (x,))
        torch._inductor.aoti_compile_and_package(again, package_path=str(path))


def _ncnn(case: Case, source: Path, path: Path) -> None:
    """By pnnx, weights in float32; it writes more files than the two that count."""
    import pnnx

    stem = str(path).removesuffix(".ncnn.param")
    kinds = ("pnnx.param", "pnnx.bin", "pnnx.onnx", "ncnn.param", "ncnn.bin")
    outputs = [f"{kind.replace('.', '')}={stem}.{kind}" for kind in kinds]
    outputs += [f"pnnxpy={stem}_pnnx.py", f"ncnnpy={stem}_ncnn.py"]
    subprocess.run([pnnx.EXEC_PATH, str(source), "fp16=0", *outputs], check=True)


def _mnn(case: Case, source: Path, path: Path) -> None:
    """By MNN's converter in C++.

    Not by its `mnnconvert` script: that one runs `pip install` for a logging package outside
    any venv, and reports the machine's id to a server.
    """
    import _tools

    command = ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path)]
    _tools.mnnconvert([*command, "--bizCode", "mnv2"])


def _executorch(case: Case, source: Path, path: Path) -> None:
    """With everything in XNNPACK, channels last, which it needs no copy for."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    x = torch.from_numpy(case.nchw).to(memory_format=torch.channels_last)
    program = torch.export.export(torch.export.load(str(source)).module(), (x,))
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(edge.to_executorch().buffer)


def _litert(case: Case, source: Path, path: Path) -> None:
    """With the input as [n, y, x, 3], which LiteRT computes in anyway."""
    import litert_torch
    import torch

    model = litert_torch.to_channel_last_io(torch.export.load(str(source)).module(), args=[0])
    litert_torch.convert(model, (torch.from_numpy(case.images),)).export(str(path))


FORMATS = {
    "library": Format(_library, "library"),
    "relax": Format(_relax, "relax.so"),
    "torchscript": Format(_torchscript, "model.torchscript"),
    "onnx": Format(_onnx, "model.onnx"),
    "exported": Format(_exported, "model.pt2"),
    "inductor": Format(_inductor, "inductor.pt2", "exported"),
    "ncnn": Format(_ncnn, "model.ncnn.param", "onnx"),
    "mnn": Format(_mnn, "model.mnn", "onnx"),
    "executorch": Format(_executorch, "model.pte", "exported"),
    "litert": Format(_litert, "model.tflite", "exported"),
}


def main() -> None:
    """Write one file; where that fails, the last line of stderr says why."""
    name, text = sys.argv[1:]
    chosen, case = FORMATS[name], Case.from_json(text)
    source = case.folder / (FORMATS[chosen.source].file if chosen.source else "")
    path = case.folder / chosen.file
    try:
        chosen.write(case, source, path)
    except Exception as error:
        sys.exit(f"\n{why(error)}")
    if not path.exists():
        sys.exit("\nthe converter wrote no file")


if __name__ == "__main__":
    main()
