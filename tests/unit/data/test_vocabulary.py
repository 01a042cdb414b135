"""A vocabulary maps text to ids and back, names its special ids, and comes back from its file as it was."""

from pathlib import Path

import pytest
import torch

from distmlp.data.tokenizer import load_tokenizer, make_vocabulary
from distmlp.data.vocabulary import Vocabulary
from distmlp.errors import ConfigError

TEXT = "a naïve “bee”, and 蜂\n"


def characters() -> Vocabulary:
    definition = "".join(sorted(set(TEXT)))
    return Vocabulary("characters", len(definition), definition=definition)


def byte_pairs(folder: Path, vocab_size: int = 300) -> Vocabulary:
    path = folder / "text.txt"
    path.write_text(TEXT * 20, encoding="utf-8")
    return make_vocabulary([path], "bpe", vocab_size)


def published(folder: Path, names: list[str], vocabulary: Vocabulary) -> Path:
    """A tokenizer.json of the vocabulary's tokenizer with special tokens, and settings that cut and fill."""
    tokenizer = vocabulary.tokenizer
    tokenizer.add_special_tokens(names)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=3)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_text_comes_back_from_the_ids_of_every_kind(tmp_path: Path) -> None:
    for vocabulary in (characters(), Vocabulary("bytes", 256), byte_pairs(tmp_path)):
        ids = vocabulary.encode(TEXT)
        assert vocabulary.decode(ids) == TEXT
        assert 0 <= ids.min() <= ids.max() < vocabulary.size


def test_the_bytes_of_the_tokens_of_a_text_add_up_to_its_own(tmp_path: Path) -> None:
    for vocabulary in (characters(), Vocabulary("bytes", 256), byte_pairs(tmp_path)):
        vocabulary = vocabulary.with_specials(separator=True, mask=True, pad=True)
        counts = vocabulary.token_bytes
        assert counts is not None
        assert counts.dtype == torch.int64
        assert counts.shape == (vocabulary.size,)
        assert int(counts[torch.from_numpy(vocabulary.encode(TEXT))].sum()) == len(TEXT.encode())
        assert counts[list(vocabulary.special_ids)].tolist() == [0, 0, 0]


def test_special_ids_are_appended_only_where_they_are_needed_and_missing() -> None:
    plain = Vocabulary("bytes", 256)
    assert plain.with_specials() == plain
    one = plain.with_specials(mask=True)
    assert (one.size, one.separator_id, one.mask_id, one.pad_id) == (257, None, 256, None)
    two = one.with_specials(separator=True, mask=True)
    assert (two.size, two.separator_id, two.mask_id) == (258, 257, 256)


def test_a_published_tokenizer_keeps_its_own_special_ids_and_never_cuts(tmp_path: Path) -> None:
    base = byte_pairs(tmp_path)
    path = published(tmp_path, ["[PAD]", "<|endoftext|>", "[MASK]"], base)
    loaded = load_tokenizer(str(path))
    assert (loaded.pad_id, loaded.separator_id, loaded.mask_id) == (base.size, base.size + 1, base.size + 2)
    assert loaded.with_specials(separator=True, mask=True, pad=True).size == base.size + 3
    assert len(loaded.encode(TEXT)) > 3
    assert loaded.decode(loaded.encode("bee<|endoftext|>bee")) == "beebee"
    assert loaded.token_bytes is not None
    assert loaded.token_bytes[base.size :].tolist() == [0, 0, 0]


def test_special_ids_and_torn_characters_do_not_stop_decoding(tmp_path: Path) -> None:
    for vocabulary in (Vocabulary("bytes", 256), byte_pairs(tmp_path)):
        vocabulary = vocabulary.with_specials(separator=True, pad=True)
        torn = vocabulary.encode("蜂")[:-1].tolist()
        text = vocabulary.decode([*torn, vocabulary.separator_id or 0, *vocabulary.encode("bee").tolist()])
        assert text.endswith("bee")
        assert "\ufffd" in text


def test_a_file_gives_back_the_same_vocabulary(tmp_path: Path) -> None:
    for vocabulary in (characters(), Vocabulary("bytes", 256), byte_pairs(tmp_path), Vocabulary("ids", 7, 3)):
        vocabulary = vocabulary.with_specials(mask=True)
        vocabulary.save(tmp_path / "vocabulary.json")
        loaded = Vocabulary.load(tmp_path / "vocabulary.json")
        assert loaded == vocabulary
        assert loaded.kind == "ids" or loaded.decode(loaded.encode(TEXT)) == TEXT


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 1, "kind": "bytes", "siz": 3}', '{"format": 99}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"vocabulary\.json: "):
        Vocabulary.load(path)


def test_unknown_characters_are_named() -> None:
    with pytest.raises(ConfigError, match="'xz'"):
        characters().encode("bee z x\n")


def test_ids_without_a_text_are_numbers() -> None:
    vocabulary = Vocabulary("ids", 60, separator_id=3)
    assert vocabulary.encode(" 12 55\n3 ").tolist() == [12, 55, 3]
    assert vocabulary.decode(torch.tensor([12, 55, 3])) == "12 55 3"
    assert vocabulary.token_bytes is None
    for wrong in ("60", "-1", "bee", "1.5"):
        with pytest.raises(ConfigError, match="from 0 to 59"):
            vocabulary.encode(f"1 {wrong}")


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(str(path))
