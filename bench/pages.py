"""Sections of Markdown pages that programs write, each between two comments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipfleet.atomic_write import atomic_write


@dataclass(frozen=True)
class Section:
    """A section of a page, and the program that writes it."""

    name: str
    writer: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: begin; written by {self.writer} -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}: end -->"

    def insert(self, page: str, text: str) -> str:
        """Return a page with `text` between the section's marks.

        Raises:
            ValueError: The page has not exactly one of each mark, in order.
        """
        begin, end = self.begin, self.end
        if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
            raise ValueError(f"the page needs the line {begin} and below it {end}, once each")
        before, rest = page.split(begin)
        _, after = rest.split(end)
        return f"{before}{begin}\n\n{text}\n\n{end}{after}"

    def write(self, path: Path, text: str) -> None:
        """Insert `text` into the page at `path`.

        Raises:
            ValueError: As `insert`.
            OSError: The page cannot be read or written.
        """
        changed = self.insert(path.read_text(encoding="utf-8"), text)
        with atomic_write(path) as part:
            part.write_text(changed, encoding="utf-8")
