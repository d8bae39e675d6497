"""Our token ids against the original's tokeniser: equal."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest

from clipfleet.workers.text.tokenizer import Tokenizer
from tests.original import original_utils

CHINESE = "".join(map(chr, range(0x4E00, 0x9FFF, 7)))
RARE_CHINESE = "".join(map(chr, (*range(0x3400, 0x4DC2, 61), *range(0x2B700, 0x2CEB2, 97))))
LATIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
ACCENTED = "àéîõüñçßøåœÀÉÎÕÜÑÇẞØÅŒıİſŉǅﬁΐΣςσΟΔάЁёЙ"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~，。！？、；：“”‘’（）《》…—·「」"
SPACES = " \t\n\r\u3000\u00a0\u2003\u2028\u2029\u1680"
INVISIBLE = "\0\x01\x1c\x1f\x7f\x85\xad\u200b\u200d\u2060\ufeff\ufffd\ufffe\U000e0041"
MARKS = "\u0300\u0301\u0345\u20dd\u3099\u0e31\u093e\u0903"
EMOJI = "😀👨\u200d👩\u200d👧🏽❤\ufe0f🇨🇳5\ufe0f\u20e3"
OTHER = "한국어カタカナひらがなไทยहिन्दीעבריתالعربية\ue000\uf8ff\U00100000\u0378\ud800\udfff\udcff"
ALPHABETS = (
    *(CHINESE, RARE_CHINESE, LATIN, ACCENTED, PUNCTUATION, SPACES),
    *(INVISIBLE, MARKS, EMOJI, OTHER),
)

ODD = (
    "",
    " ",
    "\0",
    "\u0301",
    "[CLS] [MASK] [UNK] ##a #",
    "\u2028",
    "##\u2028",
    "“你好”，World! 皮卡丘",
    "ΟΔΟΣ Σ",
    "x" * 200,
    "x" * 201,
    "é" * 200,
    "é" * 201,
    "e\u0301" * 200,  # 400 characters, of which 200 are left
    "中" * 300,
    "a中" * 300,
    "'" * 201,
    "unaffable" * 30,
    "\ud83d\ude00",
)


def generated(count: int) -> list[str]:
    """Random texts, most of a few alphabets each, and some of any code points."""
    chance = random.Random(20)
    texts = []
    for _ in range(count):
        alphabets = chance.sample(ALPHABETS, chance.randint(1, 4))
        length = chance.choice((3, 10, 30, 80))
        if chance.random() < 0.1:
            texts.append("".join(chr(chance.randrange(sys.maxunicode + 1)) for _ in range(length)))
        else:
            texts.append("".join(chance.choice(chance.choice(alphabets)) for _ in range(length)))
    return texts


def assert_ids_equal_the_originals(texts: list[str], context_length: int = 52) -> None:
    ours = Tokenizer().encode(texts, context_length)
    expected = original_utils().tokenize(texts, context_length).numpy()
    different = np.flatnonzero((ours != expected).any(axis=1))
    assert ours.dtype == np.int64
    assert [ascii(texts[i]) for i in different] == []


@pytest.mark.parametrize("context_length", [2, 3, 24, 52, 512])
def test_the_ids_of_odd_texts_equal_the_originals(context_length: int) -> None:
    assert_ids_equal_the_originals(list(ODD), context_length)


def test_the_ids_of_generated_texts_equal_the_originals() -> None:
    assert_ids_equal_the_originals(generated(6000))


def test_the_ids_of_every_character_of_the_basic_plane_equal_the_originals() -> None:
    assert_ids_equal_the_originals([f"a{chr(point)}b" for point in range(0x10000)], 12)


def test_the_ids_of_characters_beyond_the_basic_plane_equal_the_originals() -> None:
    points = range(0x10000, sys.maxunicode + 1, 23)
    assert_ids_equal_the_originals([f"a{chr(point)}b" for point in points], 12)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 199, 200, 201, 1000])
def test_the_ids_of_a_long_word_equal_the_originals(length: int) -> None:
    word = ("abcdefg" * length)[:length]
    assert_ids_equal_the_originals([word, f"{word} {word}", f"x {word} y"], 512)
