"""Time one library with a number of threads: `time_library.py LIBRARY THREADS SECONDS`.

A process of its own for each measurement, which inherits the CPUs it may use. It prints the
milliseconds of each run as JSON. Nothing but ctypes, so that libraries of any version load.
"""

import ctypes
import json
import sys
import time

ALIGNMENT = 64
WARM_UP_S = 0.1
MIN_RUNS = 7


def memory(size: int) -> tuple[object, int]:
    """A buffer and an aligned address in it."""
    buffer = ctypes.create_string_buffer(size + ALIGNMENT)
    return buffer, -(-ctypes.addressof(buffer) // ALIGNMENT) * ALIGNMENT


def main(path: str, threads: int, seconds: float) -> list[float]:
    library = ctypes.CDLL(path)
    sizes = []
    for name in ("input_size", "output_size", "workspace_bytes"):
        function = getattr(library, f"mnv2_{name}")
        function.restype = ctypes.c_size_t
        sizes.append(function())
    inputs, outputs, workspace = sizes
    held = [memory(size) for size in (4 * inputs, 4 * outputs, workspace)]
    pixels = (ctypes.c_float * inputs).from_address(held[0][1])
    for i in range(inputs):
        pixels[i] = i * 7 % 101 / 50 - 1
    arguments = [ctypes.c_void_p(address) for _, address in held]
    if library.mnv2_set_threads(threads):
        raise SystemExit(f"{threads} threads cannot be had")

    def run_ms() -> float:
        start = time.perf_counter()
        if library.mnv2_run(*arguments):
            raise SystemExit("mnv2_run failed")
        return 1e3 * (time.perf_counter() - start)

    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        run_ms()
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times_ms) < MIN_RUNS:
        times_ms.append(run_ms())
    return times_ms


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
