"""The file that one process holds: who has it, and what happens when it is removed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import weftline
from weftline.filelocks import ShortName, hold_file, holder_of

SOURCE = str(Path(weftline.__file__).parents[1])
HOLD = """
import sys
from pathlib import Path
from weftline.filelocks import hold_file
held = hold_file(Path(sys.argv[1]))
print(held is not None, flush=True)
sys.stdin.read()
"""


Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lock"


@pytest.fixture
def other(path: Path) -> Iterator[Start]:
    """Starts a process that tries to hold the file."""
    with ExitStack() as started:

        def start() -> "subprocess.Popen[str]":
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": SOURCE},
            )
            return started.enter_context(process)

        yield start


def holds(process: "subprocess.Popen[str]") -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "True\n"


def test_one_holds_it_until_it_lets_go(path: Path, other: Start) -> None:
    held = hold_file(path)
    assert held is not None
    assert holder_of(path) == os.getpid()
    assert hold_file(path) is None  # and asking has not let go of it
    process = other()
    assert not holds(process)
    process.communicate()
    held.close()
    assert not path.exists()
    assert holder_of(path) is None
    again = hold_file(path)
    assert again is not None
    again.close()


def test_it_is_free_when_its_holder_was_killed(path: Path, other: Start) -> None:
    process = other()
    assert holds(process)
    assert holder_of(path) == process.pid
    assert hold_file(path) is None
    process.kill()
    process.communicate()
    held = hold_file(path)
    assert held is not None
    held.close()


def test_a_holder_sees_that_the_file_is_another_one(path: Path) -> None:
    held = hold_file(path)
    assert held is not None
    seen = [held.is_there]
    path.unlink()
    seen.append(held.is_there)
    path.write_text("another one's")
    seen.append(held.is_there)
    assert seen == [True, False, False]
    held.close()
    assert path.read_text() == "another one's"


def test_a_forked_child_holds_nothing(path: Path) -> None:
    held = hold_file(path)
    assert held is not None
    child = os.fork()
    if child == 0:
        held.close()  # which is none of its business
        os._exit(0 if holder_of(path) == os.getppid() and path.exists() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held.is_there
    held.close()


def test_a_short_name_leads_to_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    with ShortName(folder) as short:
        assert len(short) < 40
        Path(short, "x").write_text("here")
    assert (folder / "x").read_text() == "here"
