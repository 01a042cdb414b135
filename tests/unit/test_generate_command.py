"""`distmlp generate` writes to standard output what a run's network continues, and says in one line what is wrong."""

import io
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from distmlp.apps import generate as app
from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.whole import write_whole
from distmlp.compose import compose
from distmlp.data.vocabulary import Vocabulary
from distmlp.errors import ConfigError
from distmlp.model.gpt import GPT

POSITIONS = 12
SMALL = (
    *("model=gpt", "model.num_layers=1", "model.num_heads=2", "model.width=16"),
    *("data=text", "data.path=gone.txt", f"data.sequence_length={POSITIONS}"),
)


def new_run(folder: Path, vocabulary: Vocabulary, *words: str) -> Path:
    """A run folder as training leaves it, with a network of the words `SMALL`."""
    folder.mkdir()
    shared = ("trainer.accelerator=cpu", "run.name=a", "tracking=none")
    (folder / "config.yaml").write_text(compose([*words, *shared]).as_yaml())
    vocabulary.save(folder / "vocabulary.json")
    torch.manual_seed(5)
    network = GPT(input_shape=(POSITIONS,), num_outputs=vocabulary.size, num_layers=1, num_heads=2, width=16)
    write_whole(LocalStorage(folder / "checkpoints"), 7, {"weights": dict(network.state_dict())}, {"step": 7})
    return folder


def printed(*words: str) -> str:
    text = io.StringIO()
    with redirect_stdout(text):
        assert app.run(list(words)) == 0
    return text.getvalue()


CHARACTERS = Vocabulary("characters", 5, definition="abcd ").with_specials(mask=True, pad=True)
DOCUMENTS = CHARACTERS.with_specials(separator=True)


@pytest.fixture
def trained(tmp_path: Path) -> str:
    return str(new_run(tmp_path / "run=1", CHARACTERS, *SMALL))


def test_the_prompt_is_continued_on_standard_output(trained: str) -> None:
    text = printed(trained, "prompt=abba ", "num_tokens=40", "trainer.accelerator=cpu")
    assert text.startswith("abba ")
    assert text.endswith("\n")
    assert len(text) == 5 + 40 + 1
    assert set(text[:-1]) <= set("abcd ")  # and no mask or padding, which have no text
    checkpoint = f"{trained}/checkpoints/step-00000007"
    assert printed(checkpoint, "prompt=abba ", "num_tokens=40") == text
    assert printed(trained, "prompt=abba ", "num_tokens=40", "seed=1") != text


def test_several_samples_are_told_apart(trained: str) -> None:
    text = printed(trained, "prompt=ab", "num_tokens=30", "num_samples=3")
    first, second, third = text.replace("--- sample 2 ---", "|").replace("--- sample 3 ---", "|").split("\n|\n")
    assert len({first, second, third.rstrip("\n")}) == 3
    assert all(one.startswith("ab") and len(one.rstrip("\n")) == 32 for one in (first, second, third))
    assert printed(trained, "prompt=ab", "num_tokens=30") == first + "\n"


def test_ctrl_c_ends_the_text_and_its_line(trained: str) -> None:
    words = [sys.executable, "-m", "distmlp", "generate", trained, "prompt=ab", "num_tokens=1000000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        begun = process.stdout.read(20)  # it is writing by now
        process.send_signal(signal.SIGINT)
        rest, error = process.stdout.read(), process.stderr.read()
    assert begun.startswith("ab")
    assert rest.endswith("\n")
    assert (process.returncode, error) == (1, "")


def test_a_document_starts_and_ends_with_its_separator(tmp_path: Path) -> None:
    folder = str(new_run(tmp_path / "run", DOCUMENTS, *SMALL))
    texts = {printed(folder, "prompt=", "num_tokens=300", f"seed={seed}") for seed in range(8)}
    assert len(texts) > 1
    assert all(len(text) < 301 for text in texts)
    assert all(set(text[:-1]) <= set("abcd ") for text in texts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], 'prompt is not set: give prompt="…"'),
        (["prompt="], "prompt is empty, and the run's data have no document separator"),
        (["prompt=axe"], "'ex'"),
        (["prompt=a", "temperature=-1"], "temperature=-1: input should be greater than or equal to 0"),
        (["prompt=a", "temperature=nan"], "temperature=nan: input should be a finite number"),
        (["prompt=a", "top_k=0"], "top_k=0: input should be greater than 0"),
        (["prompt=a", "top_p=0"], "top_p=0: input should be greater than 0"),
        (["prompt=a", "top_p=1.1"], "top_p=1.1: input should be less than or equal to 1"),
        (["prompt=a", "num_tokens=0"], "num_tokens=0: input should be greater than 0"),
        (["prompt=a", "num_tokens=many"], "num_tokens=many: input should be a valid integer"),
        (["prompt=a", "temprature=1"], "unknown key temprature: did you mean temperature?"),
        (["prompt=a", "--top-k=3"], "unknown key --top-k: did you mean top_k?"),
        (["prompt=a", "trainer.acelerator=cpu"], "unknown key trainer.acelerator: did you mean trainer.accelerator?"),
        (["prompt=a", "other"], "give one run folder or checkpoint"),
        (["prompt=a", "model.width=32"], "has shape"),
    ],
)
def test_a_mistake_is_one_line(trained: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        app.run([trained, *words])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=mlp", "data=digits"), "needs a run of model=gpt or model=rnn on text; this one is model=mlp"),
        (("model=bert", "data=text", "data.path=gone.txt"), "this one is model=bert"),
        (("model=rnn", "data=digits"), "this one is model=rnn on data=digits"),
        (
            ("model=rnn", "model.bidirectional=true", "data=text", "data.path=gone.txt"),
            "with data.task=next_token; this one has learnt data.task=masked_token",
        ),
    ],
)
def test_a_network_that_cannot_write_is_named(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    folder = new_run(tmp_path / "run", CHARACTERS, *words)
    with pytest.raises(ConfigError, match=r"distmlp generate needs a run of model=gpt or model=rnn on text") as caught:
        app.run([str(folder), "prompt=a"])
    assert message in str(caught.value)


def test_a_place_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a run folder nor a checkpoint"):
        app.run([str(tmp_path / "none"), "prompt=a"])


def test_help_names_every_key_with_its_default() -> None:
    text = printed("--help")
    assert text.startswith("usage: distmlp generate RUN|CHECKPOINT")
    for line in (
        "num_tokens",
        "(default 200)",
        "top_k",
        "top_p",
        "(default 1.0)",
        "num_samples",
        "trainer.accelerator=cpu",
    ):
        assert line in text
