"""The contact sheet: what others wrote stays text, and the page needs nothing but itself."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from clipfleet.architectures import Tower
from clipfleet.error_codes import MISSING
from clipfleet.errors import ItemError, StorageError
from clipfleet.retrieval.pages.thumbnails import thumbnail
from clipfleet.retrieval.pages.visible import link_of, visible
from clipfleet.retrieval.search.answers import Answer, Hit
from clipfleet.retrieval.search.contact_sheet import Heading, write_contact_sheet
from clipfleet.retrieval.search.listing import answer_lines
from clipfleet.retrieval.search.queries import NoVector

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'</h2></style>"
TURNED = "photo\u202egpj.exe\x1b[31m\x00"
LINK = "javascript:alert(3)"
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "h1", "p", "dl", "dt", "dd"),
    *("nav", "ol", "li", "a", "bdi", "main", "section", "h2", "div", "img", "figure"),
    *("figcaption", "span", "data", "strong", "q", "small"),
}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, the attributes of these, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str | None]:
        return [attributes[name] for one, attributes in self.elements if one == tag]


def heading(tower: Tower = "img", *, queries: int = 3) -> Heading:
    return Heading(
        index=f"/indexes/\udcff{HOSTILE}",
        model="tiny",
        tower=tower,
        rows=5000,
        k=2,
        queries=queries,
    )


def hits(*pairs: tuple[str, str]) -> list[Hit]:
    return [
        Hit(rank=rank, id=id_, value=value, score=0.5) for rank, (id_, value) in enumerate(pairs, 1)
    ]


def answer(asked: str, found: list[Hit], *, tower: Tower | None = "txt") -> Answer:
    failure = None if found else NoVector(error="empty_text", message=f"no word in {HOSTILE}")
    return Answer(query_id="7", tower=tower, asked=asked, hits=found, failure=failure)


def open_image(uri: str, _: int) -> Image.Image:
    if "absent" in uri:
        raise ItemError(MISSING, f"{uri} cannot be read: there is no file")
    return Image.new("RGB", (800, 400), "red")


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """A sheet of hostile ids, uris, texts, and of what failed."""
    path = tmp_path / "sheet.html"
    answers = [
        answer(HOSTILE, hits((HOSTILE, f"/pictures/{HOSTILE}"), (TURNED, LINK))),
        answer("/queries/absent.jpg", hits(("a", f"/absent/{HOSTILE}.jpg")), tower="img"),
        answer("", []),
    ]
    write_contact_sheet(path, heading(), answers, open_image)
    return Page(path)


def test_hostile_ids_uris_and_texts_stay_text(page: Page) -> None:
    assert {tag for tag, _ in page.elements} <= TAGS
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 5
    assert f"/indexes/\\udcff{HOSTILE}" in page.text
    assert "photo\\u202egpj.exe\\u001b[31m\\u0000" in page.text
    assert page.values("img", "alt")[:2] == [f"Picture {HOSTILE}", f"Picture {visible(TURNED)}"]


def test_the_page_loads_nothing_and_links_to_files_alone(page: Page) -> None:
    [policy] = [
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and "http-equiv" in attributes
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    sources = page.values("img", "src")
    assert len(sources) == 2
    for source in sources:
        assert source is not None
        kind, data = source.split(",", 1)
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (320, 160)
    links = [link for link in page.values("a", "href") if link and not link.startswith("#")]
    assert links
    assert all(link.startswith("file:///") for link in links)


def test_what_cannot_be_shown_says_why(page: Page) -> None:
    assert "The query absent.jpg is not shown: /queries/absent.jpg cannot be read" in (page.text)
    assert f"No hits. empty_text: no word in {HOSTILE}" in page.text
    assert "3 queries, the 2 nearest of 5,000 pictures each; 1 failed." in page.text


def test_every_part_of_the_page_can_be_reached_and_has_a_name(page: Page) -> None:
    targets = [link for link in page.values("a", "href") if link and link.startswith("#")]
    assert targets == ["#q1", "#q2", "#q3"]
    assert page.values("h2", "id") == ["q1", "q2", "q3"]
    assert page.values("section", "aria-labelledby") == ["q1", "q2", "q3"]
    assert all(page.values("img", "alt"))
    assert page.values("html", "lang") == ["en"]
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_an_index_of_texts_shows_texts(tmp_path: Path) -> None:
    path = tmp_path / "sheet.html"
    answers = [answer("红色的圆", hits(("t1", HOSTILE), ("t2", "绿色")))]
    write_contact_sheet(path, heading("txt", queries=9), answers, open_image)
    page = Page(path)
    assert page.values("data", "value") == ["0.500000"] * 2
    assert "img" not in {tag for tag, _ in page.elements}
    assert HOSTILE in page.text
    assert "The first 1 of 9 queries" in page.text


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "sheet.html"
    with pytest.raises(StorageError, match=r"sheet\.html cannot be written: No such file"):
        write_contact_sheet(path, heading(), [], open_image)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("LA", (0, 255), (0, 0, 0)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
        ("I;16", 0, (0, 0, 0)),
        ("F", 0.0, (0, 0, 0)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_a_thumbnail_is_made_of_every_mode(
    mode: str, colour: object, expected: tuple[int, int, int]
) -> None:
    small = thumbnail(Image.new(mode, (30, 500), colour), 100)  # type: ignore[arg-type]
    assert (small.width, small.height) == (6, 100)
    found = Image.open(io.BytesIO(small.data))
    assert (found.format, found.mode, found.size) == ("JPEG", "RGB", (6, 100))
    assert found.getpixel((3, 50)) == expected


def test_a_thumbnail_is_turned_as_its_camera_says() -> None:
    image = Image.new("RGB", (400, 200))
    image.getexif()[0x0112] = 6
    small = thumbnail(image, 100)
    assert (small.width, small.height) == (50, 100)


def test_links_lead_to_files_and_the_web_only() -> None:
    assert link_of("/a b/100%?#ü.jpg") == "file:///a%20b/100%25%3F%23%C3%BC.jpg"
    assert link_of("file:///a%20b.jpg") == "file:///a%20b.jpg"
    assert link_of("https://example.com/a?b=1") == "https://example.com/a?b=1"
    assert link_of("s3://bucket/a.jpg") is None
    assert link_of("file://host/a.jpg") is None
    assert link_of("data://text/html,<script>") is None


def test_a_terminal_gets_no_control_characters() -> None:
    lines = list(answer_lines([answer(TURNED, hits((TURNED, f"/{TURNED}")))], "img"))
    assert "".join(lines).isprintable()
    assert list(answer_lines([answer("a", [])], "img"))[1].startswith("  no hits: empty_text: no")
