"""Members: one URL for each picture inside a file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfleet.storage.filesystem.members import (
    Base64Text,
    Member,
    ParquetPicture,
    TarMember,
    TgzMember,
    ZipMember,
    parse_member,
)

_NUMBERS = st.integers(0, 2**62 - 1)
_PATHS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])).map(
    lambda text: f"/{text}"
)
_TARS = {"path": _PATHS, "offset": st.integers(512, 2**40), "size": _NUMBERS, "header": _NUMBERS}
_ZIPS = {
    "path": _PATHS,
    "offset": _NUMBERS,
    "size": _NUMBERS,
    "method": st.sampled_from(["stored", "deflate"]),
    "crc32": _NUMBERS,
}

_ROWS = {
    "path": _PATHS,
    "column": st.text(st.characters(blacklist_categories=["Cs"])),
    "row": st.integers(1, 2**40),
    "footer": _NUMBERS,
}


@given(
    st.one_of(
        st.builds(TarMember, **_TARS),
        st.builds(TgzMember, **_TARS),
        st.builds(ZipMember, **_ZIPS),
        st.builds(ParquetPicture, **_ROWS),
        st.builds(Base64Text, path=_PATHS, offset=_NUMBERS, size=_NUMBERS, crc32=_NUMBERS),
    )
)
def test_the_uri_of_a_member_names_it_again(member: Member) -> None:
    assert parse_member(member.uri) == member
    assert member.uri.isascii()


@given(
    st.text(), st.sampled_from(["tar://", "zip:///a?offset=1&size=", "tgz:///a?offset=600&", ""])
)
def test_any_text_is_a_member_in_its_one_form_or_none_or_refused(text: str, start: str) -> None:
    try:
        member = parse_member(start + text)
    except ValueError:
        return
    assert member is None or member.uri == start + text


def test_paths_with_characters_of_urls_and_bytes_that_are_no_text_are_kept() -> None:
    for path in ("/a b/#1?x=2&y=%41.tar", "/é/\udcff.tar", "/a/?offset=5"):
        member = TarMember(path=path, offset=512, size=1, header=2)
        assert parse_member(member.uri) == member


@pytest.mark.parametrize(
    "uri", ["/a/b.tar", "file:///a.tar?offset=1", "https://h/a.tar", "tar:", ""]
)
def test_other_uris_are_no_members(uri: str) -> None:
    assert parse_member(uri) is None


@pytest.mark.parametrize(
    "uri",
    [
        "tar:///a.tar",
        "tar:///a.tar?offset=512&size=1",
        "tar:///a.tar?offset=100&size=1&header=0",
        "tar:///a.tar?offset=512&size=-1&header=0",
        "tar:///a.tar?offset=512&size=1&header=0&header=0",
        "tar:///a.tar?offset=512&size=1&header=0&path=/etc/passwd",
        "tar:///a.tar?offset=0512&size=1&header=0",
        "tar:///a.tar?size=1&offset=512&header=0",
        "tar:///a.tar?offset=512&size=9223372036854775807&header=0",
        "tar://a.tar?offset=512&size=1&header=0",
        "tar:///%00?offset=512&size=1&header=0",
        "tar:///%61.tar?offset=512&size=1&header=0",
        "zip:///a.zip?offset=1&size=1&method=lzma&crc32=0",
    ],
)
def test_a_member_of_another_form_is_refused_with_the_form(uri: str) -> None:
    with pytest.raises(ValueError, match=r"has not the form (tar|zip):///file"):
        parse_member(uri)


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        (TarMember, {"path": "a", "offset": 512, "size": 1, "header": 1}, "absolute"),
        (TarMember, {"path": "/a", "offset": 1, "size": 1, "header": 1}, "offset is 1"),
        (TarMember, {"path": "/a", "offset": 512, "size": -1, "header": 1}, "size is -1"),
        (ParquetPicture, {"path": "/a", "column": "b", "row": 0, "footer": 1}, "row is 0"),
    ],
)
def test_a_member_with_a_wrong_value_is_refused(
    kind: type[Member], values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        kind(**values)
