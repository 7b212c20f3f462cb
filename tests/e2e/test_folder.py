"""The folder that a step goes to is not the folder of the steps after it."""

import os

import pytest

from weftline import workflow


@workflow.step
def go_away() -> str:
    os.chdir("/")
    return os.getcwd()


@workflow.step
def where(_: str) -> str:
    return os.getcwd()


@pytest.mark.usefixtures("home")
def test_a_step_that_changes_the_folder_changes_it_for_itself_alone(run_id: str) -> None:
    assert where.step(go_away.step()).run(run_id) == os.getcwd()
