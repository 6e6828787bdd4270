"""Which files of a folder a build wrote: they alone may be replaced, and only while unchanged."""

from pathlib import Path

from mnv2_tvm.deploy import package
from mnv2_tvm.deploy.loader import HEADER, LIBRARY, PACKAGE_LIBRARY, STATIC_LIBRARY, library_path
from mnv2_tvm.deploy.manifest import MANIFEST, Manifest, file_sha256, is_unchanged
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import PREFIX
from mnv2_tvm.target import Target
from mnv2_tvm.untrusted import read_bytes

_PACKAGE = (
    f"include/{HEADER}",
    str(PACKAGE_LIBRARY),
    str(package.STATIC_LIBRARY),
    *(str(place / name) for name, place in package.PLACES.items()),
)
# Of the file system itself, in the top folder of an ext4.
_NOT_FILES = {"lost+found"}


def file_names(target: Target, packaged: bool) -> tuple[str, ...]:
    """The files that a build for the target writes."""
    library = LIBRARY if target.microcontroller is None else STATIC_LIBRARY
    return (MANIFEST, *(_PACKAGE if packaged else (library, HEADER)))


def written_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of the build in `folder`, by path; none where the folder is empty.

    Raises UserError where the folder holds other things only, or its manifest was changed.
    """
    path = folder / MANIFEST
    if not path.exists():
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(PREFIX)}
        if names - _NOT_FILES:
            raise UserError(f"{folder} is not empty and holds no earlier build; give another -o")
        return {}
    data = read_bytes(path, str(path))
    try:
        manifest = Manifest.parse(data, path)
    except UserError as error:
        raise UserError(f"{folder} holds no earlier build ({error}); give another -o") from error
    if manifest.format == 0:
        files = _of_format_0(folder, manifest)
    elif not is_unchanged(data):
        raise UserError(f"{path} was changed since it was built; give another -o")
    else:
        files = manifest.files
    return {**files, MANIFEST: file_sha256(path)}


def _of_format_0(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Of 0.1.0, which listed no files: known names, if they are no younger than the manifest."""
    library = library_path(folder)
    built = (folder / MANIFEST).stat().st_mtime
    files = {}
    for name in (LIBRARY, STATIC_LIBRARY, HEADER, *_PACKAGE):
        path = folder / name
        if path == library:
            files[name] = manifest.sha256
        elif path.is_file():
            if path.stat().st_mtime > built:
                raise UserError(
                    f"{path} may have been changed since it was built; remove {folder} if nothing "
                    "in it is needed, or give another -o"
                )
            files[name] = file_sha256(path)
    return files
