"""Text is encoded once, the same however often it was stopped; what cannot be encoded is named."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distmlp.data import cache, prepare, tokenizer
from distmlp.data.prepare import Prepared
from distmlp.data.text_files import list_text_files, read_chunks
from distmlp.errors import ConfigError

LINE = "all the king’s horses, and all the king’s men; "


def write_text(folder: Path, num_lines: int = 400) -> list[Path]:
    """Three documents: with lines, with one long line, and without a newline at the end."""
    folder.mkdir()
    for number, ending in enumerate(("\n", "", "\n\n")):
        lines = [f"{LINE}{line}{ending}" for line in range(num_lines)]
        (folder / f"{number}.txt").write_text("".join(lines).strip(), encoding="utf-8")
    return sorted(folder.iterdir())


def run(files: list[Path], cache_dir: Path, kind: str = "characters", vocab_size: int | None = None) -> Prepared:
    return prepare.prepare(files, documents=True, tokenizer=kind, vocab_size=vocab_size, cache_dir=str(cache_dir))


def ids_of(prepared: Prepared) -> list[int]:
    return np.fromfile(prepared.path, dtype=prepared.dtype).tolist()


@pytest.mark.parametrize(("kind", "vocab_size"), [("characters", None), ("bytes", None), ("bpe", 300)])
def test_the_tokens_are_the_documents_each_with_a_separator(
    tmp_path: Path, kind: str, vocab_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_text(tmp_path / "text")
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 1000)
    prepared = run(files, tmp_path / "cache", kind, vocab_size)
    ids, vocabulary = ids_of(prepared), prepared.vocabulary
    ends = [place for place, token in enumerate(ids) if token == vocabulary.separator_id]
    documents = [ids[start + 1 : end] for start, end in zip([-1, *ends], ends, strict=False)]
    assert [vocabulary.decode(document) for document in documents] == [file.read_text("utf-8") for file in files]
    assert ends[-1] == len(ids) - 1
    assert prepared.num_tokens == len(ids)
    assert prepared.dtype == ("uint8" if kind == "characters" else "uint16")


def test_a_chunk_ends_with_a_line_or_a_word_or_at_least_a_character(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    for text in ("ab\ncd\n" * 50, "one two " * 50, "é蜂𝄞" * 60):
        path.write_text(text, encoding="utf-8")
        chunks = list(read_chunks(path, 0, 32))
        assert "".join(piece for _, piece in chunks) == text
        assert list(read_chunks(path, chunks[2][0], 32)) == chunks[3:]
        assert all(not piece.endswith(("a", "on", "tw")) for _, piece in chunks)


def test_a_second_start_only_looks(tmp_path: Path) -> None:
    files = write_text(tmp_path / "text")
    first = run(files, tmp_path / "cache")
    written = first.path.stat().st_mtime_ns
    assert run(files, tmp_path / "cache") == first
    assert first.path.stat().st_mtime_ns == written


def test_a_changed_file_is_prepared_anew_and_equal_text_has_an_equal_fingerprint(tmp_path: Path) -> None:
    files = write_text(tmp_path / "text")
    first = run(files, tmp_path / "cache")
    text = files[1].read_text("utf-8")
    files[1].write_text(text.replace("horses", "houses"), encoding="utf-8")
    changed = run(files, tmp_path / "cache")
    assert (changed.folder, changed.fingerprint) != (first.folder, first.fingerprint)
    files[1].write_text(text, encoding="utf-8")
    again = run(files, tmp_path / "elsewhere")
    assert again.fingerprint == first.fingerprint != changed.fingerprint


KILLED = """
import sys
from pathlib import Path
from distmlp.data import prepare
prepare.CHUNK_BYTES, prepare.JOURNAL_SECONDS = 2048, 0.0
prepare.prepare(sorted(Path(sys.argv[1]).iterdir()), documents=True, tokenizer=sys.argv[3], vocab_size=None,
                cache_dir=sys.argv[2])
"""


@pytest.mark.parametrize("signals", [[signal.SIGKILL, signal.SIGKILL], [signal.SIGINT]])
def test_a_stopped_preparation_continues_and_ends_in_the_same_bytes(
    tmp_path: Path, signals: list[signal.Signals], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_text(tmp_path / "text", num_lines=4000)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "text"), str(tmp_path / "cache"), "characters"]
    stops = [0]
    for with_signal in signals:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for_progress(tmp_path / "cache", process, beyond=stops[-1])
        process.send_signal(with_signal)
        assert process.wait(timeout=30) != 0
        stops.append(num_tokens_in_journal(tmp_path / "cache"))
    assert stops == sorted(set(stops))
    assert not list((tmp_path / "cache").rglob("prepared.json"))

    with next((tmp_path / "cache").rglob("tokens.bin")).open("r+b") as file:
        file.write(b"\xee")  # a mark that stays only if what is there is not made again
        file.seek(0, 2)
        file.write(b"torn")  # beyond what the journal vouches for
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 2048)
    resumed, whole = run(files, tmp_path / "cache"), run(files, tmp_path / "uninterrupted")
    assert resumed.path.read_bytes() == b"\xee" + whole.path.read_bytes()[1:]
    assert resumed.fingerprint == whole.fingerprint


def wait_for_progress(folder: Path, process: "subprocess.Popen[bytes]", beyond: int) -> None:
    deadline = time.monotonic() + 60
    while num_tokens_in_journal(folder) <= beyond:
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def num_tokens_in_journal(folder: Path) -> int:
    found = list(folder.rglob("journal.json"))
    return int(json.loads(found[0].read_text())["num_tokens"]) if found else 0


FULL = """
import resource
from distmlp.errors import ConfigError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    exec(open(0).read())
except ConfigError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_with_more_room_it_continues(tmp_path: Path) -> None:
    files = write_text(tmp_path / "text", num_lines=1000)
    places = [str(tmp_path / "text"), str(tmp_path / "cache"), "characters"]
    ended = subprocess.run(
        [sys.executable, "-c", FULL, *places], input=KILLED, capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith(f"{tmp_path / 'cache'}/")
    assert "cannot be stored there: File too large; make room" in ended.stdout
    assert ended.stdout.count("\n") == 1
    assert 90_000 < num_tokens_in_journal(tmp_path / "cache") <= 100_000
    text = "".join(file.read_text("utf-8") for file in files)
    assert len(run(files, tmp_path / "cache").path.read_bytes()) == len(text) + len(files)


def test_processes_that_start_together_prepare_once(tmp_path: Path) -> None:
    files = write_text(tmp_path / "text", num_lines=300)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "text"), str(tmp_path / "cache"), "bpe"]
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    folder = next((tmp_path / "cache").iterdir())
    assert sorted(file.name for file in folder.iterdir() if file.name != "lock") == [
        "journal.json", "prepared.json", "tokens.bin", "vocabulary.json"
    ]  # fmt: skip
    assert (
        len(ids_of(run(files, tmp_path / "cache", "bpe")))
        == json.loads((folder / "prepared.json").read_text())["num_tokens"]
    )


def test_byte_pairs_are_not_learnt_again_by_a_start_that_continues(tmp_path: Path) -> None:
    files = write_text(tmp_path / "text")
    bad = files[2].read_bytes()
    files[2].write_bytes(bad[:-1] + b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        run(files, tmp_path / "cache", "bpe", 300)
    made = next((tmp_path / "cache").rglob("vocabulary.json")).stat().st_mtime_ns
    with pytest.raises(ConfigError, match="not UTF-8"):
        run(files, tmp_path / "cache", "bpe", 300)
    assert next((tmp_path / "cache").rglob("vocabulary.json")).stat().st_mtime_ns == made


def test_byte_pairs_are_learnt_from_a_part_of_a_large_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_text(tmp_path / "text")
    total = sum(file.stat().st_size for file in files)
    monkeypatch.setattr(tokenizer, "CHUNK_BYTES", 256)
    read = [len(text.encode()) for text in tokenizer._sample(files, total // 4)]
    assert 0.15 * total < sum(read) < 0.3 * total
    assert sum(len(text.encode()) for text in tokenizer._sample(files, 2 * total)) > 0.99 * total


def test_bytes_that_are_no_utf_8_are_named_with_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"bee\n" * 100 + b"be\xffe\n" * 2)
    monkeypatch.setattr(prepare, "CHUNK_BYTES", 64)
    with pytest.raises(ConfigError, match=r"text\.txt: not UTF-8 at byte 402 "):
        run([path], tmp_path / "cache", "bytes")
    path.write_bytes("蜂".encode()[:2])
    with pytest.raises(ConfigError, match="not UTF-8 at byte 0 "):
        run([path], tmp_path / "cache", "bytes")


def test_a_folder_that_cannot_hold_the_tokens_is_named(tmp_path: Path) -> None:
    files = write_text(tmp_path / "text")
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cache.*cannot be stored there.*data\.cache_dir"):
        run(files, tmp_path / "cache")


@pytest.mark.parametrize(
    ("kind", "vocab_size", "message"),
    [
        ("character", None, "did you mean characters"),
        ("missing/tokenizer.json", None, "characters, bytes, bpe, or the path"),
        ("bytes", 300, r"leave data\.vocab_size unset"),
        ("bpe", 100, "256 bytes"),
    ],
)
def test_a_tokenizer_that_cannot_be_is_refused(tmp_path: Path, kind: str, vocab_size: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(write_text(tmp_path / "text", 2), tmp_path / "cache", kind, vocab_size)
    assert not (tmp_path / "cache").exists()


def test_files_are_found_in_subfolders_and_empty_ones_left_out(tmp_path: Path) -> None:
    for name, content in (("b/c.txt", "x"), ("a.txt", "x"), ("d.txt", ""), ("e.md", "x")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert list_text_files(str(tmp_path), "*.txt") == ([tmp_path / "a.txt", tmp_path / "b" / "c.txt"], True)
    assert list_text_files(str(tmp_path / "e.md"), "*.txt") == ([tmp_path / "e.md"], False)


def test_a_text_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for path, pattern, message in (
        ("nowhere", "*.txt", "no such file or folder"),
        ("", "*.md", r"no file in this folder matches data\.files=\*\.md"),
        ("", "*.txt", "all 1 files that match"),
        ("empty.txt", "*.txt", "the file is empty"),
        ("", "/*.txt", "not a pattern"),
    ):
        with pytest.raises(ConfigError, match=message):
            list_text_files(str(tmp_path / path), pattern)


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with cache.byte_progress("tokens", 1000) as bar:
        bar.update(500)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cache, "LOG_SECONDS", 0.01)
    with cache.byte_progress("tokens", 1000) as bar:
        time.sleep(0.05)
        bar.update(500)
    assert "tokens: 50% of 1.00kB" in capsys.readouterr().err
