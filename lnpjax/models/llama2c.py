"""Reader of llama2.c's checkpoints and tokenizers (https://github.com/karpathy/llama2.c).

Trained Llamas in a few hundred kilobytes: real weights to measure on, and the proof that
`lnpjax.models.Llama` computes what a Llama computes.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import os
import struct
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lnpjax._base.checks import require
from lnpjax.models.llama import Llama, LlamaConfig

UNKNOWN_ID, BOS_ID, EOS_ID = 0, 1, 2
FIRST_BYTE_ID = 3
FIRST_TEXT_ID = FIRST_BYTE_ID + 256
_HEADER = struct.Struct("<7i")
_VERSIONED_MAGIC = 0x616B3432


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[LlamaConfig, Llama]:
    """Read a model from llama2.c's legacy `.bin` format.

    The file holds seven little-endian int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads,
    vocab_size, seq_len), then float32 tensors. A negative vocab_size says that the read-out is not
    tied to the embedding and is stored last.

    Args:
        path: the file.

    Returns:
        The configuration and the model, in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the header is invalid, or the file is shorter or longer than it says.

    Example:
        >>> read_checkpoint("missing.bin")
        Traceback (most recent call last):
            ...
        FileNotFoundError: path: expected a llama2.c checkpoint, got no file at missing.bin
    """
    data = _read_bytes(path, what="a llama2.c checkpoint")
    config = _parse_header(data, path)
    layout = _layout(config)
    expected_size = _HEADER.size + 4 * sum(math.prod(shape) for shape in layout.values())
    require(
        len(data) == expected_size,
        "path",
        expected=f"{expected_size} bytes, as the header says",
        got=f"{len(data)} bytes ({'truncated' if len(data) < expected_size else 'too long'}: "
        f"{os.fspath(path)})",
    )
    tensors = {}
    offset = _HEADER.size
    for name, shape in layout.items():
        size = math.prod(shape)
        tensors[name] = np.frombuffer(data, "<f4", size, offset).reshape(shape)
        offset += 4 * size
    return config, _build(config, tensors)


def _read_bytes(path: str | os.PathLike[str], *, what: str) -> bytes:
    file = Path(path)
    require(
        file.is_file(),
        "path",
        expected=what,
        got=f"no file at {os.fspath(path)}",
        error=FileNotFoundError,
    )
    return file.read_bytes()


def _parse_header(data: bytes, path: str | os.PathLike[str]) -> LlamaConfig:
    require(
        len(data) >= _HEADER.size,
        "path",
        expected=f"a llama2.c header of {_HEADER.size} bytes",
        got=f"{len(data)} bytes (truncated: {os.fspath(path)})",
    )
    header = _HEADER.unpack_from(data)
    require(
        header[0] != _VERSIONED_MAGIC,
        "path",
        expected="llama2.c's legacy format; export the model with version 0",
        got=f"its versioned format ({os.fspath(path)})",
    )
    hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, vocab_size, time = header
    try:
        return LlamaConfig(
            vocab_size=abs(vocab_size),
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            max_seq_len=time,
            rope_interleaved=True,
            tie_embeddings=vocab_size > 0,
        )
    except ValueError as error:
        raise ValueError(
            f"path: expected a llama2.c checkpoint, got an invalid header in "
            f"{os.fspath(path)}: {error}"
        ) from error


def _layout(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """List the tensors in file order; matrices are stored (out, in), one stack for all layers."""
    layers, hidden, inner = config.num_layers, config.hidden_size, config.intermediate_size
    kv_size = config.kv_heads * config.head_width
    layout: dict[str, tuple[int, ...]] = {
        "embedding": (config.vocab_size, hidden),
        "attention_norm": (layers, hidden),
        "query": (layers, hidden, hidden),
        "key": (layers, kv_size, hidden),
        "value": (layers, kv_size, hidden),
        "output": (layers, hidden, hidden),
        "feed_forward_norm": (layers, hidden),
        "gate": (layers, inner, hidden),
        "down": (layers, hidden, inner),
        "up": (layers, inner, hidden),
        "norm": (hidden,),
        # Cosines and sines of the rotary angles, which the model computes itself.
        "rotary_tables": (2, config.max_seq_len, config.head_width // 2),
    }
    if not config.tie_embeddings:
        layout["head"] = (config.vocab_size, hidden)
    return layout


def _build(config: LlamaConfig, tensors: dict[str, np.ndarray]) -> Llama:
    def kernel(matrix: np.ndarray) -> dict[str, jax.Array]:
        return {"kernel": jnp.asarray(matrix.T)}

    def gain(vector: np.ndarray) -> dict[str, jax.Array]:
        return {"scale": jnp.asarray(vector)}

    def block(i: int) -> dict[str, Any]:
        return {
            "attention_norm": gain(tensors["attention_norm"][i]),
            "attention": {
                name: kernel(tensors[name][i]) for name in ("query", "key", "value", "output")
            },
            "feed_forward_norm": gain(tensors["feed_forward_norm"][i]),
            "feed_forward": {name: kernel(tensors[name][i]) for name in ("gate", "up", "down")},
        }

    parameters: dict[str, Any] = {
        "embedding": {"embedding": jnp.asarray(tensors["embedding"])},
        "layers": {i: block(i) for i in range(config.num_layers)},
        "norm": gain(tensors["norm"]),
    }
    if not config.tie_embeddings:
        parameters["head"] = kernel(tensors["head"])
    structure, state = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, parameters)
    return nnx.merge(structure, state)


@dataclasses.dataclass(frozen=True)
class PieceTokenizer:
    """Byte-pair encoding with SentencePiece's conventions, as llama2.c stores it.

    Ids 0, 1 and 2 are unknown, begin and end; id `byte + 3` stands for a raw byte and spells out
    characters that are not in the vocabulary; the rest are pieces of text. A space is put before
    the text, so that its first word is encoded like the others.

    Attributes:
        pieces: the bytes of each token.
        scores: the score of each token: of two possible merges, that of the higher score is first.

    Raises:
        ValueError: if there are fewer than the 259 control and byte tokens, or the lengths differ.

    Example:
        >>> control_and_bytes = [b""] * 259
        >>> text = [b" ", b"a", b"b", b"ab"]
        >>> tokenizer = PieceTokenizer(tuple(control_and_bytes + text), (0.0,) * 263)
        >>> tokenizer.encode("abc")
        [1, 259, 262, 102]
        >>> tokenizer.decode([1, 259, 262, 102])
        'abc'
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        require(
            len(self.pieces) >= FIRST_TEXT_ID,
            "pieces",
            expected=f"at least the {FIRST_TEXT_ID} control and byte tokens",
            got=len(self.pieces),
        )
        require(
            len(self.scores) == len(self.pieces),
            "scores",
            expected=f"one per piece ({len(self.pieces)})",
            got=len(self.scores),
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], vocab_size: int) -> PieceTokenizer:
        """Read llama2.c's `tokenizer.bin` format.

        The file holds the length of the longest token as a little-endian int32, then per token a
        float32 score, an int32 length, and as many bytes.

        Args:
            path: the file.
            vocab_size: the number of tokens, which the file does not say.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file holds fewer or more than `vocab_size` tokens, or is corrupt.
        """
        require(
            vocab_size >= FIRST_TEXT_ID,
            "vocab_size",
            expected=f"at least the {FIRST_TEXT_ID} control and byte tokens",
            got=vocab_size,
        )
        data = _read_bytes(path, what="a llama2.c tokenizer")
        offset = 4
        pieces, scores = [], []
        for index in range(vocab_size):
            intact = offset + 8 <= len(data)
            score, length = struct.unpack_from("<fi", data, offset) if intact else (0.0, 0)
            offset += 8
            require(
                intact and 0 <= length <= len(data) - offset,
                "path",
                expected=f"{vocab_size} tokens in {os.fspath(path)}",
                got=f"a file that is truncated or corrupt at token {index}",
            )
            pieces.append(data[offset : offset + length])
            scores.append(score)
            offset += length
        require(
            offset == len(data),
            "vocab_size",
            expected=f"the number of tokens in {os.fspath(path)}",
            got=f"{vocab_size}, after which {len(data) - offset} bytes are left",
        )
        return cls(tuple(pieces), tuple(scores))

    @cached_property
    def _text_ids(self) -> dict[bytes, int]:
        """Ids by text, without the control and byte tokens: text that spells them is only text."""
        return {piece: id_ for id_, piece in enumerate(self.pieces) if id_ >= FIRST_TEXT_ID}

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Turn text into token ids.

        Args:
            text: any text; a space is put before it unless it is empty.
            bos: begin with the begin token.

        Returns:
            The ids.
        """
        characters = " " + text if text else ""
        start = [BOS_ID] if bos else []
        return start + self._merge(self._spell(characters))

    def decode(self, ids: Iterable[int]) -> str:
        """Turn token ids into text: the inverse of `encode`.

        Args:
            ids: token ids. Control tokens add no text.

        Returns:
            The text without the space that `encode` puts before it; bytes that are not valid UTF-8
            become replacement characters.

        Raises:
            ValueError: if an id is not in the vocabulary.
        """
        text = b"".join(self._token_bytes(int(id_)) for id_ in ids).decode(errors="replace")
        return text.removeprefix(" ")

    def _token_bytes(self, id_: int) -> bytes:
        require(
            0 <= id_ < len(self.pieces),
            "ids",
            expected=f"ids from 0 to {len(self.pieces) - 1}",
            got=id_,
        )
        if id_ >= FIRST_TEXT_ID:
            return self.pieces[id_]
        return bytes([id_ - FIRST_BYTE_ID]) if id_ >= FIRST_BYTE_ID else b""

    def _spell(self, text: str) -> Iterator[int]:
        for character in text:
            encoded = character.encode()
            id_ = self._text_ids.get(encoded)
            if id_ is None:
                yield from (byte + FIRST_BYTE_ID for byte in encoded)
            else:
                yield id_

    def _merge(self, spelled: Iterable[int]) -> list[int]:
        """Merge the adjacent pair with the best score, leftmost first, until no two can.

        A heap of candidates over a linked list, O(n log n): entries made stale by an earlier merge
        are recognised by the ids they were pushed with.
        """
        ids, absorbed = list(spelled), -1
        following = list(range(1, len(ids) + 1))
        previous = list(range(-1, len(ids) - 1))
        candidates: list[tuple[float, int, int, int, int]] = []

        def propose(left: int, right: int) -> None:
            if left < 0 or right >= len(ids) or min(ids[left], ids[right]) < FIRST_TEXT_ID:
                return
            merged = self._text_ids.get(self.pieces[ids[left]] + self.pieces[ids[right]])
            if merged is not None:
                entry = (-self.scores[merged], left, ids[left], ids[right], merged)
                heapq.heappush(candidates, entry)

        for left in range(len(ids) - 1):
            propose(left, left + 1)
        while candidates:
            _, left, left_id, right_id, merged = heapq.heappop(candidates)
            right = following[left]
            if ids[left] != left_id or right >= len(ids) or ids[right] != right_id:
                continue
            ids[left], ids[right] = merged, absorbed
            following[left] = following[right]
            if following[right] < len(ids):
                previous[following[right]] = left
            propose(previous[left], left)
            propose(left, following[left])
        return [id_ for id_ in ids if id_ != absorbed]
