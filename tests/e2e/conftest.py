"""Real processes and real files: one home for all tests of this process, scripts for the rest.

Nothing here sleeps to be in time: steps and tests meet at gates, which are pipes.
"""

import inspect
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

import weftline
from weftline import workflow
from weftline.app import close_home
from weftline.filelocks import find_holder

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long anything may take before a test gives up on it; none waits for it to pass."""

GPUS, CPUS = 2, 4

PACKAGE = str(Path(weftline.__file__).parents[1])
"""Where programs find Weftline."""


# -- what steps call ----------------------------------------------------------------------------


def note(path: str | Path, text: str = "x") -> None:
    """Append a line, so that executions can be counted across processes."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, (text + "\n").encode())
    os.close(file)


def pass_gate(gate: str | Path, who: str = "x") -> None:
    """Report at the gate, and go on when the test lets one through."""
    arrived = os.open(os.path.join(gate, "arrived"), os.O_RDWR)
    os.write(arrived, (who + "\n").encode())
    os.close(arrived)
    go = os.open(os.path.join(gate, "go"), os.O_RDWR)
    os.read(go, 1)
    os.close(go)


# -- what tests call ----------------------------------------------------------------------------


def notes(path: str | Path) -> list[str]:
    """The lines that were noted; none when nobody came that far."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def in_background(function: Callable[..., T], *args: Any, **kwargs: Any) -> "Future[T]":
    """Call it in a thread of its own."""
    future: Future[T] = Future()

    def main() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=main, daemon=True).start()
    return future


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait until something that another process does has happened."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {PATIENCE_S:g} s: {what}")
        time.sleep(0.005)


def controller_of(home: str | Path) -> int | None:
    """The process that drives the detached runs of a home, if there is one."""
    return find_holder(Path(home) / "controller.lock")


def children_of(pid: int) -> list[int]:
    """The processes that this one has started and that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                stat = (entry / "stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def kill_controller(home: str | Path) -> None:
    """End it and whatever it has started, as a crash of the machine would; none is no error."""
    controller = controller_of(home)
    if controller is None:
        return
    victims = [controller, *children_of(controller)]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(_is_alive, victims)), "they are gone")


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class Gate:
    """Where steps of any process report, and wait to be let through one by one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.path = str(folder)
        for name in ("arrived", "go"):
            os.mkfifo(folder / name)
        # Held open for as long as this process lives: late comers find the gate as it was left.
        self._arrived = os.open(folder / "arrived", os.O_RDWR | os.O_NONBLOCK)
        self._go = os.open(folder / "go", os.O_RDWR)
        self._text = b""

    def wait_for(self, count: int = 1) -> list[str]:
        """The next `count` who arrived."""
        deadline = time.monotonic() + PATIENCE_S
        while self._text.count(b"\n") < count:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._arrived], [], [], left)[0]:
                raise TimeoutError(f"{count} should have come to the gate: {self._text!r} did")
            self._text += os.read(self._arrived, 65536)
        *names, self._text = self._text.split(b"\n", count)
        return [name.decode() for name in names]

    def nobody_else(self) -> bool:
        """Whether nobody has arrived who was not waited for."""
        return not self._text and not select.select([self._arrived], [], [], 0)[0]

    def open(self, count: int = 1) -> None:
        """Let so many through, those that come later included."""
        os.write(self._go, b"." * count)


class Scripts:
    """Python programs that run in processes of their own, with a home of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self._started: list[subprocess.Popen[str]] = []
        self._count = 0

    def write(self, source: str, name: str | None = None) -> Path:
        """A program, or a module that programs in the same folder can import."""
        self._count += 1
        path = self.folder / (name or f"program_{self._count}.py")
        path.write_text(textwrap.dedent(source))
        return path

    def start(
        self,
        source: str | Path,
        *args: object,
        strict: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Begin a program; `strict` makes an error of each warning."""
        path = source if isinstance(source, Path) else self.write(_PRELUDE + _dedented(source))
        command = [sys.executable, *(["-W", "error"] if strict else []), str(path)]
        process = subprocess.Popen(
            [*command, *map(str, args)],
            cwd=self.folder,
            env=_clean_environment()
            | {"WEFTLINE_HOME": str(self.home), "PYTHONPATH": PACKAGE}
            # Controllers that programs leave behind do not fill the machine.
            | {"WEFTLINE_CONTROLLER_IDLE_S": "5"}
            | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(
        self,
        source: str | Path,
        *args: object,
        strict: bool = True,
        quiet: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """What a program prints; it must end well, and say nothing on stderr if `quiet`."""
        process = self.start(source, *args, strict=strict, variables=variables)
        return self.end(process, quiet=quiet)[0]

    @staticmethod
    def end(process: "subprocess.Popen[str]", *, quiet: bool = True) -> tuple[str, str]:
        """What a program that was started prints on stdout and stderr; it must end well."""
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, f"{out}\n{err}"
        assert not (quiet and err), err
        return out, err

    def close(self) -> None:
        started, self._started = self._started, []
        for process in started:
            is_well = process.poll() == 0
            process.kill()
            said = process.communicate()
            if not is_well:
                print(*said)  # in case the test has failed: this may tell why
        kill_controller(self.home)


_PRELUDE = "\n".join(
    ["import os", "from pathlib import Path", *map(inspect.getsource, (note, pass_gate)), ""]
)


def _dedented(source: str) -> str:
    return textwrap.dedent(source)


def _clean_environment() -> dict[str, str]:
    """This process's variables, but for those that would change how Weftline or Python acts."""
    ours = ("WEFTLINE_", "PYTHON", "CUDA_VISIBLE_DEVICES", "PYTEST_", "COV_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


# -- fixtures -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The one home of this process: a process has one for life."""
    path = tmp_path_factory.mktemp("shared") / "home"
    workflow.init(storage=path, num_cpus=CPUS, num_gpus=GPUS, resources={"licence": 2})
    yield path
    close_home()
    kill_controller(path)


@pytest.fixture
def run_id(request: pytest.FixtureRequest) -> str:
    """An id that no other test uses."""
    return str(request.node.nodeid)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    made.open(4096)  # nobody is left waiting by a test that failed


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    made = Scripts(tmp_path)
    yield made
    made.close()
