"""The corpus of the bundled zh-en model: Tatoeba and hsk-sentences-audio together, nothing of one's held-out set in it.

    pellucid data fetch tatoeba-zh-en --output corpora
    python scripts/zh_en_corpus.py corpora/tatoeba-zh-en corpora/zh-en

Writes train.tsv (both training sets), dev.tsv (Tatoeba's development set, as it is) and hsk_dev.tsv, hsk_test.tsv
(Chinese, tab, English). A training pair goes if either side is a held-out side but for punctuation, width, case and
Chinese script; how many went is printed. recipes/zh-en.yaml trains on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pellucid.config import CorpusConfig
from pellucid.data.chinese import converter
from pellucid.data.corpus import read_pairs
from pellucid.data.hsk import load_hsk
from pellucid.data.punctuation import letters_key
from pellucid.files import write_text

TextPair = tuple[str, str]


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tatoeba", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    hsk = load_hsk()
    tatoeba_dev = _read(options.tatoeba / "dev.tsv")
    simplified = converter("simplified")

    def keys(pair: TextPair) -> set[str]:
        return {letters_key(simplified(pair[0])), letters_key(pair[1])}

    held_out = set().union(*(keys(pair) for pair in (*tatoeba_dev, *hsk.dev, *hsk.test)))
    train: list[TextPair] = []
    for name, pairs in (("tatoeba", _read(options.tatoeba / "train.tsv")), ("hsk", hsk.train)):
        kept = [pair for pair in pairs if held_out.isdisjoint(keys(pair))]
        print(f"{name}: {len(pairs):,} pairs, {len(pairs) - len(kept):,} of them with a held-out side")
        train += kept
    options.output.mkdir(parents=True, exist_ok=True)
    parts = {"train": train, "dev": tatoeba_dev, "hsk_dev": hsk.dev, "hsk_test": hsk.test}
    for part, rows in parts.items():
        write_text(options.output / f"{part}.tsv", "".join(f"{source}\t{target}\n" for source, target in rows))
        print(f"{options.output / part}.tsv: {len(rows):,} pairs")


def _read(path: Path) -> list[TextPair]:
    return [(pair.source, pair.target) for pair in read_pairs(CorpusConfig(path=str(path)))]


if __name__ == "__main__":
    main()
