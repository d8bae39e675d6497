"""Parts of pages that programs write."""

from pathlib import Path

import pytest

from bench.pages import Section

SECTION = Section("figures", "a.program")
BEGIN, END = SECTION.begin, SECTION.end


def test_only_what_stands_between_the_marks_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter ½\n", encoding="utf-8")
    SECTION.write(path, "new")
    text = path.read_text(encoding="utf-8")
    assert text == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter ½\n"
    assert SECTION.insert(text, "new") == text
    assert "written by a.program" in text
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.md"]


@pytest.mark.parametrize("page", ["no marks", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="the page needs the line"):
        SECTION.insert(page, "text")
