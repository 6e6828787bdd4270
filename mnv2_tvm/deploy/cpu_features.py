"""How a library finds out what its CPU can: one row for each name in `[host] features`.

The names are those of /proc/cpuinfo, which the library does not read: it asks the CPU on x86, and
the kernel's auxiliary vector on ARM. `cpu.c` takes the rows of its target as a define.
"""

from mnv2_tvm.errors import UserError
from mnv2_tvm.target import Target

_Rows = dict[str, tuple[int, ...]]

# x86: leaf of cpuid, its register, bit, and the bits of XCR0 that the system must have set to save
# the registers that the instructions use.
_EBX, _ECX = 1, 2
_AVX, _AVX512 = 0x06, 0xE6
_X86: _Rows = {
    "sse4_1": (1, _ECX, 19, 0),
    "sse4_2": (1, _ECX, 20, 0),
    "avx": (1, _ECX, 28, _AVX),
    "fma": (1, _ECX, 12, _AVX),
    "f16c": (1, _ECX, 29, _AVX),
    "bmi1": (7, _EBX, 3, 0),
    "bmi2": (7, _EBX, 8, 0),
    "avx2": (7, _EBX, 5, _AVX),
    "avx512f": (7, _EBX, 16, _AVX512),
    "avx512dq": (7, _EBX, 17, _AVX512),
    "avx512cd": (7, _EBX, 28, _AVX512),
    "avx512bw": (7, _EBX, 30, _AVX512),
    "avx512vl": (7, _EBX, 31, _AVX512),
    "avx512_vnni": (7, _ECX, 11, _AVX512),
}

# ARM: AT_HWCAP or AT_HWCAP2 of the auxiliary vector, and the bit.
_HWCAP, _HWCAP2 = 16, 26
_AARCH64: _Rows = {
    "asimd": (_HWCAP, 1),
    "crc32": (_HWCAP, 7),
    "atomics": (_HWCAP, 8),
    "fphp": (_HWCAP, 9),
    "asimdhp": (_HWCAP, 10),
    "asimddp": (_HWCAP, 20),
    "i8mm": (_HWCAP2, 13),
    "bf16": (_HWCAP2, 14),
}
_ARM: _Rows = {
    "neon": (_HWCAP, 12),
    "vfpv3": (_HWCAP, 13),
    "vfpv4": (_HWCAP, 16),
    "idiva": (_HWCAP, 17),
    "crc32": (_HWCAP2, 4),
}

CHECKS = {"x86_64": _X86, "aarch64": _AARCH64, "armv7l": _ARM}


def cpu_define(target: Target) -> str:
    """The define of `cpu.c` for the target. Raises UserError for a feature without a row."""
    known = CHECKS.get(target.host.machine, {})
    for name in target.host.features:
        if name not in known:
            raise UserError(
                f"targets/{target.name}.toml: no C check is known for the {target.host.machine} "
                f"feature '{name}'; known: {', '.join(known) or 'none'}. Add its row to "
                "mnv2_tvm/deploy/cpu_features.py"
            )
    rows = (",".join(map(str, known[name])) for name in target.host.features)
    return "-DMNV2_CPU_FEATURES=" + "".join(f"{{{row}}}," for row in rows)
