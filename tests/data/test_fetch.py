from __future__ import annotations

import hashlib
import http.server
import io
import json
import threading
import urllib.error
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid.config import CorpusConfig
from pellucid.data.corpus import read_pairs
from pellucid.data.fetch import CORPORA, fetch
from pellucid.data.punctuation import letters_key
from pellucid.errors import DataError

G2P = CORPORA["g2p"].files


class Server:
    """Files by name on 127.0.0.1, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.agents: set[str | None] = set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                outer.asked.append(name)
                outer.agents.add(self.headers["User-Agent"])
                content = outer.files.get(name)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.http.server_port}/data/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    server.thread.start()
    yield server
    server.http.shutdown()
    server.thread.join()
    server.http.server_close()


def _zip(rows: list[str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("_about.txt", "about")
        archive.writestr("cmn.txt", "\n".join(rows) + "\n")
    return content.getvalue()


def test_the_files_are_fetched_with_checksums_and_a_readme(server: Server, tmp_path: Path) -> None:
    server.files = {name: f"{name}\ta b\n".encode() * 3 for name in G2P}
    heard: list[tuple[str, int]] = []
    place = fetch("g2p", tmp_path / "new", lambda name, size: heard.append((name, size)), base=server.base)
    assert place == tmp_path / "new" / "g2p"
    assert sorted(path.name for path in place.iterdir()) == sorted([*G2P, "checksums.json", "README.md"])
    for name in G2P:
        assert (place / name).read_bytes() == server.files[name]
    checksums = json.loads((place / "checksums.json").read_text(encoding="utf-8"))
    assert checksums == {name: hashlib.sha256(content).hexdigest() for name, content in server.files.items()}
    assert "CC BY-SA 3.0" in (place / "README.md").read_text(encoding="utf-8")
    assert heard == [(name, len(server.files[name])) for name in G2P]
    assert all(agent and agent.startswith("pellucid") for agent in server.agents)


def test_what_is_there_is_not_fetched_again_and_what_was_changed_is(server: Server, tmp_path: Path) -> None:
    server.files = {name: name.encode() for name in G2P}
    place = fetch("g2p", tmp_path, base=server.base)
    server.asked.clear()
    fetch("g2p", tmp_path, base=server.base)
    assert server.asked == []
    (place / G2P[3]).write_bytes(b"damaged")
    (place / G2P[5]).unlink()
    fetch("g2p", tmp_path, base=server.base)
    assert server.asked == [G2P[3], G2P[5]]
    assert (place / G2P[3]).read_bytes() == G2P[3].encode()


def test_another_content_than_at_first_is_an_error_and_changes_nothing(server: Server, tmp_path: Path) -> None:
    server.files = {name: name.encode() for name in G2P}
    place = fetch("g2p", tmp_path, base=server.base)
    (place / G2P[0]).unlink()
    server.files[G2P[0]] = b"other"
    with pytest.raises(DataError) as caught:
        fetch("g2p", tmp_path, base=server.base)
    first, other = (hashlib.sha256(content).hexdigest() for content in (G2P[0].encode(), b"other"))
    assert str(caught.value) == (
        f"{server.base}{G2P[0]} has SHA-256 {other}, not {first} as when it was first fetched: "
        f"if the corpus has a new version, remove {place / 'checksums.json'}"
    )
    assert not (place / G2P[0]).exists()
    (place / "checksums.json").unlink()
    fetch("g2p", tmp_path, base=server.base)
    assert (place / G2P[0]).read_bytes() == b"other"


def test_an_interrupted_fetch_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files = {name: name.encode() for name in G2P[:4]}
    with pytest.raises(DataError, match=rf"{G2P[4]} answers 404 .*: the file may have moved$"):
        fetch("g2p", tmp_path, base=server.base)
    assert sorted(path.name for path in (tmp_path / "g2p").iterdir()) == sorted([*G2P[:4], "checksums.json"])
    server.files = {name: name.encode() for name in G2P}
    server.asked.clear()
    fetch("g2p", tmp_path, base=server.base)
    assert server.asked == list(G2P[4:])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError(104, "Connection reset by peer"), "[Errno 104] Connection reset by peer"),
    ],
)
def test_without_a_network_the_sentence_says_what_to_do(tmp_path: Path, error: Exception, reason: str) -> None:
    def opener(address: str) -> io.BytesIO:
        raise error

    with pytest.raises(DataError) as caught:
        fetch("multi30k", tmp_path, opener=opener)
    address = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/train.en.gz"
    assert str(caught.value) == (
        f"{address} cannot be fetched ({reason}): check the network, "
        f"or put the files into {tmp_path / 'multi30k'} yourself"
    )
    assert list((tmp_path / "multi30k").iterdir()) == []


def test_a_connection_that_breaks_leaves_no_half_file(tmp_path: Path) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError("broken off")
            return super().read(3)

    with pytest.raises(DataError, match=r"cannot be fetched \(broken off\)"):
        fetch("multi30k", tmp_path, opener=lambda address: Breaking(b"abcdef"))
    assert list((tmp_path / "multi30k").iterdir()) == []


def test_a_body_shorter_than_announced_is_an_error(server: Server, tmp_path: Path) -> None:
    class Short(bytes):
        def __len__(self) -> int:
            return 100

    server.files = {name: Short(b"abc") for name in G2P}
    with pytest.raises(DataError, match=rf"{G2P[0]} broke off after 3 bytes: fetch again$"):
        fetch("g2p", tmp_path, base=server.base)
    assert list((tmp_path / "g2p").iterdir()) == []


def test_an_empty_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.en\.gz broke off after 0 bytes: fetch again$"):
        fetch("multi30k", tmp_path, opener=lambda address: io.BytesIO(b""))


def test_unknown_names_and_bad_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no corpus 'wmt': there are g2p, multi30k, tatoeba-zh-en$"):
        fetch("wmt", tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match=r"file/g2p: the corpus cannot be stored there \(Not a directory\)$"):
        fetch("g2p", tmp_path / "file")
    (tmp_path / "g2p").mkdir()
    (tmp_path / "g2p" / "checksums.json").write_bytes(b"{")
    with pytest.raises(DataError, match="not a table of checksums"):
        fetch("g2p", tmp_path)


def test_multi30k_has_the_names_that_recipes_use() -> None:
    assert CORPORA["multi30k"].files == (
        "train.en.gz",
        "train.de.gz",
        "val.en.gz",
        "val.de.gz",
        "test_2016_flickr.en.gz",
        "test_2016_flickr.de.gz",
    )
    assert "fre_dev.tsv" in G2P
    assert len(G2P) == 15


def test_tatoeba_is_turned_and_divided(server: Server, tmp_path: Path) -> None:
    rows = [f"I have {n} cats.\t我有{n}只猫。\tCC-BY {n}" for n in range(198)]
    rows += ["Hi.\t你好。\tCC-BY a", "Hello.\t你好。\tCC-BY b", "broken row", "\t空\tx"]
    rows += [f"I have {n} cats.\t我有{n}只猫！\tCC-BY {n}" for n in range(198)]  # the same English again
    server.files = {"cmn-eng.zip": _zip(rows)}
    place = fetch("tatoeba-zh-en", tmp_path, base=server.base)
    parts = {}
    for name in ("train", "dev"):
        lines = (place / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        parts[name] = [tuple(line.split("\t")) for line in lines]
    assert len(parts["dev"]) == 398 // 10
    assert all(row[2].startswith("CC-BY") and row[0][-1] in "。！" for part in parts.values() for row in part)
    for side in (0, 1):
        assert not {row[side] for row in parts["dev"]} & {row[side] for row in parts["train"]}
        # Nor the same text with other punctuation: 我有1只猫！ beside 我有1只猫。
        assert not {letters_key(row[side]) for row in parts["dev"]} & {letters_key(row[side]) for row in parts["train"]}
    assert len({letters_key(row[0]) for row in parts["dev"]}) == len(parts["dev"])
    first = next(read_pairs(CorpusConfig(path="train.tsv"), place))
    assert first.source.startswith("我有")
    before = (place / "dev.tsv").read_bytes()
    fetch("tatoeba-zh-en", tmp_path, base=server.base)
    assert server.asked == ["cmn-eng.zip"]
    assert (place / "dev.tsv").read_bytes() == before


@pytest.mark.parametrize("content", [b"no archive", b"PK\x05\x06" + b"\0" * 18])
def test_an_archive_that_is_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"cmn-eng\.zip: not the archive with cmn\.txt that was expected"):
        fetch("tatoeba-zh-en", tmp_path, opener=lambda address: io.BytesIO(content))


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "{"])
def test_checksums_that_are_no_table(tmp_path: Path, content: str) -> None:
    (tmp_path / "g2p").mkdir()
    (tmp_path / "g2p" / "checksums.json").write_text(content)
    with pytest.raises(DataError, match=r"checksums\.json: not a table of checksums: remove it"):
        fetch("g2p", tmp_path, opener=lambda address: io.BytesIO(b"x"))


def test_errors_of_the_network_and_of_the_disk_are_told_apart(tmp_path: Path) -> None:
    class Unreachable(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(113, "No route to host")

    with pytest.raises(DataError, match=r"cannot be fetched \(\[Errno 113\] No route to host\): check the network"):
        fetch("g2p", tmp_path, opener=lambda address: Unreachable())

    def full(name: str, size: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot be stored there \(No space left on device\)"):
        fetch("g2p", tmp_path, full, opener=lambda address: io.BytesIO(b"x"))
    assert list((tmp_path / "g2p").iterdir()) == []
