"""What the tests of a built folder share: its files, and a manifest to be changed."""

import json
from pathlib import Path

from mnv2_tvm.deploy.loader import HEADER, LIBRARY
from mnv2_tvm.deploy.manifest import MANIFEST

FILES = {LIBRARY, HEADER, MANIFEST}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change keys of the manifest; `...` removes one."""
    table = json.loads((folder / MANIFEST).read_text()) | changes
    kept = {key: value for key, value in table.items() if value is not ...}
    (folder / MANIFEST).write_text(json.dumps(kept))
