"""A network that cannot learn from the chosen data is refused in one line, before anything is read."""

import pytest

from distmlp.compose import compose
from distmlp.errors import ConfigError

TOKENS = "data=synthetic_tokens"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "model=gpt",
            r"^model=gpt takes tokens and data=digits gives none: use data=text data\.path=FILE, data=tokens",
        ),
        ("model=bert data=mnist", r"^model=bert takes tokens and data=mnist gives none"),
        (TOKENS, r"^model=mlp takes numbers and data=synthetic_tokens gives tokens: use model=gpt or model=bert or"),
        (f"model=cnn {TOKENS}", r"^model=cnn takes numbers and data=synthetic_tokens gives tokens"),
        (
            f"model=gpt {TOKENS} model.num_heads=3",
            r"^model\.num_heads=3 does not divide model\.width=128: every head has an equal share of the width$",
        ),
        (
            f"model=gpt {TOKENS} model.num_kv_heads=3",
            r"^model\.num_kv_heads=3 does not divide model\.num_heads=4: every key-value head serves",
        ),
        (
            f"model=gpt {TOKENS} model.width=12",
            r"^model\.width=12 / model\.num_heads=4 is 3: model\.positions=rotary turns pairs of values, so a head",
        ),
        (
            f"model=gpt2_124m {TOKENS} data.sequence_length=1025",
            r"^data\.sequence_length=1025 is longer than model\.max_positions=1024: shorten the sequences, or give",
        ),
        (f"model=gpt {TOKENS} data.task=masked_token", r"^model=gpt sees only what comes before a masked token: use"),
        (f"model=bert {TOKENS} data.task=next_token", r"^model=bert sees the token it would predict: use data\.task="),
        (
            f"model=rnn {TOKENS} model.bidirectional=true data.task=next_token",
            r"^model\.bidirectional=true sees the token it would predict: use data\.task=masked_token$",
        ),
        ("model=rnn data=tokens data.path=x", r"^data=tokens needs to know how many ids there are: give data\.vocab_"),
        ("model=cnn model.kernel_size=4", r"^model\.kernel_size=4 is even: use an odd size"),
    ],
)
def test_a_model_and_data_that_do_not_fit_are_one_line(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose(words.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "task"),
    [
        ("model=gpt", "next_token"),
        ("model=bert", "masked_token"),
        ("model=rnn", "next_token"),
        ("model=rnn model.bidirectional=true", "masked_token"),
        ("model=rnn data.task=masked_token", "masked_token"),
    ],
)
def test_the_task_on_tokens_is_what_the_model_is_made_for(words: str, task: str) -> None:
    assert compose([TOKENS, *words.split()]).config.token_task == task
