"""Ray Workflow's behaviour, row by row: which results are stored, and recovery without them.

Each test is named after its row in Ray's own suite (`test_checkpoint.py` there); of the rows that
look into Ray's storage, what users see of them.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Scripts, kill_controller, note, notes
from weftline import workflow

np = pytest.importorskip("numpy")

SIZE = 2**21  # 16 MiB of int64: as any large value it is an object of its own
MEAN = (SIZE - 1) / 2


@workflow.step
def large(counter: Path) -> Any:
    note(counter, "large")
    return np.arange(SIZE)


@workflow.step
def identity(counter: Path, values: Any) -> Any:
    note(counter, "identity")
    return values


@workflow.step
def mean(counter: Path, values: Any) -> float:
    note(counter, "mean")
    return float(np.mean(values))


def chain(counter: Path, *checkpoint: bool) -> workflow.Workflow[Any]:
    """Three steps; `checkpoint` is for the first, the middle and the last one."""
    first, middle, last = checkpoint
    made = large.options(checkpoint=first, name="large").step(counter)
    kept = identity.options(checkpoint=middle, name="identity").step(counter, made)
    return mean.options(checkpoint=last, name="mean").step(counter, kept)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "checkpoint",
    [(False, False, False), (False, True, False), (True, True, True)],
    ids=["skip_all", "skip_partial", "full"],
)
def test_checkpoint_dag(run_id: str, tmp_path: Path, checkpoint: tuple[bool, ...]) -> None:
    """The rows `test_checkpoint_dag_skip_all`, `_skip_partial` and `_full`."""
    counter = tmp_path / "counter"
    assert chain(counter, *checkpoint).run_async(run_id).result() == MEAN
    assert workflow.get_status(run_id) == "SUCCESSFUL"
    assert workflow.resume(run_id).result() == MEAN  # the output of a run is always stored
    assert workflow.get_output(run_id).result() == MEAN
    assert notes(counter) == ["large", "identity", "mean"]
    for name, stored in zip(("large", "identity"), checkpoint, strict=False):
        options = workflow.get_metadata(run_id, name)["step_options"]
        assert options["checkpoint"] is stored


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "checkpoint",
    [(False, False, False), (False, True, False), (True, True, True)],
    ids=["skip", "partial", "full"],
)
def test_checkpoint_dag_recovery(run_id: str, tmp_path: Path, checkpoint: tuple[bool, ...]) -> None:
    counter, mended = tmp_path / "counter", tmp_path / "mended"

    @workflow.step
    def dying(value: float) -> float:
        if not mended.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    output = dying.options(checkpoint=checkpoint[2]).step(chain(counter, *checkpoint))
    with pytest.raises(workflow.WorkflowExecutionError):
        output.run(run_id)
    assert workflow.get_status(run_id) == "RESUMABLE"
    mended.touch()
    assert workflow.resume(run_id).result() == MEAN
    # The child died, and not the machine: what was not flushed is there all the same.
    assert notes(counter) == ["large", "identity", "mean"]


def test_what_was_not_stored_is_made_again_where_it_is_needed(scripts: Scripts) -> None:
    """A crash of the machine may lose it; here it is removed, after the controller was killed."""
    source = """
        import sys
        import weftline
        from weftline import workflow

        stored = sys.argv[1] == "stored"

        @workflow.step
        def made(name):
            note("counter", name)
            return name * 100_000

        @workflow.step
        def last(*values):
            note("counter", "last")
            if not Path("mended").exists():
                raise ValueError("broken")
            return [len(value) for value in values]

        first = made.options(checkpoint=stored).step("a")
        middle = made.options(checkpoint=stored).step("b")
        run = last.step(first, middle).run_async("a run")
        print(repr(run.exception()))
        """
    assert scripts.run(source, "volatile") == "ValueError('broken')\n"
    assert sorted(notes(scripts.folder / "counter")) == ["a", "b", "last"]
    kill_controller(scripts.home)
    lost = [path for path in (scripts.home / "objects").rglob("*") if path.is_file()]
    lost = [path for path in lost if 100_000 <= path.stat().st_size < 200_000]
    assert len(lost) == 2
    lost[0].unlink()
    (scripts.folder / "mended").touch()
    go_on = """
        from weftline import workflow

        print(workflow.resume("a run").result())
        """
    assert scripts.run(go_on) == "[100000, 100000]\n"
    counted = notes(scripts.folder / "counter")
    assert len(counted) == 5  # one of the two once more, and the last step
    assert counted[-1] == "last"
    assert counted[3] in ("a", "b")


@pytest.mark.usefixtures("home")
def test_steps_within_one_that_skips_skip_too(run_id: str) -> None:
    @workflow.step(name="inner")
    def inner(size: int) -> bytes:
        return bytes(size)

    @workflow.step(name="length")
    def length(value: bytes) -> int:
        return len(value)

    @workflow.step(name="outer", checkpoint=False)
    def outer() -> Any:
        return length.step(inner.step(100_000))

    assert outer.step().run(run_id) == 100_000
    assert workflow.get_metadata(run_id, "inner")["step_options"]["checkpoint"] is None
    assert workflow.get_output(run_id, name="outer").result() == 100_000


@pytest.mark.parametrize("wrong", [1, "yes", 0.0])
def test_checkpoint_is_a_bool_or_none(wrong: Any) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        large.options(checkpoint=wrong)
    large.options(checkpoint=None)
