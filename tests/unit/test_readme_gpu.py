"""The README's commands for a GPU: every command, option and value is one that exists.

`tests/gpu` runs the same commands on a GPU, with the demo's engines.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer

from clipfleet.cli.main import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if not line.startswith("export ")]


def test_the_readme_has_commands_for_a_gpu() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} >= {"build", "embed", "adopt", "worker"}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_is_understood(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    assert program == "clipfleet"
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments)  # raises for an unknown option
