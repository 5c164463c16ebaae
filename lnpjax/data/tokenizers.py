"""Text to token ids and back: bytes, or any Hugging Face `tokenizers` JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import import_extra, require

MOST_TOKENS = 10_000_000
"""A vocabulary has a row of the embedding for each id up to the largest one."""
END_OF_TEXT_TOKENS = ("[EOS]", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Tokens taken to end a text when a tokenizer file is read and none is named, in this order."""


class Tokenizer(Protocol):
    """What the data pipeline needs of a tokenizer.

    Attributes:
        vocab_size: ids are in `[0, vocab_size)`.
        end_of_text: the id placed after every document, or None to join documents without a mark.

    Example:
        >>> tokenizer: Tokenizer = ByteTokenizer()
        >>> [ids.tolist() for ids in tokenizer.encode_batch(["hi", "you"])]
        [[104, 105], [121, 111, 117]]
    """

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a document."""

    def encode(self, text: str) -> Int[np.ndarray, " length"]:
        """Return the ids of a text, as int32, without `end_of_text`."""

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " length"]) -> str:
        """Return the text of some ids."""

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " length"]]:
        """Return the ids of several texts: what `encode` returns for each."""


@dataclass(frozen=True)
class ByteTokenizer:
    """One token per UTF-8 byte.

    Byte 0 ends a document: it does not occur in text, so the vocabulary stays at 256.

    Example:
        >>> tokenizer = ByteTokenizer()
        >>> tokenizer.encode("né")
        array([110, 195, 169], dtype=int32)
        >>> tokenizer.decode([110, 195, 169])
        'né'
    """

    @property
    def vocab_size(self) -> int:
        """256."""
        return 256

    @property
    def end_of_text(self) -> int:
        """0."""
        return 0

    def encode(self, text: str) -> Int[np.ndarray, " length"]:
        """Return the UTF-8 bytes of a text."""
        return np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " length"]]:
        """Return the UTF-8 bytes of several texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " length"]) -> str:
        """Return the text of some bytes; what is not valid UTF-8 becomes U+FFFD.

        Raises:
            ValueError: if an id is not in [0, 256).
        """
        values = np.asarray(ids, np.int64)
        require(
            bool(np.all((values >= 0) & (values < 256))),
            "ids",
            expected="bytes, in [0, 256)",
            got=f"{values.min(initial=0)} to {values.max(initial=0)}",
        )
        return values.astype(np.uint8).tobytes().decode(errors="replace")


@dataclass(frozen=True)
class JsonTokenizer:
    """A tokenizer read from a Hugging Face `tokenizers` JSON file.

    Padding, truncation and the special tokens that the file would add around a text are switched
    off: the data pipeline marks where a document ends.

    Attributes:
        backend: the `tokenizers.Tokenizer`.
        vocab_size: one more than the largest id, added tokens included.
        end_of_text: the id of the token that ends a text, or None.
        name: the file it was read from, for messages.

    Example:
        >>> import tempfile
        >>> import tokenizers
        >>> words = {"once": 0, "upon": 1, "[EOS]": 2}
        >>> backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[EOS]"))
        >>> backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        >>> file = Path(tempfile.mkdtemp()) / "tokenizer.json"
        >>> backend.save(str(file))
        >>> tokenizer = JsonTokenizer.from_file(file)
        >>> tokenizer.encode("once upon"), tokenizer.end_of_text
        (array([0, 1], dtype=int32), 2)
    """

    backend: Any
    vocab_size: int
    end_of_text: int | None
    name: str = "the tokenizer"

    @classmethod
    def from_file(cls, path: str | Path, *, end_of_text: str | None = None) -> JsonTokenizer:
        """Read a tokenizer file.

        Args:
            path: the JSON file, as written by `tokenizers.Tokenizer.save` (`tokenizer.json` in a
                model repository).
            end_of_text: the token that ends a text; None takes the first of `END_OF_TEXT_TOKENS`
                in the vocabulary.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a tokenizer, or `end_of_text` is not in its vocabulary.
            ImportError: if the package `tokenizers` is not installed (the extra "run").

        Example:
            >>> JsonTokenizer.from_file("no-such-file.json")
            Traceback (most recent call last):
                ...
            FileNotFoundError: tokenizer: expected a Hugging Face `tokenizers` JSON file ...
        """
        path = Path(path)
        expected = (
            "a Hugging Face `tokenizers` JSON file (the tokenizer.json of a model repository, "
            "or what tokenizers.Tokenizer.save writes)"
        )
        require(path.is_file(), "tokenizer", expected=expected, got=path, error=FileNotFoundError)
        tokenizers = import_extra("tokenizers", extra="run", purpose="reading a tokenizer file")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        # The package raises bare `Exception`s.
        except Exception as error:
            raise ValueError(f"tokenizer: expected {expected}, got {path} ({error})") from error
        backend.no_padding()
        backend.no_truncation()
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        require(
            bool(vocabulary), "tokenizer", expected="a vocabulary", got=f"{path}, which has none"
        )
        require(
            end_of_text is None or end_of_text in vocabulary,
            "end_of_text",
            expected=f"a token of {path}",
            got=repr(end_of_text),
        )
        largest = max(vocabulary.values())
        require(
            largest < MOST_TOKENS,
            "tokenizer",
            expected=f"ids below {MOST_TOKENS}",
            got=f"{path}, which has the id {largest} among {len(vocabulary)} tokens",
        )
        candidates = END_OF_TEXT_TOKENS if end_of_text is None else (end_of_text,)
        return cls(
            backend=backend,
            vocab_size=largest + 1,
            end_of_text=next((vocabulary[t] for t in candidates if t in vocabulary), None),
            name=str(path),
        )

    def encode(self, text: str) -> Int[np.ndarray, " length"]:
        """Return the ids of a text.

        Raises:
            ValueError: if a word is not in the vocabulary and the tokenizer has no token for
                unknown ones; the message names both.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " length"]]:
        """Return the ids of several texts, encoded in parallel.

        Raises:
            ValueError: if a word is not in the vocabulary and the tokenizer has no token for
                unknown ones; the message names both.
        """
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the package raises bare `Exception`s
            raise ValueError(
                f"tokenizer: expected one that can encode every word, got {self.name}, which has "
                f"no token for unknown words such as {self._unknown_word(texts)!r} ({error})"
            ) from error
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def _unknown_word(self, texts: Sequence[str]) -> str:
        """Return the first word that has no ids, or the text around it."""
        for text in texts:
            words = [text]
            if (normalizer := self.backend.normalizer) is not None:
                words = [normalizer.normalize_str(text)]
            if (splitter := self.backend.pre_tokenizer) is not None:
                words = [word for word, _ in splitter.pre_tokenize_str(words[0])]
            for word in words:
                try:
                    self.backend.model.tokenize(word)
                except Exception:  # the package raises bare `Exception`s
                    return word
        return texts[0]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " length"]) -> str:
        """Return the text of some ids, special tokens included."""
        return self.backend.decode(np.asarray(ids).tolist(), skip_special_tokens=False)
