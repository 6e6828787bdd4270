"""C libraries for ARM in a folder, for qemu and the linker: glibc for both widths, and musl.

Debian's own packages, downloaded as for the emulated board and kept in the user's cache.
"""

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from mnv2_tvm.device import userland

_PACKAGES = [
    f"{name}:{architecture}"
    for name, architecture in [
        *(("libc6", "arm64"), ("libc6-dev", "arm64"), ("musl", "arm64"), ("musl-dev", "arm64")),
        *(("libc6", "armhf"), ("libc6-dev", "armhf")),
    ]
]
_RECIPE = 1  # counts changes of this file that change its result


def arm_sysroot() -> Path:
    """The folder, made once. Raises UserError where a package or the network is missing."""
    folder = userland.cache_folder() / f"sysroot-arm-{_RECIPE}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=".sysroot-", dir=folder.parent) as name:
                _unpack(_download(Path(name)), Path(name) / "new").rename(folder)
    return folder


def _download(scratch: Path) -> Path:
    """Download the packages with an apt state of its own; the folder that they are in."""
    for path in ("state/lists/partial", "cache/archives/partial", "none", "debs"):
        (scratch / path).mkdir(parents=True)
    (scratch / "status").touch()
    source = userland._source().replace("arch=arm64", "arch=arm64,armhf")
    (scratch / "sources.list").write_text(source, encoding="utf-8")
    settings = [
        "APT::Architecture=arm64",
        "APT::Architectures::=arm64",
        "APT::Architectures::=armhf",
        "APT::Sandbox::User=",
        "Acquire::Languages=none",
        f"Dir::State={scratch}/state",
        f"Dir::State::status={scratch}/status",
        f"Dir::Cache={scratch}/cache",
        f"Dir::Etc::sourcelist={scratch}/sources.list",
        f"Dir::Etc::sourceparts={scratch}/none",
    ]
    apt = ["apt-get", *(word for setting in settings for word in ("-o", setting))]
    userland._run([*apt, "update"], "apt cannot read the lists of ARM packages")
    debs = scratch / "debs"
    userland._run([*apt, "download", *_PACKAGES], "a package is missing", cwd=debs)
    return debs


def _unpack(debs: Path, new: Path) -> Path:
    """Unpack what a program is linked with and runs on."""
    for package in sorted(debs.glob("*.deb")):
        userland._run(["dpkg-deb", "-x", str(package), str(new)], f"{package.name} is damaged")
    if not (new / "lib").exists():  # Debian 13 has no /lib of its own
        (new / "lib").symlink_to("usr/lib")
    for unused in ("usr/share", "usr/include"):
        shutil.rmtree(new / unused, ignore_errors=True)
    return new
