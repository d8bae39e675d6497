"""Run every fault, and print the table: what was submitted, lost, doubled, and how long it took.

    python -m tests.faults                         # all of them, in their full length
    python -m tests.faults --only redis            # those whose test's name has this in it
    python -m tests.faults --into docs/explanation/faults.md   # write the table into the page, too

The product's settings are the defaults, and outages last a minute. Exits with 1 if anything was
lost or doubled, or did not recover.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent
_HARNESS = "test_harness.py"  # shows that the counting is right; it has no fault


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="run the tests that pytest's -k would")
    parser.add_argument("--quick", action="store_true", help="as CI does: seconds, not minutes")
    parser.add_argument("--jobs", type=int, default=0, help="files of tests beside each other")
    parser.add_argument("--into", type=Path, help="write the table into a page, between its marks")
    args = parser.parse_args(arguments)
    if args.into and (args.only or args.quick):
        parser.error(
            "--into replaces the page's whole table, which --only and --quick would cut short: "
            "leave them out, or leave out --into and read what is printed"
        )
    if not args.quick:
        os.environ["FAULTS_FULL"] = "1"  # before the harness is imported, which reads it
    from tests.faults.table import SECTION, table

    results = Results()
    options = ["--quiet", "--import-mode=importlib", f"--deselect={_FOLDER / _HARNESS}"]
    if args.jobs:  # most of it is waiting, but a busy machine takes longer to recover
        options += ["--numprocesses", str(args.jobs), "--dist", "loadfile"]
    code = pytest.main([*options, "-k", args.only, str(_FOLDER)], plugins=[results])
    text = table(results.faults)
    print(f"\n{text}")
    if args.into:
        SECTION.write(args.into, text)
    return int(bool(code) or not all(fault.ok for fault in results.faults))


class Results:
    """A plugin of pytest that collects what the tests recorded."""

    def __init__(self) -> None:
        from tests.faults.harness import Fault

        self._make = Fault
        self.faults: list[Fault] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            kept = [value for name, value in report.user_properties if name == "fault"]
            self.faults += [self._make(**value) for value in kept if isinstance(value, dict)]


if __name__ == "__main__":
    sys.exit(main())
