"""The documentation: the generated pages, and the names in the other pages."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from clipfleet.cli.main import command_line
from clipfleet.settings import Settings
from docs.generated_pages import commands_page, documented_settings, settings_page

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
HERE = "https://github.com/clipfleet/clipfleet"
TEXTS = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"))]

FOLDERS = "bench|clipfleet|convert|docs|examples|storage|tasks|tests|workers"
FILE = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w)")
TEST = re.compile(r"`(test_\w+\.py)`")
MODULE = re.compile(r"\bclipfleet\.((?:cli|convert|storage|tasks|workers)\.[\w.]*\w)")


def commands_in(page: Path) -> list[list[str]]:
    """Return the command lines of a page's shell blocks that run clipfleet."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [given[1:] for given in words if given[:1] == ["clipfleet"]]


def test_every_setting_is_on_its_page_with_its_variable_its_default_and_its_meaning() -> None:
    settings = {setting.name: setting for setting in documented_settings()}
    assert list(settings) == list(Settings.model_fields)
    rows = [line for line in settings_page().splitlines() if line.startswith("| `CLIPFLEET_")]
    assert len(rows) == len(settings)
    for setting, row in zip(settings.values(), rows, strict=True):
        named, meaning = [cell.strip() for cell in row.strip("|").split("|")]
        assert named == f"`CLIPFLEET_{setting.name.upper()}`<br>{setting.default}"
        assert len(meaning) > 20, named


def test_a_default_is_shown_as_a_variable_would_be_written() -> None:
    defaults = {setting.name: setting.default for setting in documented_settings()}
    assert defaults["window_items"] == "`1024`"
    assert defaults["url_schemes"] == "`https`"
    assert defaults["input_roots"] == defaults["model"] == "unset"


def test_every_command_is_on_its_page_with_all_its_options() -> None:
    page = commands_page()
    group: Any = command_line()
    for name, command in group.commands.items():
        section = page.partition(f"## clipfleet {name}\n")[2].partition("\n## ")[0]
        assert f"```sh\nclipfleet {name}" in section
        for parameter in command.params:
            assert parameter.opts[0] in section, (name, parameter.opts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_accepted(page: Path) -> None:
    group: Any = command_line()
    for name, *arguments in commands_in(page):
        group.commands[name].make_context(name, arguments)  # raises on an unknown option


def test_the_guides_have_commands() -> None:
    assert sum(len(commands_in(page)) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_links_to_files_of_the_repository_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(rf"{HERE}/(?:blob|tree)/main/([^)#\s]+)", text):
        assert (ROOT / path).exists(), path


def names_nothing(page: Path) -> list[str]:
    """Return the files and modules of the repository that a page names and that do not exist."""
    text = page.read_text(encoding="utf-8")
    files = [path for path in FILE.findall(text) if not (ROOT / path).exists()]
    tests = [name for name in TEST.findall(text) if not any((ROOT / "tests").rglob(name))]
    modules = [name for name in MODULE.findall(text) if not is_module(name.replace(".", "/"))]
    return [*files, *tests, *modules]


def is_module(path: str) -> bool:
    """Return whether a path is a package or a module, or a name in a module."""
    places = [ROOT / path, ROOT / "clipfleet" / path]
    return any(
        place.is_dir() or file.exists()
        for place in places
        for file in (place.with_suffix(".py"), place.parent.with_suffix(".py"))
    )


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_files_and_modules_that_exist(page: Path) -> None:
    assert names_nothing(page) == []


def test_a_name_of_nothing_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("tasks/no.py, `test_no.py`, clipfleet.tasks.no, `tasks/app.py`.")
    assert names_nothing(page) == ["tasks/no.py", "test_no.py", "tasks.no"]


def test_the_readme_links_to_files_that_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text(encoding="utf-8"))
        for target in targets:
            assert target.startswith("https://") or (ROOT / target).exists(), f"{name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_python_of_a_page_can_be_parsed(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(block)


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs/explanation/adr"
    index = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert sorted(index) == sorted(page.name for page in folder.glob("[0-9]*.md"))
