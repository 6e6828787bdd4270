"""Measure a network on a device that has nothing installed: one program goes there and reports."""

from pathlib import Path

import numpy as np

from mnv2_tvm.deploy.build import build_program
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.devices.program.device import Device
from mnv2_tvm.devices.program.network_program import NetworkProgram
from mnv2_tvm.devices.rpc.remote_bench import BoardTimes
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.records.decisions import Decisions

_PARTS = 5  # of the runs: the last is held against the first


def bench_on_device(
    device: Device,
    source: SourceNetwork,
    *,
    threads: int,
    runs: int,
    warmup: int,
    seed: int,
    per_layer: bool,
    decisions: Decisions | None = None,
) -> tuple[BoardTimes, Manifest]:
    """Build the program, check its numbers on the device, then time it there.

    Raises DeviceError where the device cannot be reached, or cannot run it, and for wrong numbers.
    """
    with device, scratch_folder() as scratch:
        program = Path(scratch) / "mnv2_bench"
        manifest = build_program(
            device.target, source, program, threads=threads, seed=seed, decisions=decisions
        )
        network = NetworkProgram(device, program, manifest)
        report = network.run(runs, warmup, per_layer)
        told = [device.info, device.ask()]
    layers_us = np.median(report.layers_us, axis=0).tolist() if per_layer else []
    times = BoardTimes(
        board=device.info,
        clock_mhz=[one["clock_mhz"] for one in told if one["clock_mhz"]],
        temperature_c=[one["temperature_c"] for one in told if one["temperature_c"]],
        relative_error=report.relative_error,
        times_ms=report.times_ms,
        layers_us=layers_us,
        threads=report.threads,
        peak_gflop_per_s=report.peak_gflop_per_s,
        drift=_drift(report.times_ms),
        memory=None if device.info["emulated"] else report.memory,  # or it would be the emulator's
    )
    return times, manifest


def _drift(times_ms: list[float]) -> float:
    part = max(1, len(times_ms) // _PARTS)
    return float(np.median(times_ms[-part:]) / np.median(times_ms[:part]))
