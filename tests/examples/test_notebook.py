"""The notebook of the first steps, run whole on the demo's model."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOT = EXAMPLES.parent


@pytest.mark.integration
def test_the_notebook_runs_from_its_first_cell_to_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert all(not cell.get("outputs") for cell in notebook.cells)  # it is kept without any
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "200 items planned; 200 vectors and 0 errors" in printed
    assert "000003.jpg\n" in printed  # the picture that the text says
    first = re.search(r"(\d+) of 400 captions find their picture first", printed)
    assert first is not None
    assert int(first[1]) >= 390
    assert "broken.jpg unsupported_format" in printed
    assert "201 vectors, 0 errors" in printed
