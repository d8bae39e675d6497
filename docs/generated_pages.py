"""The pages of the site that are made from their source when it is built: commands and settings.

MkDocs calls the `on_…` functions; see `hooks` in mkdocs.yml.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic_settings import BaseSettings

from clipfleet.cli.main import command_line
from clipfleet.settings import PREFIX, Settings
from clipfleet.settings.separators import SEPARATORS


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each folder in the navigation by its pages."""
    docs = Path(config.docs_dir)
    for section in config.nav or []:
        [(_, entries)] = section.items()
        for entry in entries if isinstance(entries, list) else []:
            [(title, target)] = entry.items()
            if target.endswith("/"):
                pages = sorted((docs / target).glob("*.md"), key=_index_first)
                entry[title] = [page.relative_to(docs).as_posix() for page in pages]
    return config


def _index_first(page: Path) -> tuple[bool, str]:
    return page.name != "README.md", page.name


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, content in (
        ("reference/cli.md", commands_page()),
        ("reference/settings.md", settings_page()),
    ):
        files.append(File.generated(config, path, content=content))
    return files


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A field of `Settings`, as its source has it."""

    name: str
    section: str
    text: str

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.name.upper()}"

    @property
    def default(self) -> str:
        value = Settings.model_fields[self.name].default
        if isinstance(value, tuple):
            value = SEPARATORS[self.name].join(value)
        return "unset" if value in {None, ""} else f"`{value}`"


def documented_settings() -> Iterator[Setting]:
    """Yield every setting that has a docstring; a section's are those of a base of `Settings`."""
    for theme in reversed(Settings.__bases__):
        if theme is not BaseSettings:
            yield from _settings_of(theme)


def _settings_of(theme: type) -> Iterator[Setting]:
    [found] = ast.parse(inspect.getsource(theme)).body
    section = inspect.getdoc(theme) or ""
    for field, docstring in pairwise(getattr(found, "body", [])):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(docstring, ast.Expr)
            and isinstance(docstring.value, ast.Constant)
        ):
            text = " ".join(str(docstring.value.value).split())
            yield Setting(name=field.target.id, section=section.removesuffix("."), text=text)


def settings_page() -> str:
    """Return the page of settings, made from clipfleet/settings/."""
    lines = [_SETTINGS_HEAD]
    section = ""
    for setting in documented_settings():
        if setting.section != section:
            section = setting.section
            lines += [f"\n## {section}\n", "| Variable and default | Meaning |", "|---|---|"]
        lines.append(f"| `{setting.variable}`<br>{setting.default} | {setting.text} |")
    return "\n".join(lines) + "\n"


_SETTINGS_HEAD = f"""\
# Settings

A setting is an environment variable, or a line of `clipfleet.toml` in the working folder, without
the prefix and in lower case: `{PREFIX}SHARD_SIZE=4096` or `shard_size = 4096`. A variable takes
precedence over the file, and an option of a command over both. `CLIPFLEET_CONFIG` names another
file.

A name that is nearly a setting is refused, so that a misspelt variable is not ignored.
"""


def commands_page() -> str:
    """Return the page of commands, made from the command line's own help."""
    group: Any = command_line()
    pages = [_command(name, command) for name, command in group.commands.items()]
    return "\n".join([_COMMANDS_HEAD, *pages])


_COMMANDS_HEAD = """\
# Commands

The result goes to standard output, as one JSON object with `--json`; everything else goes to
standard error. `clipfleet COMMAND --help` shows the text below.

| Exit code | Meaning |
|---|---|
| 0 | done |
| 1 | done, but some items failed, or a dataset is not whole, or a worker lost its GPU |
| 2 | wrong use or environment; the message says how to mend it |
| 130 | interrupted |
"""


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    text, _, example = inspect.cleandoc(command.help).partition("\b\n")
    rows = [record for p in command.params if (record := p.get_help_record(context))]
    usage = " ".join([f"clipfleet {name}", *command.collect_usage_pieces(context)])
    lines = [f"## clipfleet {name}\n", text.strip(), "\n```text", usage, "```\n"]
    if example:
        lines += ["Example:\n", "```sh", example.strip(), "```\n"]
    lines += ["| Argument or option | Meaning |", "|---|---|"]
    lines += [f"| `{what}` | {_cell(meaning)} |" for what, meaning in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a help text as a cell of a table: names in capitals are variables, not emphasis."""
    return re.sub(r"([\\*_|<>\[\]])", r"\\\1", " ".join(text.split()))
