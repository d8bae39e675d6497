"""What messages advise exists: commands, their options, and extras."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from clipfleet.cli.main import command_line

ROOT = Path(__file__).parents[2]
FOLDERS = ("clipfleet", "storage", "retrieval", "workers", "tasks", "convert")
COMMAND = re.compile(r"`clipfleet (\w[\w-]*)([^`]*)`")


@cache
def texts() -> list[tuple[Path, str]]:
    """Return the strings of the package; a value in an f-string reads as X."""
    found = []
    for path in sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = [v.value if isinstance(v, ast.Constant) else "X" for v in node.values]
                found.append((path, "".join(map(str, pieces))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((path, node.value))
    return found


def test_an_advised_command_exists_with_its_options() -> None:
    commands: Any = command_line().commands
    advised = [
        (path, match[1], match[2]) for path, text in texts() for match in COMMAND.finditer(text)
    ]
    assert len(advised) > 10
    for path, name, arguments in advised:
        assert name in commands, (path, name)
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert options.issuperset(re.findall(r"--[\w-]+", arguments)), (path, name, arguments)


def test_an_advised_installation_is_one_from_a_checkout_with_extras_that_exist() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    advised = [
        (path, line)
        for path, text in texts()
        for line in text.splitlines()
        if "pip install" in line
    ]
    assert len(advised) > 5
    for path, line in advised:
        assert "from a checkout" in line, (path, line)
        assert "'clipfleet[" not in line, (path, line)
        for extras in re.findall(r"'\.\[([\w,]+)\]'", line):
            for extra in extras.split(","):
                assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), (path, extra)
