"""Checkpoints on a real S3 endpoint: a server of this machine, and in front of it one that fails when it is told to."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from distmlp.checkpoint import object_store
from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.object_store import ObjectStorage
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.retention import Retention, Saved
from distmlp.checkpoint.select import checkpoint_names, clear_leftovers, newest_sound
from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.writer import SaveError, StepWriter
from distmlp.cli import main
from distmlp.shards import Place, Range, Shard

pytest.importorskip("moto.server", reason="no moto, which is a real S3 endpoint")
pytest.importorskip("s3fs")
SECRET = "very-secret"


class Flaky(ThreadingHTTPServer):
    """Passes requests on. The next ones that match ``method`` fail as ``failures`` says: a status, `drop` or `cut`."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.port = port
        self.failures: list[str | int] = []
        self.method = ""
        self.log: list[tuple[str, str]] = []
        self.sent_bytes = 0
        super().__init__(("127.0.0.1", 0), Passing)

    def fail(self, method: str, *failures: str | int) -> None:
        self.method, self.failures = method, list(failures)

    def handle_error(self, *_: object) -> None:
        """A connection that a client gave up is no news."""


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.log.append((self.command, self.path))
        failures = self.server.failures
        failure = failures.pop(0) if failures and self.command == self.server.method else None
        if failure == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif isinstance(failure, int):
            self.answer(failure, {}, b"<Error><Code>ServiceUnavailable</Code></Error>")
        else:
            self.answer(*self.ask(body), cut=failure == "cut")

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.server.port)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), text

    def answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length", str(len(body)))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            sent = body[: len(body) // 2] if cut else body
            self.wfile.write(sent)
            self.server.sent_bytes += len(sent)
        if cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A real S3 server in a process of its own, on a free port."""
    run = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        line = next(line for line in server.stdout if "Running on http" in line)
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield int(line.strip().rpartition(":")[2])
        server.kill()


@pytest.fixture
def flaky(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    """The server in front of it, which the environment names."""
    server = Flaky(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # so that our tries are seen, not botocore's
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "FIRST_PAUSE_SECONDS", 0.01)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(flaky: Flaky, tmp_path: Path) -> str:
    bucket = tmp_path.name.replace("_", "-").lower()[-40:].strip("-")
    ObjectStorage("s3://").fs.mkdir(bucket)
    return f"s3://{bucket}/runs/a/checkpoints"


@pytest.fixture
def s3(url: str) -> ObjectStorage:
    return ObjectStorage(url)


def fail(line: str) -> None:
    raise AssertionError(line)


def read_w(storage: ObjectStorage, name: str) -> list[float]:
    with CheckpointReader(storage, name) as checkpoint:
        return checkpoint.whole("weights", "w").flatten().tolist()


def test_ranks_that_share_nothing_but_the_store_save_and_read(url: str, small) -> None:
    """Each has a client of its own: rank 0 sees what the other writes after it began to look."""

    def write(rank: int) -> None:
        storage, stop = ObjectStorage(url), threading.Event()
        writer = StepWriter(storage, 10, attempt="a", rank=rank, world_size=2, stop_waiting=stop)
        snapshot = Snapshot(pinned=False)
        snapshot.take(small[rank])
        if rank == 1:
            time.sleep(0.5)
        writer.write_part(snapshot, {})
        if rank == 0:
            writer.commit({"step": 10})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    reader = ObjectStorage(url)
    assert newest_sound(reader, fail) == "step-00000010"
    assert read_w(reader, "step-00000010") == list(range(12))
    assert reader.names("step-00000010") == [
        MANIFEST, "state.json", "tensors-00000-of-00002.safetensors", "tensors-00001-of-00002.safetensors"
    ]  # fmt: skip


def test_a_damaged_one_is_set_aside_and_the_rest_is_kept_by_the_rules(s3: ObjectStorage, save, small) -> None:
    for step in (10, 20, 30, 40):
        save(s3, small, step=step)
    s3.write("step-00000040/state.json", [b"{}"])
    lines: list[str] = []
    assert newest_sound(s3, lines.append) == "step-00000030"
    aside = s3.url.replace("checkpoints", "quarantine/step-00000040")
    assert lines[0].startswith(
        f"checkpoint step-00000040 is passed over: {s3.url}/step-00000040/state.json has 2 bytes"
    )
    assert lines[0].endswith(f"it lies in {aside} now")
    assert len(ObjectStorage(aside).names()) == 4
    saved = [Saved(name, int(name[5:])) for name in checkpoint_names(s3)]
    for name in Retention(2).to_remove(saved):
        s3.remove(name)
    assert s3.names() == ["step-00000020", "step-00000030"]


def test_a_large_file_goes_up_in_parts_and_a_range_of_it_comes_back(
    s3: ObjectStorage, flaky: Flaky, save, monkeypatch
) -> None:
    monkeypatch.setattr(object_store, "PART_BYTES", 5 * 2**20)
    values = torch.randn(5_000_000)
    name = save(s3, [[Shard("weights", Place("w", (5_000_000,), Range(0, 5_000_000)), values)]])
    parts = [path for method, path in flaky.log if method == "PUT" and "partNumber" in path]
    assert len(parts) >= 2
    flaky.sent_bytes = 0
    with CheckpointReader(s3, name) as checkpoint:
        found = checkpoint.read("weights", Place("w", (5_000_000,), Range(2_000_000, 2_000_100)))
    assert torch.equal(found, values[2_000_000:2_000_100])
    assert flaky.sent_bytes < 3 * 2**20
    assert newest_sound(s3, fail) == name


FAILURES = [500, "drop", 503, "drop"]


@pytest.mark.parametrize("method", ["PUT", "HEAD", "GET", "POST"])
def test_a_save_outlives_failures_that_pass(s3: ObjectStorage, flaky: Flaky, save, small, method: str) -> None:
    save(s3, small)
    flaky.fail(method, *FAILURES)
    name = save(s3, small, attempt="b")
    assert flaky.failures == []
    assert newest_sound(s3, fail) == name


@pytest.mark.parametrize("failures", [FAILURES, ["cut"] * 8], ids=["mixed", "cut"])
def test_reading_outlives_failures_that_pass(s3: ObjectStorage, flaky: Flaky, save, small, failures) -> None:
    name = save(s3, small)
    flaky.fail("GET", *failures)
    assert read_w(s3, name) == list(range(12))
    assert flaky.failures == []


def test_a_part_of_an_upload_that_fails_is_sent_again(s3: ObjectStorage, flaky: Flaky, monkeypatch) -> None:
    monkeypatch.setattr(object_store, "PART_BYTES", 5 * 2**20)
    chunks = [bytes([number]) * 2**20 for number in range(12)]
    flaky.fail("PUT", *FAILURES)
    s3.write("a", iter(chunks))
    with s3.open("a") as file:
        assert file.read() == b"".join(chunks)
    assert flaky.failures == []


def test_a_server_that_stays_away_fails_the_save_in_bounded_time(s3: ObjectStorage, flaky: Flaky, save, small) -> None:
    save(s3, small)
    flaky.fail("PUT", *[503] * 1000)
    with pytest.raises(SaveError, match=rf"{s3.url}/step-00000020.* after 6 tries") as raised:
        save(s3, small[:1], step=20)
    assert SECRET not in str(raised.value)
    flaky.fail("")
    clear_leftovers(s3, "b")
    assert s3.names() == ["step-00000010"]
    assert newest_sound(s3, fail) == "step-00000010"


def test_a_bucket_that_is_not_there_is_said_at_once(flaky: Flaky) -> None:
    storage = ObjectStorage("s3://nowhere-at-all/checkpoints")
    flaky.log.clear()
    with pytest.raises(OSError, match="s3://nowhere-at-all/checkpoints/a: "):
        storage.write_at_once("a", b"x")
    assert len(flaky.log) <= 2
    with suppress(OSError):
        assert newest_sound(storage, fail) is None


def test_after_each_kill_there_is_a_sound_checkpoint(url: str, killed) -> None:
    found = killed(url, 8, "new")
    names = [one["newest"] for one in found]
    assert None not in names
    assert names == sorted(names)
    for one in found:
        assert (one["reports"], one["torn"], one["strange"]) == ([], [], [])


def test_a_run_saves_there_and_goes_on_from_there_on_another_machine(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = url.removesuffix("/a/checkpoints")
    words = f"""train data=synthetic data.num_samples=300 data.input_shape=[8] data.global_batch_size=64 tracking=none
        trainer.accelerator=cpu trainer.progress=false model.hidden=[8] run.name=net run.id=one checkpoint.dir={root}
        checkpoint.every_steps=1 checkpoint.keep_last=2""".split()
    assert main([*words, "trainer.max_epochs=1"]) == 0
    assert not (tmp_path / "runs/net/one/checkpoints").exists()
    shutil.rmtree(tmp_path / "runs")
    assert main([*words, "trainer.max_epochs=2", "resume=must"]) == 0
    assert f"goes on from {root}/net/one/checkpoints/step-00000004: step 4, " in capfd.readouterr().err
    names = checkpoint_names(ObjectStorage(f"{root}/net/one/checkpoints"))
    assert names == ["step-00000008", "step-00000007"]
    assert main(["evaluate", "runs/net/one"]) == 0
    assert main(["checkpoint", "verify", "runs/net/one"]) == 0
    assert SECRET not in str([path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()])
