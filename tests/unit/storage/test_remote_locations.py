"""The URLs of files in stores: their one form, what is below them, and what is refused."""

from __future__ import annotations

import pytest

from clipfleet.errors import SettingsError, UsageError
from clipfleet.settings import load_settings
from clipfleet.storage.filesystem.members import TarMember, is_fetched, is_web_uri, parse_member
from clipfleet.storage.filesystem.remote import (
    input_location,
    is_below,
    is_remote,
    joined,
    parent,
    real_location,
    remote_place,
)
from clipfleet.storage.plan.moves import Move, Moves


@pytest.mark.parametrize(
    ("url", "one_form"),
    [
        ("S3://bucket/a b/一#?%.jpg", "s3://bucket/a b/一#?%.jpg"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("gs://bucket", "gs://bucket"),
        ("hf://datasets/owner/name/data/", "hf://datasets/owner/name/data"),
        ("hf://datasets/owner/name@v1.0", "hf://datasets/owner/name@v1.0"),
        ("HTTPS://Host:8443/a%20b.csv", "https://host:8443/a%20b.csv"),
    ],
)
def test_a_url_has_one_form(url: str, one_form: str) -> None:
    assert input_location(url) == real_location(url) == one_form
    assert remote_place(one_form).url == one_form
    assert is_remote(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://key:secret@bucket/a", "credentials belong into the environment"),
        ("https://user:secret@host/a", "has a user or password in it"),
        ("s3://b/a", "'b' is no bucket's name"),
        ("s3://bucket/a//b", "'//', '.' or '..'"),
        ("gs://bucket/a/../b", "'//', '.' or '..'"),
        ("s3://bucket/a\nb", "control character"),
        ("hf://models/owner/name", "names no dataset of the hub"),
        ("hf://datasets/owner", "names no dataset of the hub"),
        ("https://host/a.csv?signature=1", "has a query"),
        ("https:///a.csv", "or no host"),
    ],
)
def test_a_url_of_another_form_is_refused_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        input_location(url)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_paths_and_other_schemes_are_no_remote_urls() -> None:
    for location in ("/data/s3://a", "file:///a", "tar:///a", "a.csv", "ftp://host/a"):
        assert not is_remote(location)


@pytest.mark.parametrize(
    ("folder", "path", "location"),
    [
        ("s3://bucket/t", "../b/一 #.jpg", "s3://bucket/b/一 #.jpg"),
        ("s3://bucket/t", "../../../x.jpg", "s3://bucket/x.jpg"),
        ("hf://datasets/o/n@v1/t", "1.jpg", "hf://datasets/o/n@v1/t/1.jpg"),
        ("https://host/t", "../b/一 #.jpg", "https://host/b/%E4%B8%80%20%23.jpg"),
        ("s3://bucket/t", "/data/1.jpg", "/data/1.jpg"),
        ("/t", "../1.jpg", "/1.jpg"),
    ],
)
def test_the_paths_of_a_table_are_relative_to_its_folder(
    folder: str, path: str, location: str
) -> None:
    assert joined(folder, path) == location


def test_the_folder_above_ends_at_the_bucket() -> None:
    assert parent("s3://bucket/a/b.csv") == "s3://bucket/a"
    assert parent("s3://bucket/b.csv") == parent("s3://bucket") == "s3://bucket"
    assert parent("/a/b.csv") == "/a"


def test_a_location_is_below_a_root_only_as_a_whole_name() -> None:
    assert is_below("s3://bucket/a/b", "s3://bucket/a")
    assert is_below("/a", "/a")
    assert is_below("/a", "/")
    assert not is_below("s3://bucket/ab", "s3://bucket/a")
    assert not is_below("/ab", "/a")


def test_a_member_of_a_remote_file_has_one_url() -> None:
    member = TarMember(path="s3://bucket/a b?/0.tar", offset=512, size=9, header=7)
    assert member.uri == "tar://s3://bucket/a%20b%3F/0.tar?offset=512&size=9&header=7"
    assert parse_member(member.uri) == member
    assert is_fetched(member.uri)
    assert not is_web_uri(member.uri)
    assert is_web_uri("zip://https://host/a.zip?offset=1")
    assert not is_fetched(TarMember(path="/a/s3://b.tar", offset=512, size=9, header=7).uri)
    with pytest.raises(ValueError, match="no absolute path or remote URL"):
        TarMember(path="ftp://host/a.tar", offset=512, size=9, header=7)


def test_a_folder_that_was_moved_to_a_store_has_its_images_there() -> None:
    moves = Moves((Move(old="/data", new="s3://bucket/in", last_job="00001"),))
    for uri in ("/data/a.jpg", "file:///data/a.jpg"):
        assert moves.uri(uri, "00001") == "s3://bucket/in/a.jpg"
    member = TarMember(path="/data/a.tar", offset=512, size=9, header=7)
    assert moves.uri(member.uri, "00001").startswith("tar://s3://bucket/in/a.tar?")


def test_input_roots_may_be_urls_of_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFLEET_INPUT_ROOTS", "/data:s3://bucket/in:gs://other:/more")
    roots = ("/data", "s3://bucket/in", "gs://other", "/more")
    assert load_settings().input_roots == roots
    monkeypatch.setenv("CLIPFLEET_INPUT_ROOTS", "/data:https://host/a")
    with pytest.raises(SettingsError, match="no s3://, gs:// or hf:// URL"):
        load_settings()
