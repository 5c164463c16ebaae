"""llama2.c's files: round trips through a small writer, bad files, and the published model."""

import itertools
import os
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lnpjax.models import Llama, LlamaConfig, generate_greedy
from lnpjax.models.llama2c import PieceTokenizer, read_checkpoint

needs_data = pytest.mark.skipif(
    not os.environ.get("LNPJAX_DATA"), reason="needs the real data folder named by LNPJAX_DATA"
)


def tiny_model(*, tied):
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        max_seq_len=6,
        rope_interleaved=True,
        tie_embeddings=tied,
    )
    return nnx.jit(lambda: Llama(config, rngs=nnx.Rngs(3)))()


def checkpoint_bytes(model):
    """What llama2.c's legacy export writes for a model."""
    c = model.config
    vocab_size = c.vocab_size if c.tie_embeddings else -c.vocab_size
    sizes = (c.hidden_size, c.intermediate_size, c.num_layers, c.num_heads, c.kv_heads)
    tensors = [model.embedding.embedding]
    tensors += [layer.attention_norm.scale for layer in model.layers]
    for name in ("query", "key", "value", "output"):
        tensors += [getattr(layer.attention, name).kernel[...].T for layer in model.layers]
    tensors += [layer.feed_forward_norm.scale for layer in model.layers]
    for name in ("gate", "down", "up"):
        tensors += [getattr(layer.feed_forward, name).kernel[...].T for layer in model.layers]
    tensors += [model.norm.scale, np.full((2, c.max_seq_len, c.head_width // 2), np.nan)]
    if not c.tie_embeddings:
        tensors.append(model.head.kernel[...].T)
    header = struct.pack("<7i", *sizes, vocab_size, c.max_seq_len)
    return header + b"".join(np.asarray(t, "<f4").tobytes() for t in tensors)


@pytest.mark.parametrize("tied", [True, False])
def test_written_model_is_read_back(tmp_path, tied):
    model = tiny_model(tied=tied)
    (tmp_path / "model.bin").write_bytes(checkpoint_bytes(model))
    config, loaded = read_checkpoint(tmp_path / "model.bin")
    assert config == loaded.config == model.config
    jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded), nnx.state(model))
    tokens = jnp.array([[1, 5, 10, 0]])
    np.testing.assert_array_equal(loaded(tokens), model(tokens))


def with_header(data, index, value):
    header = list(struct.unpack_from("<7i", data))
    header[index] = value
    return struct.pack("<7i", *header) + data[28:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-4], r"as the header says, got .*\(truncated"),
        (lambda data: data + b"\0", r"as the header says, got .*\(too long"),
        (lambda data: data[:20], r"header of 28 bytes, got 20 bytes \(truncated"),
        (lambda data: b"", "header of 28 bytes, got 0 bytes"),
        (lambda data: with_header(data, 2, -1), "invalid header.*num_layers"),
        (lambda data: with_header(data, 5, 0), "invalid header.*vocab_size"),
        (lambda data: with_header(data, 4, 3), "invalid header.*num_kv_heads"),
        (lambda data: with_header(data, 1, 2**31 - 1), r"as the header says, got .*\(truncated"),
        (lambda data: with_header(data, 0, 0x616B3432), "legacy format.*versioned"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, damage, message):
    path = tmp_path / "model.bin"
    path.write_bytes(damage(checkpoint_bytes(tiny_model(tied=True))))
    with pytest.raises(ValueError, match=f"^path: expected .*{message}"):
        read_checkpoint(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a llama2.c checkpoint, got no file at .*nowhere"):
        read_checkpoint(tmp_path / "nowhere.bin")
    with pytest.raises(FileNotFoundError, match=r"a llama2.c tokenizer, got no file at .*nowhere"):
        PieceTokenizer.from_file(tmp_path / "nowhere.bin", 512)


WORDS = {" ": -9, "a": -9, "b": -9, "c": -9, "ab": -2, "bc": -1, "abc": -3, " a": -4, "é": -9}


def small_tokenizer():
    bytes_and_control = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256))]
    pieces = bytes_and_control + [word.encode() for word in WORDS]
    return PieceTokenizer(tuple(pieces), (0.0,) * 259 + tuple(map(float, WORDS.values())))


def tokenizer_bytes(tokenizer):
    rows = zip(tokenizer.scores, tokenizer.pieces, strict=True)
    longest = max(map(len, tokenizer.pieces))
    return struct.pack("<i", longest) + b"".join(
        struct.pack("<fi", score, len(piece)) + piece for score, piece in rows
    )


def test_written_tokenizer_is_read_back(tmp_path):
    tokenizer = small_tokenizer()
    (tmp_path / "tok.bin").write_bytes(tokenizer_bytes(tokenizer))
    assert PieceTokenizer.from_file(tmp_path / "tok.bin", len(tokenizer.pieces)) == tokenizer


@pytest.mark.parametrize(
    ("damage", "vocab_size", "message"),
    [
        (lambda data: data[:-1], 268, "path: expected 268 tokens .* corrupt at token 267"),
        (lambda data: data, 269, "path: expected 269 tokens .* corrupt at token 268"),
        (lambda data: b"", 268, "path: expected 268 tokens .* corrupt at token 0"),
        (lambda data: data, 267, "vocab_size: .*got 267, after which 10 bytes are left"),
        (lambda data: data, 10, "vocab_size: expected at least the 259"),
        (lambda data: data[:8] + b"\xff" * 4 + data[12:], 268, "corrupt at token 0"),
    ],
)
def test_damaged_tokenizers_are_refused(tmp_path, damage, vocab_size, message):
    path = tmp_path / "tok.bin"
    path.write_bytes(damage(tokenizer_bytes(small_tokenizer())))
    with pytest.raises(ValueError, match=message):
        PieceTokenizer.from_file(path, vocab_size)


def pieces_of(tokenizer, text):
    return [tokenizer.pieces[i].decode() for i in tokenizer.encode(text, bos=False)]


def test_the_best_score_merges_first():
    tokenizer = small_tokenizer()
    # "bc" (-1) goes before "ab" (-2); then " a" (-4) waits for "a" + "bc" = "abc" (-3).
    assert pieces_of(tokenizer, "abc") == [" ", "abc"]
    assert pieces_of(tokenizer, "a") == [" a"]
    assert pieces_of(tokenizer, "cab") == [" ", "c", "ab"]


def test_unknown_characters_become_bytes():
    tokenizer = small_tokenizer()
    assert tokenizer.encode("é") == [1, 259, 267]
    assert tokenizer.encode("€") == [1, 259, 0xE2 + 3, 0x82 + 3, 0xAC + 3]
    assert tokenizer.encode("<s>", bos=False) == [259, *(byte + 3 for byte in b"<s>")]
    assert tokenizer.encode("") == [1]


@pytest.mark.parametrize("text", ["", " ", "abc", "  a  b", "naïve €", "<0x41>", "\n<s>\n"])
def test_decode_inverts_encode(text):
    tokenizer = small_tokenizer()
    assert tokenizer.decode(np.array(tokenizer.encode(text))) == text


def test_decode_refuses_ids_outside_the_vocabulary():
    with pytest.raises(ValueError, match="ids: expected ids from 0 to 267, got 268"):
        small_tokenizer().decode([1, 268])


def merged_by_rescanning(tokenizer, ids):
    """The definition: rescan all pairs for the best score after every merge."""
    lookup = {piece: i for i, piece in enumerate(tokenizer.pieces)}
    while True:
        joined = [
            lookup.get(tokenizer.pieces[a] + tokenizer.pieces[b]) if min(a, b) >= 259 else None
            for a, b in itertools.pairwise(ids)
        ]
        places = [i for i, id_ in enumerate(joined) if id_ is not None]
        if not places:
            return ids
        best = max(places, key=lambda i: (tokenizer.scores[joined[i]], -i))
        ids = [*ids[:best], joined[best], *ids[best + 2 :]]


def test_merging_agrees_with_its_definition_on_random_text():
    tokenizer = small_tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = "".join(rng.choice(list(" abcx"), size=40))
        singles = {" ": 259, "a": 260, "b": 261, "c": 262, "x": ord("x") + 3}
        spelled = [259, *(singles[character] for character in text)]
        assert tokenizer.encode(text, bos=False) == merged_by_rescanning(tokenizer, spelled)


def test_tokenizer_needs_a_score_for_every_piece():
    with pytest.raises(ValueError, match=r"scores: expected one per piece \(259\), got 3"):
        PieceTokenizer((b"",) * 259, (0.0,) * 3)
    with pytest.raises(ValueError, match="pieces: expected at least the 259"):
        PieceTokenizer((b"",), (0.0,))


@pytest.fixture(scope="module")
def stories260k():
    folder = Path(os.environ["LNPJAX_DATA"]) / "stories260K"
    config, model = read_checkpoint(folder / "stories260K.bin")
    return model, PieceTokenizer.from_file(folder / "tok512.bin", config.vocab_size)


@needs_data
def test_published_cross_entropy_is_reproduced(stories260k):
    model, tokenizer = stories260k
    path = Path(os.environ["LNPJAX_DATA"]) / "tinystories" / "tinystories_train_first_2MiB.txt"
    stories = path.read_text(encoding="utf-8").split("<|endoftext|>")[:100]
    encoded = [tokenizer.encode(story.strip())[:512] for story in stories]
    assert [tokenizer.decode(tokenizer.encode(s.strip())) for s in stories] == [
        s.strip() for s in stories
    ]

    @jax.jit
    def total_loss(tokens, predicted):
        log_p = jax.nn.log_softmax(model(tokens[:, :-1]))
        losses = -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(predicted, losses, 0.0))

    lengths = np.array([len(ids) for ids in encoded])
    tokens = np.array([ids + [0] * (512 - len(ids)) for ids in encoded])
    predicted = np.arange(1, 512) < lengths[:, None]
    total = total_loss(tokens[:10], predicted[:10])  # all hundred take ten times as long

    assert predicted.sum() == 37_072
    assert total / predicted[:10].sum() == pytest.approx(1.296595, abs=1e-4)


@needs_data
def test_published_greedy_text_is_reproduced(stories260k):
    model, tokenizer = stories260k
    tokens = generate_greedy(model, jnp.array([[1]]), 40)
    assert tokenizer.decode(tokens[0]).startswith(
        "Once upon a time, there was a little girl named Lily. "
        "She loved to play outside in the park."
    )
