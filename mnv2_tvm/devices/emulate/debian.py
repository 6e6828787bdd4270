"""Debian's packages for another machine, from the mirror of this host, in a folder."""

import os
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder

_APT = Path("/etc/apt")


def unpack_packages(architecture: str, packages: Iterable[str], new: Path, scratch: Path) -> None:
    """Download Debian's packages for an architecture, as named, and unpack them into `new`.

    A second call with the same `scratch` downloads no list again. Raises UserError where apt knows
    no Debian mirror, a package is missing or damaged, or the network is down.
    """
    apt = ["-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"]
    for key, path in {
        "State": "state",
        "State::status": "status",
        "Cache": "cache",
        "Etc::sourcelist": "none",
        "Etc::sourceparts": "sources",
    }.items():
        apt += ["-o", f"Dir::{key}={scratch / path}"]
    apt += [
        "-o",
        "APT::Sandbox::User=",
        "-o",
        "Acquire::Languages=none",
        "-o",
        "Debug::NoLocking=1",
    ]
    apt += ["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]
    for path in ("state/lists/partial", "cache/archives/partial", "sources"):
        (scratch / path).mkdir(parents=True, exist_ok=True)
    (scratch / "status").touch()
    sources = scratch / "sources/debian.sources"
    sources.write_text(_source(architecture), encoding="utf-8")
    run(["apt-get", *apt, "update"], f"apt cannot read the list of {architecture} packages")
    with scratch_folder(scratch) as debs:
        run(["apt-get", *apt, "download", *packages], "a package is missing", cwd=Path(debs))
        for package in sorted(Path(debs).glob("*.deb")):
            unpack(package, new)
    if not (new / "lib").exists():  # Debian 13 has no /lib of its own
        (new / "lib").symlink_to("usr/lib")


def unpack(package: Path, new: Path) -> None:
    """Unpack a package into `new` and nowhere else, whatever links it has.

    dpkg-deb follows an absolute link of an earlier package out of the folder. Here each leads to
    where it would with `new` as the root, and none leads above. Raises UserError for a package that
    is damaged or wants more.
    """
    new.mkdir(parents=True, exist_ok=True)
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            # Of the new Pythons, for which ours is enough.
            archive.extraction_filter = lambda member, _: member
            for member in archive:
                _extract(archive, member, new.resolve(), package.name)
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{package.name} is damaged: {error}") from error
    if process.returncode:
        raise UserError(f"{package.name} is damaged: dpkg-deb ended with {process.returncode}")


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, new: Path, package: str) -> None:
    name = PurePosixPath(member.name)
    path = new / name
    if path == new:
        return
    leaves = name.is_absolute() or ".." in name.parts
    if leaves or not path.parent.resolve().is_relative_to(new):
        raise UserError(f"{package} is not unpacked: {member.name!r} leads out of the folder")
    if member.issym():
        goal = PurePosixPath(member.linkname)
        if goal.is_absolute():
            goal = PurePosixPath(
                os.path.relpath(new / goal.relative_to("/"), path.parent.resolve())
            )
        if not Path(os.path.normpath(path.parent.resolve() / goal)).is_relative_to(new):
            raise UserError(f"{package} is not unpacked: the link {member.name!r} leads out of it")
        member.linkname = str(goal)
    elif member.islnk():
        if not (new / member.linkname).resolve().is_relative_to(new):
            raise UserError(f"{package} is not unpacked: the link {member.name!r} leads out of it")
    elif not (member.isfile() or member.isdir()):
        return  # a device
    member.mode &= 0o755
    if not member.isdir() and (path.is_symlink() or path.is_file()):
        path.unlink()  # not through it
    archive.extract(member, new, set_attrs=not member.issym())


def _source(architecture: str) -> str:
    """A .sources file for it: the Debian mirror of this host, with the keys it trusts there."""
    lines = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)"
    command = ["apt-get", "indextargets", "--format", lines, "Created-By: Packages"]
    for line in run(command, "apt does not list its sources").splitlines():
        if line.startswith("Debian|Debian|main|"):
            uri, release = line.split("|")[3:]
            text = f"Types: deb\nURIs: {uri}\nSuites: {release}\nComponents: main\n"
            keys = signed_by(uri, release)
            keys = f"Signed-By: {keys}\n" if keys else ""
            return f"{text}Architectures: {architecture}\n{keys}"
    raise UserError(
        "apt knows no Debian mirror here, so an emulated board cannot be made; on Debian run "
        "apt-get update first, elsewhere use a container of Debian"
    )


def signed_by(uri: str, release: str, apt: Path = _APT) -> str:
    """The value of `Signed-By` for a repository of this host; empty: all keys that apt trusts."""
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))):
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        text = re.sub("^#.*\n?", "", text, flags=re.MULTILINE)
        for entry in text.splitlines() if path.suffix == ".list" else re.split(r"\n\s*\n", text):
            words = {word.rstrip("/") for word in entry.split()}
            if not {uri.rstrip("/"), release.rstrip("/")} <= words:
                continue
            found = _OPTION.search(entry) if path.suffix == ".list" else _FIELD.search(entry)
            return found[1].strip() if found else ""
    return ""


_OPTION = re.compile(r"\[[^\]]*\bsigned-by=([^\]\s]+)", re.IGNORECASE)
_FIELD = re.compile(r"^Signed-By:[ \t]*(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)


def run(
    command: list[str], failure: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """What the command prints. Raises UserError with its last lines where it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{failure}: {error}") from error
    if done.returncode:
        words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise UserError(f"{failure}: {command[0]} ended with {done.returncode}:\n{words}")
    return done.stdout
