"""The tokeniser's rules. (Parity with the original has a file of its own.)"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from clipfleet.errors import UsageError
from clipfleet.workers.text import vocabulary as vocabulary_module
from clipfleet.workers.text.tokenizer import Tokenizer
from clipfleet.workers.text.vocabulary import VOCABULARY_SHA256

CLS, SEP, UNK, PAD = 101, 102, 100, 0


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def words(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids between [CLS] and [SEP]."""
    ids = tokenizer.encode([text], 512)[0].tolist()
    return list(ids[1 : ids.index(SEP)])


def test_the_vocabulary_is_the_published_one(tokenizer: Tokenizer) -> None:
    data = (resources.files("clipfleet.workers.text") / "vocab.txt").read_bytes()
    assert hashlib.sha256(data).hexdigest() == VOCABULARY_SHA256
    assert VOCABULARY_SHA256 in (resources.files("clipfleet.workers.text") / "README.md").read_text(
        "utf-8"
    )
    assert len(tokenizer) == 21128


def test_known_texts_have_known_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["杰尼龟", "皮卡丘", ""], 8)
    assert ids.dtype == np.int64
    assert ids.tolist() == [
        [CLS, 3345, 2225, 7991, SEP, PAD, PAD, PAD],
        [CLS, 4649, 1305, 687, SEP, PAD, PAD, PAD],
        [CLS, SEP, PAD, PAD, PAD, PAD, PAD, PAD],
    ]


def test_a_long_text_is_cut_and_keeps_its_end_mark(tokenizer: Tokenizer) -> None:
    row = tokenizer.encode(["一" * 500], 52)[0]
    assert row[0] == CLS
    assert row[-1] == SEP
    assert (row[1:-1] == row[1]).all()


@pytest.mark.parametrize("length", [1, 0, -3])
def test_a_context_without_room_for_the_marks_is_refused(tokenizer: Tokenizer, length: int) -> None:
    with pytest.raises(ValueError, match=f"context length is {length}"):
        tokenizer.encode(["a"], length)


def test_no_texts_give_no_rows(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([], 52).shape == (0, 52)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("HÉLLO", "hello"),
        ("你\0好\ufffd\u200b", "你好"),
        ("a\tb\u3000c\r\n", "a b c"),
        ("猫dog狗", "猫 dog 狗"),
        ("it's", "it ' s"),
        ("ΟΔΟΣ", "οδος"),  # the last sigma of a word has a form of its own
    ],
)
def test_spellings_that_are_the_same_text(tokenizer: Tokenizer, text: str, same: str) -> None:
    assert words(tokenizer, text) == words(tokenizer, same) != []


def test_a_word_of_200_characters_is_cut_into_pieces_and_one_of_201_is_unknown(
    tokenizer: Tokenizer,
) -> None:
    assert UNK not in words(tokenizer, "a" * 200)
    assert words(tokenizer, "a" * 201) == [UNK]
    assert words(tokenizer, "b " + "a" * 201 + " b") == [144, UNK, 144]


@pytest.mark.parametrize("text", ["\ue000", "\U0001f600\U0001f600", "\ud800"])
def test_a_word_without_matching_entries_is_one_unknown_token(
    tokenizer: Tokenizer, text: str
) -> None:
    assert words(tokenizer, text) == [UNK]


def test_a_text_has_the_same_ids_alone_and_among_others(tokenizer: Tokenizer) -> None:
    texts = [
        "",
        "猫" * 40_000,
        "\ud83d",
        "\ude00 a",
        "b\0",
        "\0c",
        "e",
        "\u0301",
        "\n",
        "dog " * 30_000,
    ]
    texts += [*reversed(texts), "x" * 201, "\u2028"]
    ids, cut = tokenizer.encode_counted(texts, 12)
    for text, row, is_cut in zip(texts, ids, cut, strict=True):
        alone, alone_is_cut = tokenizer.encode_counted([text], 12)
        np.testing.assert_array_equal(row, alone[0])
        assert is_cut == alone_is_cut[0]


def test_a_full_cache_of_words_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_module, "_CACHED_WORDS", 3)
    tokenizer = Tokenizer()
    texts = ["a cat and a dog", "猫 a bird", "a cat"]
    np.testing.assert_array_equal(tokenizer.encode(texts, 9), Tokenizer().encode(texts, 9))
    assert len(tokenizer._vocabulary) <= 3


def test_another_vocabulary_counts_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##do\n", encoding="utf-8")
    tokenizer = Tokenizer(path)
    assert len(tokenizer) == 6
    assert tokenizer.encode(["undo redo"], 6).tolist() == [[2, 4, 5, 1, 3, 0]]


def test_a_vocabulary_without_the_marks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[CLS]\n[UNK]\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"vocab\.txt has no entry '\[SEP\]'"):
        Tokenizer(path)


@pytest.mark.parametrize("data", [None, b"\xff\xfe\x00"])
def test_a_vocabulary_that_is_missing_or_not_utf8_is_refused(
    tmp_path: Path, data: bytes | None
) -> None:
    path = tmp_path / "vocab.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match="cannot be read"):
        Tokenizer(path)


@pytest.mark.parametrize(
    ("text", "is_cut"),
    [
        ("", False),
        ("猫" * 6, False),
        ("猫" * 7, True),
        ("猫" * 5 + " unbelievably", True),  # one word, several pieces
        ("猫" * 6 + " \u0301 \u0301\u0302 \n", False),  # accents alone are no word
        ("猫" * 6 + " \u0301 犬", True),
        ("猫" * 6 + "\x00\ufffd", False),
    ],
)
def test_a_text_is_counted_as_cut_if_a_token_of_it_is_left_out(
    tokenizer: Tokenizer, text: str, is_cut: bool
) -> None:
    ids, cut = tokenizer.encode_counted([text, "short"], 8)
    assert cut.tolist() == [is_cut, False]
    np.testing.assert_array_equal(ids, tokenizer.encode([text, "short"], 8))
    whole = tokenizer.encode([text], 60)
    assert (np.count_nonzero(whole) > 8) == is_cut
