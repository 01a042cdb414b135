"""Which text a token id stands for, and which ids are special: what makes, reads and reports tokens in one object.

A run keeps its vocabulary as one JSON file, so that generation and bits per byte need neither the data nor a tokenizer
from elsewhere.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distmlp.data.cache import write_whole
from distmlp.errors import ConfigError

Kind = Literal["characters", "bytes", "library", "ids"]
KINDS = ("characters", "bytes", "library", "ids")
FORMAT = 1
# What published tokenizers call them, in the order of preference.
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "[SEP]")
MASKS = ("[MASK]", "<mask>")
PADS = ("[PAD]", "<pad>")


@dataclass(frozen=True)
class Vocabulary:
    """Ids ``0 … size-1``. A special id is None where nothing needs it.

    ``definition`` holds the characters in the order of their ids (``characters``), the JSON of a tokenizer of the
    library `tokenizers` (``library``), or nothing: ``bytes`` are their own ids, and ``ids`` have no text that is known.
    """

    kind: Kind
    size: int
    separator_id: int | None = None
    mask_id: int | None = None
    pad_id: int | None = None
    definition: str = ""

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for no text, ascending."""
        own = {one for one in (self.separator_id, self.mask_id, self.pad_id) if one is not None}
        return tuple(sorted(own | self._library_specials))

    @property
    def padding_id(self) -> int:
        """What fills the places that no loss counts."""
        return next((one for one in (self.pad_id, self.separator_id) if one is not None), 0)

    def with_specials(self, *, separator: bool = False, mask: bool = False, pad: bool = False) -> "Vocabulary":
        """The same with an id appended for each special token that is asked for and not there yet."""
        grown = self
        for name, needed in (("separator_id", separator), ("mask_id", mask), ("pad_id", pad)):
            if needed and getattr(grown, name) is None:
                changes: dict[str, Any] = {name: grown.size, "size": grown.size + 1}
                grown = replace(grown, **changes)
        return grown

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """Ids of the text, (n,).

        Raises:
            ConfigError: a character is not in the vocabulary; or, of ``ids``, a word is not one of them.
        """
        if self.kind == "library":
            return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        if self.kind == "ids":
            return self._parsed(text)
        if self.kind == "bytes":
            return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)
        codes = code_points(text)
        ids = self._id_of_code[np.minimum(codes, len(self._id_of_code) - 1)]
        if (ids < 0).any():
            unknown = "".join(chr(code) for code in np.unique(codes[ids < 0])[:10])
            raise ConfigError(f"characters that are not in the vocabulary: {unknown!r}; write without them")
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Ids of each text, as `encode` gives them; the library encodes several at a time, one a core."""
        if self.kind != "library":
            return [self.encode(text) for text in texts]
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.int64] | Tensor) -> str:
        """The text of the ids; special ones have none, and bytes that are no UTF-8 become U+FFFD."""
        plain: list[int] = np.asarray(ids, dtype=np.int64).tolist()
        if self.kind == "ids":
            return " ".join(str(one) for one in plain)
        specials = set(self.special_ids)
        plain = [one for one in plain if 0 <= one < self.size and one not in specials]
        if self.kind == "bytes":
            return bytes(plain).decode("utf-8", errors="replace")
        if self.kind == "characters":
            return "".join(self.definition[one] for one in plain)
        return str(self.tokenizer.decode(plain))

    @cached_property
    def token_bytes(self) -> Tensor | None:
        """UTF-8 bytes of each token's text, int64 (size,), 0 for special ones; None where the text is not known.

        Of the library's tokenizers only byte-level ones (Radford et al., 2019) say what text a token is: others change
        or drop characters on the way.
        """
        if self.kind == "bytes":
            lengths = [1] * 256
        elif self.kind == "characters":
            lengths = [len(character.encode("utf-8")) for character in self.definition]
        elif self.kind == "library" and _is_byte_level(json.loads(self.definition)):
            lengths = self._byte_level_lengths()
        else:
            return None
        lengths += [0] * (self.size - len(lengths))
        counts = torch.tensor(lengths, dtype=torch.int64)
        counts[list(self.special_ids)] = 0
        return counts

    @cached_property
    def tokenizer(self) -> Any:
        """The library's tokenizer; only of ``library``."""
        assert self.kind == "library"
        tokenizer = tokenizers_library().Tokenizer.from_str(self.definition)
        tokenizer.no_truncation()  # a published tokenizer.json may cut or fill to its network's length
        tokenizer.no_padding()
        return tokenizer

    def save(self, path: Path) -> None:
        """Writes one JSON file, whole or not at all."""
        values = asdict(self) | {"format": FORMAT}
        if self.kind == "library":
            values["definition"] = json.loads(self.definition)
        write_whole(path, json.dumps(values, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """The vocabulary that `save` wrote.

        Raises:
            ConfigError: there is no such file, or it is not one.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT or values["kind"] not in KINDS:
                raise ConfigError(f"{path}: a vocabulary of a format this version does not read; expected {FORMAT}")
            if values["kind"] == "library":
                values["definition"] = _canonical(values["definition"])
            return cls(**values)
        except OSError as error:
            raise ConfigError(f"{path}: the vocabulary cannot be read: {error.strerror or error}") from error
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a vocabulary file, or a damaged one; copy it again from the run") from error

    @cached_property
    def _id_of_code(self) -> npt.NDArray[np.int64]:
        """Id of each code point, -1 for those without; the last entry stands for all beyond the largest."""
        codes = code_points(self.definition)
        table = np.full(int(codes.max(initial=0)) + 2, -1, dtype=np.int64)
        table[codes] = np.arange(len(codes))
        return table

    @cached_property
    def _library_specials(self) -> frozenset[int]:
        if self.kind != "library":
            return frozenset()
        added = self.tokenizer.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    def _byte_level_lengths(self) -> list[int]:
        added = {number: token.content for number, token in self.tokenizer.get_added_tokens_decoder().items()}
        lengths = [0] * self.size
        for token, number in self.tokenizer.get_vocab(with_added_tokens=True).items():
            # A byte-level token is written with one character for each of its bytes; an added one is plain text.
            lengths[number] = len(added[number].encode("utf-8")) if number in added else len(token)
        return lengths

    def _parsed(self, text: str) -> npt.NDArray[np.int64]:
        for word in text.split():
            if not (word.isascii() and word.isdigit() and int(word) < self.size):
                raise ConfigError(f"{word!r} is not a token: give ids from 0 to {self.size - 1}, such as '12 55 3'")
        return np.array([int(word) for word in text.split()], dtype=np.int64)


def tokenizers_library() -> Any:
    """The module `tokenizers`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError('byte pairs need tokenizers, which is not installed: pip install "distmlp[text]"') from error
    return tokenizers


def library_vocabulary(tokenizer_json: str) -> Vocabulary:
    """The vocabulary of a tokenizer of the library `tokenizers`, with the special ids that it has.

    Raises:
        Exception: the library's own, where the text is none of its tokenizers.
    """
    ids = tokenizers_library().Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True)
    separator, mask, pad = (
        next((ids[name] for name in names if name in ids), None) for names in (SEPARATORS, MASKS, PADS)
    )
    size = max(ids.values(), default=-1) + 1
    return Vocabulary("library", size, separator, mask, pad, _canonical(json.loads(tokenizer_json)))


def code_points(text: str) -> npt.NDArray[np.int64]:
    """Unicode code points of the text, (n,)."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)


def _canonical(tokenizer: dict[str, Any]) -> str:
    """One spelling for each tokenizer: vocabularies are compared and hashed by it."""
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))


def _is_byte_level(tokenizer: dict[str, Any]) -> bool:
    decoder = tokenizer.get("decoder") or {}
    return any(part.get("type") == "ByteLevel" for part in (decoder, *decoder.get("decoders", ())))
