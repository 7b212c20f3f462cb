"""Every file of examples/basics runs as it stands, and its runs outlive it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BASICS = Path(__file__).parents[2] / "examples" / "basics"

PRINTED = {
    "composing": ["30", "20"],
    "durability": ["unsafe: 2 tickets booked", "safe: 1 ticket booked"],
    "dynamic": ["3628800", "Receipt(booked=[], canceled=True)"],
    "error_handling": [
        "the run failed: oops at attempt 1",
        "three tries: OK",
        "caught: There was an error: oops at attempt 1",
        "two tries, then caught: There was an error: oops at attempt 2",
        "decorated: ('OK', None)",
    ],
    "get_started": ["285"],
    "mixing": ["[1, 5, 14]", "25", "14"],
    "nested_arguments": ["30", "mixed: {'one': 10, 'two': (10, 5)}"],
    "resources": ["Model(trained_on='GPU 0')", "page 0, page 1, page 2, page 3"],
}

RESUME_ALL = """
from weftline import workflow
for workflow_id, _ in workflow.list_all("SUCCESSFUL"):
    print(workflow_id, repr(workflow.resume(workflow_id).result()))
"""

RESUME_THE_FAILED = """
from weftline import workflow
[(workflow_id, _)] = workflow.list_all("FAILED")
try:
    workflow.resume(workflow_id).result()
except RuntimeError as error:
    print(error)
print(workflow.resume(workflow_id).result())
assert workflow.get_status(workflow_id) == workflow.SUCCESSFUL
"""


def python(home: Path, *command: str) -> list[str]:
    """The lines that a Python printed which ended well."""
    environ = {**os.environ, "WEFTLINE_HOME": str(home)}
    environ.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=home.parent,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_every_example_is_run() -> None:
    assert {path.stem for path in BASICS.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_and_its_runs_can_be_asked_again(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    path = str(BASICS / f"{name}.py")
    printed = python(home, path)
    for line in PRINTED[name]:
        assert line in printed
    # In another process, which knows nothing of the file: each run has its value, nothing runs.
    values = python(home, "-c", RESUME_ALL)
    assert values
    assert python(home, "-c", RESUME_ALL) == values
    # The same file in the same home.
    assert python(home, path)[: len(PRINTED[name])] == printed[: len(PRINTED[name])]


def test_a_failed_run_of_an_example_goes_on_in_another_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    python(home, str(BASICS / "error_handling.py"))
    assert python(home, "-c", RESUME_THE_FAILED) == ["oops at attempt 2", "OK"]
