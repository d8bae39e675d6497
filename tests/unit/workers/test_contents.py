"""Contents are found by the first bits of their SHA-256, in the newest part that has them."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest

from clipfleet.workers.copies.contents import Contents, prefixes_of


def hash_of(number: int) -> str:
    return sha256(b"%d" % number).hexdigest()


def test_each_content_is_found_in_the_newest_part_that_has_it() -> None:
    random = np.random.default_rng(0)
    contents = Contents()
    newest: dict[int, int] = {}
    for part in range(200):
        numbers = random.integers(0, 3000, random.integers(1, 60)).tolist()
        contents.add(prefixes_of([hash_of(n) for n in numbers]), part)
        newest |= dict.fromkeys(numbers, part)
    for number in range(3000):
        assert contents.find(hash_of(number)) == newest.get(number)


def test_the_memory_is_that_of_the_different_contents() -> None:
    contents = Contents()
    for part in range(50):
        contents.add(prefixes_of([hash_of(n) for n in (1, 2, 2, 1)]), part)
    assert len(contents) == 2


def test_the_first_bits_are_those_of_the_hexadecimal_digits() -> None:
    hashes = ["ff" * 32, "0123456789abcdef" + "0" * 48]
    assert prefixes_of(hashes).tolist() == [2**64 - 1, 0x0123456789ABCDEF]
    assert prefixes_of([]).tolist() == []


@pytest.mark.parametrize(
    ("wrong", "message"), [("", "no SHA-256"), ("12", "buffer size"), ("x" * 64, "hexadecimal")]
)
def test_what_is_no_hash_is_refused(wrong: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prefixes_of([hash_of(1), wrong])
