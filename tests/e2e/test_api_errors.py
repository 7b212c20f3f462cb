"""What comes out of a run that fails: the person's own exception wherever that is possible."""

import threading
from typing import Any

import pytest

from tests.e2e.conftest import Scripts, notes
from weftline import workflow

pytestmark = pytest.mark.usefixtures("home")


class MyError(Exception):
    """An exception of a person's own, which takes other arguments than it keeps."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


class Child(MyError):
    pass


@workflow.step(name="thrower")
def thrower(kind: Any, *args: Any, **kwargs: Any) -> None:
    raise kind(*args, **kwargs)


def test_a_step_raises_its_own_exception_in_the_driver(run_id: str) -> None:
    with pytest.raises(MyError) as caught:
        thrower.step(Child, 7, hint="look").run(run_id)
    error = caught.value
    assert type(error) is Child
    assert (error.code, error.hint, str(error)) == (7, "look", "code 7")
    assert error.__cause__ is None
    with pytest.raises(MyError) as again:
        workflow.get_output(run_id).result()
    assert type(again.value) is Child


def test_a_note_names_the_step_and_tells_how_to_resume(run_id: str) -> None:
    with pytest.raises(KeyError) as caught:
        thrower.step(KeyError, "x").run(run_id)
    said = "\n".join(caught.value.__notes__)
    assert "'thrower'" in said
    assert f"workflow.resume({run_id!r})" in said
    assert "in thrower" in said  # the traceback within the step
    assert "raise kind" in said
    assert "weftline/workers" not in said
    assert workflow.get_status(run_id) == "FAILED"


def test_an_exception_of_a_cause_shows_it(run_id: str) -> None:
    @workflow.step
    def chained() -> None:
        try:
            raise ValueError("the cause")
        except ValueError as error:
            raise KeyError("the effect") from error

    with pytest.raises(KeyError) as caught:
        chained.step().run(run_id)
    assert "the cause" in "\n".join(caught.value.__notes__)


def test_a_later_process_gets_the_same_classes(scripts: Scripts) -> None:
    scripts.write(
        """
        from pathlib import Path
        from weftline import workflow

        class MyError(Exception):
            def __init__(self, code):
                super().__init__(f"code {code}")
                self.code = code

        class Unheard(Exception):
            pass

        @workflow.step
        def fragile():
            with open("tries", "a") as file:
                file.write("x\\n")
            if not Path("mended").exists():
                raise MyError(7)
            return "mended"
        """,
        "person.py",
    )
    first = """
        import person
        from weftline import workflow

        class Own(Exception):
            pass

        @workflow.step
        def own():
            raise Own("of the script itself")

        try:
            person.fragile.step().run("an id")
        except person.MyError as error:
            print(error.code)
        try:
            own.step().run("another id")
        except Own as error:
            print(error)
        """
    assert scripts.run(first) == "7\nof the script itself\n"
    second = """
        import sys
        import person
        from weftline import workflow

        class Own(Exception):
            pass

        for call in (workflow.resume, workflow.get_output):
            try:
                call("an id").result()
            except person.MyError as error:
                print(error.code, error.__notes__[-1])
            try:
                call("another id").result()
            except Own as error:
                print(error)
        Path("mended").touch()
        print(workflow.resume("an id").result())
        """
    said = scripts.run(second).splitlines()
    assert said[0] == said[2]
    assert said[0].startswith("7 Raised in step 'person.fragile' of run 'an id'.")
    assert said[1] == said[3] == "of the script itself"
    assert said[4] == "mended"
    assert len(notes(scripts.folder / "tries")) == 3
    # A process that does not know the classes still gets exceptions of their names.
    (scripts.folder / "mended").unlink()
    third = """
        from weftline import workflow

        try:
            workflow.get_output("another id").result()
        except Exception as error:
            print(type(error).__name__, error)
        """
    assert scripts.run(third) == "Own of the script itself\n"


class Unbuildable(Exception):
    """Cannot be made again: it holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Strange(Exception):
    """Cannot be made again: making it by what it says fails."""

    def __reduce__(self) -> Any:
        return _refuse_to_be_made, ()


def _refuse_to_be_made() -> None:
    raise RuntimeError("never")


@pytest.mark.parametrize("kind", [Unbuildable, Strange, SystemExit, KeyboardInterrupt])
def test_what_cannot_be_raised_here_is_told(run_id: str, kind: type[BaseException]) -> None:
    with pytest.raises(workflow.WorkflowExecutionError, match=r"'thrower'.*the text") as caught:
        thrower.step(kind, "the text").run(run_id)
    error = caught.value
    assert error.workflow_id == run_id
    assert error.error_type is not None
    assert error.error_type.rpartition(".")[2] == kind.__name__
    assert error.error_text is not None
    assert "the text" in error.error_text
    assert error.traceback is not None
    assert "raise kind" in error.traceback
    assert workflow.get_status(run_id) == "FAILED"


@pytest.mark.parametrize("kind", [Unbuildable, SystemExit])
def test_what_cannot_be_raised_here_can_be_caught(kind: type[BaseException]) -> None:
    value, error = thrower.options(catch_exceptions=True).step(kind, "the text").run()
    assert value is None
    assert type(error) is workflow.WorkflowExecutionError
    assert "the text" in str(error)


def test_sys_exit_counts_as_a_failure_and_is_tried_again(run_id: str) -> None:
    @workflow.step(max_retries=3)
    def leave() -> int:
        here = workflow.current()
        assert here is not None
        if here.attempt < 3:
            raise SystemExit(1)
        return here.attempt

    assert leave.step().run(run_id) == 3


def test_errors_of_weftline_within_a_step_come_out_as_themselves(run_id: str) -> None:
    @workflow.step
    def ask() -> None:
        workflow.get_status("nobody")

    with pytest.raises(workflow.WorkflowNotFoundError) as caught:
        ask.step().run(run_id)
    assert caught.value.workflow_id == "nobody"


def test_an_exception_group_comes_out_as_itself() -> None:
    @workflow.step
    def several() -> None:
        raise ExceptionGroup("several", [MyError(1, hint="a"), KeyError("b")])

    with pytest.raises(ExceptionGroup) as caught:
        several.step().run()
    first, second = caught.value.exceptions
    assert type(first) is MyError
    assert first.code == 1
    assert type(second) is KeyError


def test_an_error_with_a_large_load_comes_out_whole() -> None:
    with pytest.raises(ValueError) as caught:
        thrower.step(ValueError, "x" * 200_000).run()
    assert len(str(caught.value)) == 200_000


def test_a_failed_run_of_an_id_raises_anew_and_gets_another_try(run_id: str) -> None:
    @workflow.step
    def count() -> None:
        here = workflow.current()
        assert here is not None
        raise ValueError(f"attempt {here.attempt}")

    composition = count.step()
    for attempt in (1, 2, 3):
        with pytest.raises(ValueError, match=f"attempt {attempt}"):
            composition.run(run_id)
