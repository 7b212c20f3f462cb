"""A home that is copied elsewhere, and used there by another interpreter, when all else is gone."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.e2e.conftest import (
    PACKAGE,
    PATIENCE_S,
    Gate,
    controller_of,
    eventually,
    kill_controller,
    notes,
)
from weftline.core.environment import Environment
from weftline.driving.environment import environment_here, usable_environment
from weftline.errors import OtherPython
from weftline.filelocks import find_holder

PIECES = """
import dataclasses

@dataclasses.dataclass
class Weights:
    values: bytes

    def total(self):
        return sum(self.values)

def grow(weights, by):
    return Weights(weights.values + bytes([by]) * 100_000)
"""

# The third step ends whoever drives the run, the first time that it comes so far.
PROJECT = """
import os, signal, sys
from pathlib import Path
from pieces import Weights, grow
from weftline import workflow

OUT = sys.argv[1]

def note(text):
    with open(OUT, "a") as file:
        file.write(text + "\\n")

@workflow.step(name="load")
def load():
    note("load")
    print("loading")
    return Weights(bytes([1]) * 100_000)

@workflow.step(name="train")
def train(weights):
    note("train")
    return grow(weights, 2)

@workflow.step(name="judge")
def judge(weights, gate):
    note("judge")
    if Path(OUT).read_text().split().count("judge") == 1:
        if gate:
            os.read(os.open(os.path.join(gate, "go"), os.O_RDWR), 1)
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    return weights

@workflow.step(name="report")
def report(weights):
    note("report")
    return [weights.total(), len(weights.values)]

def whole(gate=None):
    return report.step(judge.step(train.step(load.step()), gate))

if sys.argv[2] == "run":
    whole().run("r")
else:
    whole(sys.argv[3]).run_async("r")
"""


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two interpreters in places of their own, which have what Weftline needs."""
    folder = tmp_path_factory.mktemp("pythons")
    yield [make_python(folder / name) for name in ("first", "second")]
    shutil.rmtree(folder)


def make_python(folder: Path) -> Path:
    venv.create(folder, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    found = [PACKAGE, str(Path(msgspec.__file__).parents[1])]
    Path(packages, "here.pth").write_text("\n".join(found) + "\n")
    return folder / "bin" / "python"


class Place:
    """A folder with a home, where an interpreter runs what there is to run."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.home, self.python = folder, folder / "home", python
        folder.mkdir(parents=True, exist_ok=True)
        ours = ("WEFTLINE_", "PYTHON")
        self._environ = {n: v for n, v in os.environ.items() if not n.startswith(ours)}
        self._environ |= {"WEFTLINE_HOME": str(self.home), "WEFTLINE_NUM_CPUS": "2"}

    @contextmanager
    def started(self, *words: str | Path) -> Iterator["subprocess.Popen[str]"]:
        """A program, which is killed if it is not over in the end."""
        with subprocess.Popen(
            [str(self.python), *map(str, words)],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *words: str | Path, status: int = 0) -> tuple[str, str]:
        with self.started(*words) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == status, out + err
        return out, err

    def weft(self, *words: str, status: int = 0) -> tuple[str, str]:
        return self.run("-m", "weftline.cli.main", *words, status=status)

    def move_to(self, folder: Path, python: Path) -> "Place":
        """The home in another folder, used by another interpreter; what was here is gone."""
        to = Place(folder, python)
        subprocess.run(["cp", "-r", self.home, to.home], check=True)
        shutil.rmtree(self.folder)
        return to


@pytest.fixture
def started(tmp_path: Path, pythons: list[Path]) -> Iterator[Place]:
    """A project and its home."""
    # A copy, since a test may remove it with the project that has it.
    python = make_python(tmp_path / "project" / ".venv")
    place = Place(tmp_path / "project", python)
    (place.folder / "pieces.py").write_text(PIECES)
    (place.folder / "flow.py").write_text(PROJECT)
    yield place
    kill_controller(place.home)


def elsewhere(tmp_path: Path, length: int) -> Path:
    """A folder whose home has a path of so many characters, or a little more."""
    folder = tmp_path / "elsewhere"
    while len(str(folder / "home")) < length:
        folder /= "deep"
    return folder


RESULT = f"[{100_000 + 200_000}, 200000]"


@pytest.mark.parametrize("length", [0, 150], ids=["short", "long"])
def test_a_run_whose_driver_was_killed_goes_on_in_a_copy_of_its_home(
    started: Place, pythons: list[Path], tmp_path: Path, length: int
) -> None:
    out = tmp_path / "out"
    started.run("flow.py", out, "run", status=-signal.SIGKILL)
    assert notes(out) == ["load", "train", "judge"]
    assert any(path.name.endswith("-wal") for path in started.home.iterdir())
    old = started.python
    place = started.move_to(elsewhere(tmp_path, length), pythons[1])
    said, err = place.weft("runs", "resume", "r", "-q")
    assert said == f"{RESULT}\n"
    gone = f"the run's interpreter {old} is gone; {place.python} is used instead"
    assert f"warning: {gone}\n" in err
    assert notes(out) == ["load", "train", "judge", "judge", "report"]
    assert f"warning   {gone}\n" in place.weft("runs", "show", "r")[0]
    assert "load | loading\n" in place.weft("runs", "logs", "r")[0]
    said, _ = place.weft("doctor", "--full")
    assert "all is well" in said
    # Nothing was written elsewhere.
    assert not started.folder.exists()


@pytest.mark.parametrize("length", [0, 150], ids=["short", "long"])
def test_a_detached_run_goes_on_in_a_copy_of_its_home(
    started: Place, pythons: list[Path], tmp_path: Path, gate: Gate, length: int
) -> None:
    out = tmp_path / "out"
    started.run("flow.py", out, "start", gate.path)
    eventually(lambda: "judge" in notes(out), "the third step runs")
    pid = controller_of(started.home)
    assert pid is not None
    gate.open()
    eventually(lambda: controller_of(started.home) is None, "the controller was killed")
    place = started.move_to(elsewhere(tmp_path, length), pythons[1])
    assert (place.home / "controller.json").exists()
    try:
        assert controller_of(place.home) is None
        said, _ = place.run(
            "-c", "from weftline import workflow; print(workflow.resume('r').result(60))"
        )
        assert said == f"{RESULT}\n"
        shown, _ = place.weft("runs", "show", "r")
        assert f"interpreter {started.python} is gone; {place.python} is used instead" in shown
        assert notes(out) == ["load", "train", "judge", "judge", "report"]
        controller = controller_of(place.home)
        assert controller not in (None, pid)
        assert "SUCCESSFUL" in place.weft("runs", "list")[0]
    finally:
        kill_controller(place.home)


def test_a_copy_of_a_home_that_is_in_use_leaves_the_home_itself_alone(
    tmp_path: Path, pythons: list[Path], gate: Gate
) -> None:
    here = Place(tmp_path / "here", pythons[0])
    (here.folder / "flow.py").write_text(
        "import os, sys\n"
        "from weftline import workflow\n"
        "@workflow.step\n"
        "def wait(gate):\n"
        "    file = os.open(gate + '/arrived', os.O_RDWR)\n"
        "    os.write(file, f'{os.getpid()}\\n'.encode())\n"
        "    os.read(os.open(gate + '/go', os.O_RDWR), 1)\n"
        "    return 'done'\n"
        "if __name__ == '__main__': print(wait.step(sys.argv[1]).run('r'))\n"
    )
    with here.started("flow.py", gate.path) as driver:
        (child,) = map(int, gate.wait_for())
        there = Place(tmp_path / "there", pythons[1])
        subprocess.run(["cp", "-r", here.home, there.home], check=True)
        (lock,) = (here.home / "engines").glob("*.lock")
        assert find_holder(lock) == driver.pid
        resume = ("-m", "weftline.cli.main", "runs", "resume", "r", "-q")
        with there.started(*resume) as copied:
            (other,) = map(int, gate.wait_for())
            assert child != other
            assert os.path.exists(f"/proc/{child}")
            gate.open(2)
            assert copied.communicate(timeout=PATIENCE_S)[0] == "done\n"
        assert driver.communicate(timeout=PATIENCE_S)[0] == "done\n"


# -- which interpreter and folder are used ------------------------------------------------------


def test_what_is_there_is_used_as_it_was_recorded(tmp_path: Path) -> None:
    recorded = Environment(
        python=sys.executable, sys_path=("/gone", "/usr"), cwd=str(tmp_path), version="3.99"
    )
    assert usable_environment(recorded) == (recorded, ())


@pytest.mark.parametrize("version", ["", environment_here().version])
def test_ones_own_is_used_where_the_interpreter_is_gone(tmp_path: Path, version: str) -> None:
    gone = Environment(
        python="/gone/python", sys_path=("/gone",), cwd=str(tmp_path), version=version
    )
    here = environment_here()
    text = f"the run's interpreter /gone/python is gone; {sys.executable} is used instead"
    assert usable_environment(gone) == (here, (text,))


def test_another_python_is_refused_where_the_interpreter_is_gone(tmp_path: Path) -> None:
    gone = Environment(python="/gone/python", sys_path=(), cwd=str(tmp_path), version="3.99")
    with pytest.raises(OtherPython, match=r"/gone/python is gone, .* Python 3\.99 alone: resume"):
        usable_environment(gone)


def test_where_the_folder_is_gone_packages_go_with_their_interpreter(
    tmp_path: Path, pythons: list[Path]
) -> None:
    here = environment_here()
    project, packages = str(tmp_path / "gone"), str(tmp_path)
    other = Environment(
        python=str(pythons[0]), sys_path=(project, packages), cwd=project, version=here.version
    )
    used, (text,) = usable_environment(other)
    assert used == msgspec.structs.replace(other, sys_path=(packages,), cwd=here.cwd)
    assert text == f"the run's folder {project} is gone; {here.cwd} is used instead"
    same = msgspec.structs.replace(other, python=sys.executable)
    assert usable_environment(same)[0] == here
