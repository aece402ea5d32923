import errno
import hashlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minirtmdet.configs import INS_MODELS, MODELS
from minirtmdet.weights import published as weights
from minirtmdet.weights.published import (
    OFFICIAL,
    DownloadError,
    OfficialWeights,
    download,
    download_weights,
    weights_path,
)

CONTENT = bytes(range(256)) * 2_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT as ``/file.pth`` from this machine, and remembers what it was asked for."""

    ranges = True  # whether it gives parts
    breaks_after: int | None = None  # bytes after which it closes the connection
    says_length = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []  # the Range of each request
        self.url = f"http://127.0.0.1:{self.server_port}/file.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        if self.path != "/file.pth":
            return self.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if self.server.says_length:
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        until = self.server.breaks_after
        self.wfile.write(CONTENT[start:] if until is None else CONTENT[start : start + until])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "file.pth"


def part_of(path: Path, content: bytes) -> Path:
    """What an earlier download left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("file.pth.part")
    part.write_bytes(content)
    return part


def files(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()} - {"file.pth.lock"}


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8]])
def test_a_file_arrives_whole(server: Server, path: Path, sha256: str):
    download(server.url, path, sha256)
    assert path.read_bytes() == CONTENT
    assert files(path) == {"file.pth"}
    assert server.asked == [None]


def test_a_download_that_stops_goes_on(server: Server, path: Path):
    server.breaks_after = 100_000
    with pytest.raises(DownloadError, match=r"file\.pth: it ended after 100000 of 512000 bytes; try again"):
        download(server.url, path, SHA256)
    assert files(path) == {"file.pth.part"}
    server.breaks_after = None
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert files(path) == {"file.pth"}
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_that_gives_no_parts_gives_all(server: Server, path: Path):
    server.ranges = False
    part_of(path, b"the beginning of something")
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=26-"]


def test_a_server_that_gives_no_length(server: Server, path: Path):
    server.says_length = False
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    path.unlink()
    server.breaks_after = 1_000
    with pytest.raises(DownloadError, match=f"expected {SHA256}"):
        download(server.url, path, SHA256)
    assert files(path) == set()


def test_a_part_that_is_all_of_it(server: Server, path: Path):
    part_of(path, CONTENT)
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT + b"more", b"another file's beginning"])
def test_a_wrong_part_is_removed_and_fetched_again(server: Server, path: Path, left: bytes):
    part_of(path, left)
    with pytest.raises(DownloadError, match=r"SHA-256 [0-9a-f]{64}, expected .*; it is removed, try again"):
        download(server.url, path, SHA256)
    assert files(path) == set()
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, path: Path):
    with pytest.raises(DownloadError, match=f"{re.escape(server.url)}: .* SHA-256 {SHA256}, expected 00000000"):
        download(server.url, path, "00000000")
    assert files(path) == set()


def test_no_such_file(server: Server, path: Path):
    with pytest.raises(DownloadError, match=r"/nope: the server answers 404 Not Found"):
        download(server.url.replace("file.pth", "nope"), path, SHA256)
    assert files(path) == set()


def test_no_such_server(path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file.pth"
        with pytest.raises(DownloadError, match=r"Connection refused.*try again"):
            download(url, path, SHA256)


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path):
    (tmp_path / "new").write_text("a file")
    with pytest.raises(DownloadError, match=rf"new cannot be written: {os.strerror(errno.EEXIST)}"):
        download(server.url, tmp_path / "new" / "file.pth", SHA256)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
def test_no_space(server: Server, path: Path):
    path.parent.mkdir()
    path.with_name("file.pth.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=rf"file\.pth\.part cannot be written: {os.strerror(errno.ENOSPC)}"):
        download(server.url, path, SHA256)
    assert not path.exists()


def test_several_at_once_fetch_once(server: Server, path: Path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: download(server.url, path, SHA256), range(4)))
    assert path.read_bytes() == CONTENT
    assert len(server.asked) == 1


# ----------------------------------------------------------------------------------------------- the table


def test_every_size_has_weights_whose_name_carries_their_sum():
    assert OFFICIAL.keys() == MODELS.keys() | INS_MODELS.keys()
    for official in OFFICIAL.values():
        assert official.url.startswith("https://download.openmmlab.com/")
        assert official.url.endswith(f"-{official.sha256[:8]}.pth")
        assert re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", official.sha256)


def test_weights_are_downloaded_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(weights.OFFICIAL, "tiny", OfficialWeights(server.url, SHA256))
    assert download_weights("tiny", tmp_path) == download_weights("tiny", tmp_path) == tmp_path / "file.pth"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "content", [b"", CONTENT[:-1], CONTENT + b"x", b"x" + CONTENT[1:]], ids=["empty", "cut", "long", "other"]
)
def test_a_file_that_is_not_the_published_one_is_refused_and_stays(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
):
    monkeypatch.setitem(weights.OFFICIAL, "tiny", OfficialWeights(server.url, SHA256))
    file = tmp_path / "file.pth"
    file.write_bytes(content)
    for ask in (partial(download_weights, "tiny", tmp_path), partial(download, server.url, file, SHA256)):
        with pytest.raises(DownloadError, match=rf"file\.pth has SHA-256 .*, expected {SHA256}: .* Remove it"):
            ask()
    assert file.read_bytes() == content
    assert server.asked == []
    file.unlink()
    assert download_weights("tiny", tmp_path).read_bytes() == CONTENT


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "user_cache_path", lambda name: tmp_path / name)
    assert weights_path("s").parent == tmp_path / "minirtmdet/weights"


def test_a_size_that_is_none():
    with pytest.raises(ValueError, match="no published weights of size 'xl': expected one of nano, tiny, s, m, l, x"):
        download_weights("xl")
