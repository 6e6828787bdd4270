"""Unpacking Debian's packages: nothing gets out of the folder, whatever a package holds."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from mnv2_tvm.devices.emulate.debian import signed_by, unpack
from mnv2_tvm.errors import UserError


def package(folder: Path, *members: tuple[str, str, str]) -> Path:
    """A package of (name, link or nothing, content); made as dpkg-deb never would."""
    folder.mkdir()
    data = folder / "data.tar"
    with tarfile.open(data, "w") as archive:
        for name, link, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (b"0", "")
            if link.startswith("="):
                member.type, member.linkname = tarfile.LNKTYPE, link[1:]
            member.size, member.mode = len(content), 0o4777
            archive.addfile(member, io.BytesIO(content.encode()))
    (folder / "debian-binary").write_text("2.0\n")
    (folder / "control").write_text("Package: x\nVersion: 1\nArchitecture: all\n")
    with tarfile.open(folder / "control.tar", "w") as archive:
        archive.add(folder / "control", "control")
    result = folder / "x.deb"
    parts = [folder / "debian-binary", folder / "control.tar", data]
    subprocess.run(["ar", "rc", result, *parts], check=True)
    return result


def test_links_stay_in_the_folder(tmp_path: Path) -> None:
    """One of an earlier package does not lead a later one out of it."""
    new, outside = tmp_path / "new", tmp_path / "outside"
    outside.mkdir()
    (new / "usr/lib").mkdir(parents=True)
    unpack(package(tmp_path / "1", ("./usr/lib/out", str(outside), "")), new)
    unpack(package(tmp_path / "2", ("./usr/lib/link", "/usr/lib/file", "")), new)
    (new / str(outside)[1:]).mkdir(parents=True)
    unpack(package(tmp_path / "3", ("./usr/lib/out/evil", "", "x")), new)
    assert not list(outside.iterdir())
    assert (new / str(outside)[1:] / "evil").read_text() == "x"
    unpack(package(tmp_path / "4", (".", "", ""), ("./usr/lib/file", "", "content")), new)
    assert (new / "usr/lib/link").read_text() == "content"
    assert not (new / "usr/lib/file").stat().st_mode & 0o7022
    unpack(package(tmp_path / "5", ("./usr/lib/link", "", "its own")), new)
    assert (new / "usr/lib/file").read_text() == "content"


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("../evil", ""),
        ("./a/../../evil", ""),
        ("/evil", ""),
        ("./link", "../.."),
        ("./usr/link", "../../evil"),
        ("./link", "=../secret"),
        ("./link", "=/etc/passwd"),
    ],
)
def test_what_leads_out_is_refused(tmp_path: Path, name: str, link: str) -> None:
    new = tmp_path / "in/new"
    with pytest.raises(UserError, match=r"x\.deb is not unpacked"):
        unpack(package(tmp_path / "1", (name, link, "")), new)
    assert not list(new.rglob("*")) and {p.name for p in tmp_path.iterdir()} == {"1", "in"}


def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    whole = package(tmp_path / "1", ("./file", "", "x" * 10**5))
    for data in (b"", b"no package", whole.read_bytes()[:5000]):
        whole.write_bytes(data)
        with pytest.raises(UserError, match=r"x\.deb is damaged"):
            unpack(whole, tmp_path / "new")


def test_the_keys_of_the_host_go_with_its_mirror(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    block = (
        "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY\n -----END PGP PUBLIC KEY BLOCK-----"
    )
    (tmp_path / "sources.list.d/a.sources").write_text(
        "# Debian\nTypes: deb\nURIs: http://other\nSuites: x\nSigned-By: /other.gpg\n\n"
        "Types: deb\nURIs: http://one/debian\nSuites: bookworm sid\nsigned-by: /k.gpg\n"
        f"Components: main\n \nURIs: http://two/debian/\nSuites: trixie\nSigned-By:{block}\n"
    )
    (tmp_path / "sources.list").write_text(
        "# deb [signed-by=/no.gpg] http://three/debian sid main\n"
        "deb [arch=amd64 signed-by=/a.gpg,/b.gpg] http://three/debian sid main\n"
        "deb http://four/debian sid main\n"
    )
    keys = [
        signed_by(f"http://{uri}/debian/", release, tmp_path)
        for uri, release in (
            ("one", "bookworm"),
            ("two", "trixie"),
            ("three", "sid"),
            ("four", "sid"),
            ("five", "sid"),
        )
    ]
    assert keys == ["/k.gpg", block.strip(), "/a.gpg,/b.gpg", "", ""]
