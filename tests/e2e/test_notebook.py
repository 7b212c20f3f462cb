"""The example notebook runs from its first cell to its last, as a person would run it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from weftline.filelocks import find_holder

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "tour.ipynb"


@pytest.fixture
def notebook_home(tmp_path: Path) -> Iterator[Path]:
    """A home whose controller ends with the test."""
    home = tmp_path / "home"
    yield home
    pid = find_holder(home / "controller.lock")
    if pid:
        os.kill(pid, 15)


def test_the_example_notebook_runs_in_jupyter(tmp_path: Path, notebook_home: Path) -> None:
    command = ["nbconvert", "--to", "notebook", "--execute", "--output-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", *command, str(NOTEBOOK)],
        env={
            **os.environ,
            "WEFTLINE_HOME": str(notebook_home),
            "JUPYTER_DATA_DIR": str(tmp_path / "data"),
            "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
            "IPYTHONDIR": str(tmp_path / "ipython"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / NOTEBOOK.name).read_text())["cells"]
    shown = [
        output["data"]["text/plain"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert ["".join(text) for text in shown] == [
        "7.5",
        "12.0",
        "<RunStatus.SUCCESSFUL: 'SUCCESSFUL'>",
        "Order(item='rice', count=2)",
        "'3 x tea shipped'",
        "[4999950000, 4999950000, 4999950000, 4999950000, 4999950000]",
        "[1, 2, 3]",
        "3",
    ]
