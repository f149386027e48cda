"""Fetch the explorer's two small libraries from npm and write down what they are: Preact and its notation, htm.

    python scripts/vendor.py            write src/pellucid/explorer/static/vendor/ from the pinned releases
    python scripts/vendor.py --check    exit 1 if a file there is not what vendor.json records (offline; run by a test)

They are kept as released, but for two lines: ``from"preact"`` becomes a relative path, so that a browser loads them
without an import map, and the line that names a source map goes. vendor.json has release, licence and both hashes.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "src" / "pellucid" / "explorer" / "static" / "vendor"

# our file: (package, pinned release, file in it, licence)
FILES = {
    "preact.js": ("preact", "11.2.0", "dist/preact.mjs", "MIT"),
    "hooks.js": ("preact", "11.2.0", "hooks/dist/hooks.mjs", "MIT"),
    "htm.js": ("htm", "3.1.1", "dist/htm.module.js", "Apache-2.0"),
}


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def fetch(package: str, release: str, folder: Path) -> tarfile.TarFile:
    """The package's archive, as `npm pack` gives it; npm has checked it against the registry's hash."""
    result = subprocess.run(
        ["npm", "pack", "--silent", f"{package}@{release}"], cwd=folder, capture_output=True, text=True, check=True
    )
    return tarfile.open(folder / result.stdout.split()[-1])


def read(archive: tarfile.TarFile, name: str) -> bytes:
    """One file of the archive."""
    member = archive.extractfile(f"package/{name}")
    assert member is not None, f"{name} is not a file of the package"
    return member.read()


def localized(source: bytes) -> bytes:
    """The module as it is served: imports are relative, and no source map is named."""
    text = source.decode("utf-8").replace('from"preact"', 'from"./preact.js"')
    return re.sub(r"\n?//# sourceMappingURL=.*", "", text).strip().encode("utf-8") + b"\n"


def write() -> None:
    """Fetch all and write the folder."""
    record = {}
    VENDOR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        archives = {package: fetch(package, release, Path(folder)) for package, release, _, _ in FILES.values()}
        for name, (package, release, path, licence) in FILES.items():
            source = read(archives[package], path)
            served = localized(source)
            (VENDOR / name).write_bytes(served)
            record[name] = {
                "package": package,
                "release": release,
                "file": path,
                "licence": licence,
                "released_sha256": sha256(source),
                "sha256": sha256(served),
            }
        for package, archive in archives.items():
            (VENDOR / f"{package}.LICENSE").write_bytes(read(archive, "LICENSE"))
    (VENDOR / "vendor.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def problems() -> list[str]:
    """What in the folder is not as recorded."""
    record = json.loads((VENDOR / "vendor.json").read_text(encoding="utf-8"))
    found = [f"{name} is recorded but not pinned here" for name in sorted(record.keys() - FILES.keys())]
    for name, (package, release, _, _) in FILES.items():
        entry = record.get(name, {})
        if entry.get("release") != release:
            found.append(f"{name}: vendor.json has release {entry.get('release')}, the script pins {release}")
        elif sha256((VENDOR / name).read_bytes()) != entry["sha256"]:
            found.append(f"{name} is not what vendor.json records")
        if not (VENDOR / f"{package}.LICENSE").exists():
            found.append(f"{package}.LICENSE is missing")
    return found


def main() -> None:
    """Write, or check."""
    if sys.argv[1:] == ["--check"]:
        found = problems()
        print("\n".join(found) or "vendor/ is as recorded")
        sys.exit(1 if found else 0)
    write()


if __name__ == "__main__":
    main()
