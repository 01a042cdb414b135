"""Downloads from a real HTTP server on this machine: whole, cut off, without Range, with wrong content, and none."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from distmlp.data.download import fetch
from distmlp.errors import ConfigError

CONTENT = np.random.default_rng(0).bytes(400_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
NAME = "file.gz"


@dataclass
class Mirror:
    """What a server gives, and what it was asked (the Range header of each request, or None)."""

    content: bytes = CONTENT
    honours_range: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


Serve = Callable[[Mirror], Mirror]


class Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        mirror, wanted = self.mirror, self.headers["Range"]
        mirror.asked.append(wanted)
        if mirror.status != 200:
            self.send_error(mirror.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and mirror.honours_range else 0
        if start and start >= len(mirror.content):
            self.send_error(416)
            return
        body = mirror.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: mirror.cuts.pop(0)] if mirror.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server for each mirror, and stop all at the end."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[ThreadingHTTPServer] = []

    def start(mirror: Mirror) -> Mirror:
        handler = type("BoundHandler", (Handler,), {"mirror": mirror})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        mirror.url = f"http://127.0.0.1:{server.server_port}/folder/"
        return mirror

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(folder: Path, *mirrors: Mirror) -> Path:
    return fetch(NAME, mirrors=[mirror.url for mirror in mirrors], md5=MD5, folder=folder)


def test_a_file_is_fetched_once(tmp_path: Path, serve: Serve) -> None:
    mirror = serve(Mirror())
    path = get(tmp_path / "new" / "folder", mirror)
    assert path.read_bytes() == CONTENT
    assert not path.with_name(f"{NAME}.part").exists()
    assert get(tmp_path / "new" / "folder", mirror) == path
    assert mirror.asked == [None]


def test_a_cut_connection_is_continued_where_it_broke(tmp_path: Path, serve: Serve) -> None:
    mirror = serve(Mirror(cuts=[250_000]))
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    first, second = mirror.asked
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 250_000


def test_a_part_of_an_earlier_run_is_continued(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:123_456])
    mirror = serve(Mirror())
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=123456-"]


def test_what_one_mirror_began_another_ends(tmp_path: Path, serve: Serve) -> None:
    cutting, whole = serve(Mirror(cuts=[150_000, 100_000])), serve(Mirror())
    assert get(tmp_path, cutting, whole).read_bytes() == CONTENT
    assert len(cutting.asked) == 2
    assert int(whole.asked[0].removeprefix("bytes=").rstrip("-")) > 150_000


def test_a_part_is_kept_when_every_mirror_breaks_off(tmp_path: Path, serve: Serve) -> None:
    mirror = serve(Mirror(cuts=[100_000, 100_000]))
    with pytest.raises(
        ConfigError, match=r"^file\.gz could not be fetched from 127\.0\.0\.1:\d+ \(last reason: .*IncompleteRead"
    ):
        get(tmp_path, mirror)
    kept = (tmp_path / f"{NAME}.part").read_bytes()
    assert len(kept) > 100_000
    assert CONTENT.startswith(kept)
    assert not (tmp_path / NAME).exists()
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked[-1] == f"bytes={len(kept)}-"


def test_a_server_that_ignores_range_starts_over(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    mirror = serve(Mirror(honours_range=False))
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=1000-"]


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * 500_000], ids=["wrong", "too long"])
def test_a_part_that_cannot_be_continued_is_dropped(tmp_path: Path, serve: Serve, part: bytes) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(part)
    mirror = serve(Mirror())
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked == [f"bytes={len(part)}-", None]


def test_a_whole_part_is_taken_without_asking(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    mirror = serve(Mirror())
    assert get(tmp_path, mirror).read_bytes() == CONTENT
    assert mirror.asked == []


def test_a_mirror_with_wrong_content_is_passed_over(tmp_path: Path, serve: Serve) -> None:
    wrong, right = serve(Mirror(content=b"<html>moved</html>" * 100)), serve(Mirror())
    assert get(tmp_path, wrong, right).read_bytes() == CONTENT
    assert right.asked == [None]


@pytest.mark.parametrize("status", [404, 503])
def test_a_mirror_that_refuses_is_asked_once_and_passed_over(tmp_path: Path, serve: Serve, status: int) -> None:
    refusing, right = serve(Mirror(status=status)), serve(Mirror())
    assert get(tmp_path, refusing, right).read_bytes() == CONTENT
    assert len(refusing.asked) == 1


def test_a_file_with_the_wrong_checksum_is_replaced(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / NAME).write_bytes(b"damaged")
    assert get(tmp_path, serve(Mirror())).read_bytes() == CONTENT


def test_ranks_that_start_together_fetch_once(tmp_path: Path, serve: Serve) -> None:
    mirror = serve(Mirror())
    threads = [threading.Thread(target=get, args=(tmp_path, mirror)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert mirror.asked == [None]


def test_no_mirror_left_says_what_where_why_and_what_to_do(tmp_path: Path, serve: Serve) -> None:
    missing, gone = serve(Mirror(status=404)), "http://127.0.0.1:1/"
    with pytest.raises(ConfigError) as caught:
        fetch(NAME, mirrors=[missing.url, gone], md5=MD5, folder=tmp_path)
    message = str(caught.value)
    host = missing.url.split("/")[2]
    assert message.startswith(f"file.gz could not be fetched from {host}, 127.0.0.1:1 (last reason: 127.0.0.1:1: ")
    assert "Connection refused" in message
    assert message.endswith("put the files in a folder and give it with data.dir=")
    assert "\n" not in message
    assert not (tmp_path / NAME).exists()


def test_only_wrong_content_names_the_checksum(tmp_path: Path, serve: Serve) -> None:
    mirror = serve(Mirror(content=b"other"))
    with pytest.raises(ConfigError, match=rf"last reason: 127\.0\.0\.1:\d+ gave a file whose MD5 is not {MD5}"):
        get(tmp_path, mirror)
    assert not (tmp_path / NAME).exists()
    assert not (tmp_path / f"{NAME}.part").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"/file/cache: file\.gz cannot be stored there: .*give it with data\.dir=$"):
        get(tmp_path / "file" / "cache", serve(Mirror()))


def test_nothing_is_printed_where_there_is_no_terminal(
    tmp_path: Path, serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    get(tmp_path, serve(Mirror()))
    assert capfd.readouterr() == ("", "")
