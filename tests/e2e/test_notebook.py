"""Notebooks, executed from their first cell to their last as a person would."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

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


def execute(notebook: Path, folder: Path, home: Path) -> list[str]:
    """What the cells of a notebook show, executed by Jupyter in a fresh kernel."""
    command = ["nbconvert", "--to", "notebook", "--execute", "--output-dir", str(folder / "done")]
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", *command, str(notebook)],
        env={
            **os.environ,
            "WEFTLINE_HOME": str(home),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads((folder / "done" / notebook.name).read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return ["".join(each["data"]["text/plain"]) for each in outputs if "data" in each]


def write(path: Path, *cells: str) -> Path:
    """A notebook of these cells."""
    content = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{number}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": dedent(cell),
            }
            for number, cell in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"display_name": "", "language": "", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content))
    return path


def test_the_example_notebook_runs_in_jupyter(tmp_path: Path, notebook_home: Path) -> None:
    assert execute(NOTEBOOK, tmp_path, notebook_home) == [
        "7.5",
        "12.0",
        "<RunStatus.SUCCESSFUL: 'SUCCESSFUL'>",
        "Order(item='rice', count=2)",
        "'3 x tea shipped'",
        "[4999950000, 4999950000, 4999950000, 4999950000, 4999950000]",
        "[1, 2, 3]",
        "3",
    ]


def test_a_notebook_that_is_edited_between_run_and_resume(
    tmp_path: Path, notebook_home: Path
) -> None:
    steps = """
        import os
        from weftline import workflow

        @workflow.step
        def draw():
            return "{version}"

        @workflow.step
        def finish(drawn, mended):
            if not os.path.exists(mended):
                raise ValueError("not mended")
            return drawn + ", then {version}"
        """
    mended = tmp_path / "mended"
    first = write(
        tmp_path / "first.ipynb",
        steps.format(version="first"),
        f"""
        try:
            finish.step(draw.step(), {str(mended)!r}).run("edited", quiet=True)
        except ValueError as error:
            print(error)
        workflow.get_status("edited").value
        """,
    )
    assert execute(first, tmp_path, notebook_home) == ["'FAILED'"]
    mended.touch()
    # Another kernel and another code: the run goes on with its own, new ones take the new one.
    second = write(
        tmp_path / "second.ipynb",
        steps.format(version="second"),
        'workflow.resume("edited").result()',
        f"finish.step(draw.step(), {str(mended)!r}).run(quiet=True)",
    )
    assert execute(second, tmp_path, notebook_home) == [
        "'first, then first'",
        "'second, then second'",
    ]
