"""The README without running it: its commands for a GPU exist, and the Chinese one is the same.

`tests/examples` runs the other commands, and `tests/gpu` the same commands on a GPU, with the
demo's engines.
"""

import re
import shlex
from pathlib import Path

import pytest

from clipfleet.cli.main import command_line

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
MAX_LINES = 180


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MAX_LINES


def test_the_readme_has_commands_for_a_gpu() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} >= {"prepare", "embed"}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_is_understood(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    assert program == "clipfleet"
    group = command_line()
    command = group.commands[name]
    command.make_context(name, arguments)  # raises for what it does not know


def test_the_targets_of_the_readme_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)$|`make (\w+)`", README, flags=re.MULTILINE))
    names = {name for pair in targets for name in pair if name}
    assert names >= {"demo", "test"}
    for name in names:
        assert re.search(rf"^{name}:", makefile, flags=re.MULTILINE), name


def test_the_chinese_readme_has_the_same_code_and_links() -> None:
    def code(text: str) -> list[str]:
        return re.findall(r"^```.*?^```$", text, flags=re.MULTILINE | re.DOTALL)

    def links(text: str) -> list[str]:
        targets = set(re.findall(r"\]\(([^)\s]+)\)", text))
        return sorted(targets - {"README.md", "README.zh.md"})

    assert code(CHINESE) == code(README)
    assert len(re.findall("^## ", CHINESE, re.MULTILINE)) == len(
        re.findall("^## ", README, re.MULTILINE)
    )
    assert links(CHINESE) == links(README)
    assert "(README.zh.md)" in README
    assert "(README.md)" in CHINESE
