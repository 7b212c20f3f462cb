"""What the documentation shows is run as it stands, and prints what it says."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import weftline
from tests.e2e.conftest import Scripts
from weftline import workflow
from weftline.authoring.options import KNOWN, OF_RAY

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/ray.md"]

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
CALLED = re.compile(r"(?<![\w/])(weftline|workflow)\.(?!py\b)(\w+)")
OF_RAY_ALONE = {"continuation"}


@pytest.mark.parametrize("page", PAGES)
def test_the_samples_of_a_page_print_what_stands_beside_them(scripts: Scripts, page: str) -> None:
    program = "\n".join(BLOCK.findall((ROOT / page).read_text()))
    expected = PRINTED.findall(program)
    assert expected
    assert len(expected) == program.count("\nprint(")
    printed = scripts.run(scripts.write(program, "sample.py"))
    assert printed.splitlines() == expected


def is_module(name: str) -> bool:
    """Whether it is a module of the package, which nothing else may have imported."""
    return name.startswith("weftline.") and find_spec(name) is not None


@pytest.mark.parametrize("page", PAGES)
def test_every_name_on_a_page_is_there(page: str) -> None:
    modules = {"weftline": weftline, "workflow": workflow}
    named = set(CALLED.findall((ROOT / page).read_text()))
    assert named
    missing = [
        f"{m}.{n}"
        for m, n in named
        if not hasattr(modules[m], n) and n not in OF_RAY_ALONE and not is_module(f"{m}.{n}")
    ]
    assert missing == []


def test_every_option_of_a_step_is_told_to_those_who_come_from_ray() -> None:
    page = (ROOT / "docs/ray.md").read_text()
    assert [option for option in (*KNOWN, *OF_RAY) if f"`{option}`" not in page] == []


def test_every_public_name_is_told_to_those_who_come_from_ray() -> None:
    page = (ROOT / "docs/ray.md").read_text()
    types = {"ActorClass", "Current", "RunHandle", "Step", "VirtualActor", "Workflow"}
    statuses = set(workflow.WorkflowStatus) | {"WorkflowStatus"}
    told = {name for _, name in CALLED.findall(page)} | types | statuses
    assert set(workflow.__all__) - told == set()
