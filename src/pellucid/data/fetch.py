"""Public corpora for the recipes, for machines with a network: ``pellucid data fetch NAME``.

Files are fetched with urllib, one at a time and atomically. The SHA-256 of each is recorded in ``checksums.json`` when
it is first fetched; what is there and unchanged is not fetched again, and what arrives later must be the same.

g2p's address names a commit. Multi30k's does not: its repository has no releases, and no commit could be confirmed to
hold all six files as the recipe was measured on them; tatoeba's archive is replaced by its makers from time to time.
For these two the first fetch decides which version it is.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pellucid.data.punctuation import letters_key
from pellucid.errors import DataError
from pellucid.files import atomic_file, write_json, write_text

__all__ = ["CORPORA", "Corpus", "fetch"]

CHECKSUMS = "checksums.json"
TIMEOUT_SECONDS = 60
_CHUNK = 1 << 18
_DEV_PAIRS = 1000

Opener = Callable[[str], AbstractContextManager[IO[bytes]]]
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be fetched.

    Attributes:
        title: one line about it.
        base: what the addresses of ``files`` begin with.
        files: names in the folder, which are also the ends of the addresses.
        homepage, licence: where it comes from and on what terms.
        unpack: makes the corpus files from the fetched ones; None if these are the corpus.
    """

    title: str
    base: str
    files: tuple[str, ...]
    homepage: str
    licence: str
    unpack: Callable[[Path], None] | None = None


def fetch(
    name: str,
    folder: str | Path,
    progress: Progress | None = None,
    opener: Opener | None = None,
    base: str | None = None,
) -> Path:
    """Fetch the corpus ``name`` into ``folder/name``.

    Args:
        name: one of :data:`CORPORA`.
        folder: is made where it does not exist.
        progress: called with a file's name and the bytes it has so far.
        opener: opens an address for reading; default urllib with a time limit.
        base: another place that has the files (a mirror).

    Returns:
        The folder with the corpus, its README.md and checksums.json.

    Raises:
        DataError: an unknown name, no network, an address that does not answer, a file that is not what it was before.
    """
    if name not in CORPORA:
        raise DataError(f"no corpus {name!r}: there are {', '.join(sorted(CORPORA))}")
    corpus = CORPORA[name]
    place = Path(folder) / name
    try:
        place.mkdir(parents=True, exist_ok=True)
        known = _read_checksums(place / CHECKSUMS)
        for file in corpus.files:
            path = place / file
            if path.is_file() and file in known and _sha256(path) == known[file]:
                continue
            known[file] = _fetch_file(f"{base or corpus.base}{file}", path, known.get(file), progress, opener or _open)
            write_json(place / CHECKSUMS, known)
        if corpus.unpack is not None:
            corpus.unpack(place)
        write_text(place / "README.md", _readme(corpus))
    except OSError as error:
        raise DataError(f"the corpus cannot be stored there ({error.strerror or error})", path=place) from None
    return place


def _open(address: str) -> AbstractContextManager[IO[bytes]]:
    # Some servers refuse urllib's own name (manythings.org answers 406).
    request = urllib.request.Request(address, headers={"User-Agent": "pellucid (https://pypi.org/project/pellucid/)"})
    answer: AbstractContextManager[IO[bytes]] = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    return answer


def _fetch_file(address: str, path: Path, known: str | None, progress: Progress | None, opener: Opener) -> str:
    digest = hashlib.sha256()
    size = 0
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file, closing(_chunks(address, path.parent, opener)) as chunks:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                if progress is not None:
                    progress(path.name, size)
        if known is not None and digest.hexdigest() != known:
            raise DataError(
                f"{address} has SHA-256 {digest.hexdigest()}, not {known} as when it was first fetched: "
                f"if the corpus has a new version, remove {path.parent / CHECKSUMS}"
            )
    return digest.hexdigest()


def _chunks(address: str, place: Path, opener: Opener) -> Generator[bytes, None, None]:
    """What is at an address; an OSError in here is the network's, one outside is the disk's."""
    size = 0
    try:
        with opener(address) as answer:
            # http.client says nothing where a connection ends before the announced length.
            announced = getattr(answer, "length", None)
            for chunk in iter(lambda: answer.read(_CHUNK), b""):
                size += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{address} answers {error.code} {error.reason}: the file may have moved") from None
    except (http.client.HTTPException, OSError) as error:  # OSError: also URLError, TimeoutError and TLS errors
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{address} cannot be fetched ({reason}): check the network, or put the files into {place} yourself"
        ) from None
    if size < (announced or 1):
        raise DataError(f"{address} broke off after {size:,} bytes: fetch again")


def _read_checksums(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise DataError("not a table of checksums: remove it to fetch the corpus anew", path=path)
    return {str(name): str(digest) for name, digest in known.items()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _unpack_tatoeba(place: Path) -> None:
    """cmn.txt (English, Chinese, attribution) → train.tsv and dev.tsv (Chinese, English, attribution).

    About 1,000 pairs, chosen by a hash of the Chinese text, are dev; none of their texts stays in train, not even with
    other punctuation.
    """
    by_text: dict[str, list[tuple[str, str, str]]] = {}
    for row in _tatoeba_rows(place / "cmn-eng.zip"):
        by_text.setdefault(letters_key(row[0]), []).append(row)
    order = sorted(by_text, key=lambda key: hashlib.sha256(key.encode()).digest())
    chosen = order[: min(_DEV_PAIRS, sum(map(len, by_text.values())) // 10)]
    dev = [by_text.pop(key)[0] for key in chosen]  # one reference for a source, so that no source counts twice
    english = {letters_key(row[1]) for row in dev}
    train = [row for rows in by_text.values() for row in rows if letters_key(row[1]) not in english]
    for name, part in (("train.tsv", train), ("dev.tsv", dev)):
        write_text(place / name, "".join("\t".join(row) + "\n" for row in part))


def _tatoeba_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read("cmn.txt").decode("utf-8-sig")
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError):
        raise DataError(
            "not the archive with cmn.txt that was expected: remove it and fetch again", path=path
        ) from None
    for line in io.StringIO(text, newline=None):
        cells = line.rstrip("\n").split("\t")
        if len(cells) >= 3 and all(cells[:3]):
            yield cells[1], cells[0], cells[2]


def _readme(corpus: Corpus) -> str:
    return (
        f"# {corpus.title}\n\nSource: <{corpus.homepage}>, fetched from <{corpus.base}>.\n\n"
        f"Licence: {corpus.licence}\n\n{CHECKSUMS} has the SHA-256 of each file as it was first fetched.\n"
    )


CORPORA: dict[str, Corpus] = {
    "multi30k": Corpus(
        title="Multi30k, task 1: English-German image captions, raw text",
        base="https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/",
        files=tuple(f"{split}.{side}.gz" for split in ("train", "val", "test_2016_flickr") for side in ("en", "de")),
        homepage="https://github.com/multi30k/dataset",
        licence="no licence file; the maintainers refer to the terms of Flickr30k, for non-commercial research and "
        "education (<https://github.com/multi30k/dataset/issues/8>). Cite Elliott et al. 2016, Multi30K.",
    ),
    "tatoeba-zh-en": Corpus(
        title="Tatoeba: Chinese-English sentences (Chinese, English, attribution)",
        base="https://www.manythings.org/anki/",
        files=("cmn-eng.zip",),
        homepage="https://tatoeba.org",
        licence="CC BY 2.0 FR; the third column names the authors of each sentence.",
        unpack=_unpack_tatoeba,
    ),
    "g2p": Corpus(
        title="SIGMORPHON 2021 task 1, medium: words and their phones in five languages",
        base="https://raw.githubusercontent.com/sigmorphon/2021-task1/821bcdece5a47820872215969f275004b0abe80c/data/medium/",
        files=tuple(
            f"{language}_{split}.tsv"
            for language in ("bul", "dut", "fre", "hun", "kor")
            for split in ("train", "dev", "test")
        ),
        homepage="https://github.com/sigmorphon/2021-task1",
        licence="CC BY-SA 3.0 (from Wiktionary, by WikiPron). Cite Ashby et al. 2021, the shared task's overview.",
    ),
}
