"""Write src/pellucid/data/simplified.txt from the dictionaries of OpenCC, which are plain text in its sources.

    pip download --no-deps --no-binary :all: opencc==1.4.2 && tar xf opencc-1.4.2.tar.gz
    python scripts/chinese_table.py opencc-1.4.2

What is written is what its configuration t2s does: compatibility characters, then phrases, then characters. The first
simplified form of several is taken, as there; where OpenCC keeps a second table of forms that few fonts have, that one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pellucid.data.chinese import TABLE
from pellucid.files import write_text

HEAD = """# Traditional to simplified Chinese, from the dictionaries of OpenCC {version}, https://github.com/BYVoid/OpenCC:
# Copyright BYVoid (Carbo Kuo) and contributors, licensed under the Apache License, Version 2.0. Modified by
# scripts/chinese_table.py: three dictionaries merged into one file, sorted, one form kept for each key.
# Each part is a line of keys and a line of values of the same length; phrases are separated by spaces."""
RARE = "# @tofu-risk"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("opencc", type=Path, help="folder of OpenCC's sources")
    sources: Path = parser.parse_args().opencc
    info = (sources / "PKG-INFO").read_text(encoding="utf-8").splitlines()
    version = next(line.removeprefix("Version: ") for line in info if line.startswith("Version: "))
    folder = sources / "data" / "dictionary"
    parts = [HEAD.format(version=version)]
    for name, between in (("CJK_Compatibility_Ideographs", ""), ("TSCharacters", ""), ("TSPhrases", " ")):
        pairs = sorted(_read(folder / f"{name}.txt"))
        assert between or all(len(key) == len(value) == 1 for key, value in pairs), name
        parts += [between.join(key for key, _ in pairs), between.join(value for _, value in pairs)]
    write_text(TABLE, "\n".join(parts) + "\n")
    print(f"{TABLE}: {TABLE.stat().st_size:,} bytes")


def _read(path: Path) -> Iterator[tuple[str, str]]:
    rare = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            key, values = line.split("\t")
            yield key, values.split(" ")[1 if rare else 0]
        rare = line.startswith(RARE)


if __name__ == "__main__":
    main()
