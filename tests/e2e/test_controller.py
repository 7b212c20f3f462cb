"""The controller of a home: who starts it, who outlives whom, and what ends it."""

import json
import os
import select
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import PACKAGE, PATIENCE_S, Gate, Scripts, eventually, notes
from weftline.adapters.journal.locks import writer_lock
from weftline.app import App
from weftline.config import load_settings
from weftline.control import (
    CARD,
    LOCK,
    MAX_FIRST_BYTES,
    SOCKET,
    Accepted,
    Declared,
    Hello,
    Ping,
    log_path,
)
from weftline.core.events import RunStatus
from weftline.core.values import pack_inline
from weftline.errors import ControllerUnavailable, WorkflowNotResumableError
from weftline.filelocks import hold_file, holder_of
from weftline.link.contact import reach
from weftline.link.link import Link
from weftline.ports.journal import RunRecord
from weftline.wire import MARKER, frame

IDLE_S = {"WEFTLINE_CONTROLLER_IDLE_S": "60"}

FLOW = """
    import sys
    from weftline import workflow

    @workflow.step
    def first(gate):
        note("first")
        return 1

    @workflow.step
    def second(value, gate):
        note("second began")
        pass_gate(gate, "second")
        note("second")
        return value + 1

    def begin(run_id, gate):
        return second.step(first.step(gate), gate).run_async(run_id)
"""


class Home:
    """A home of its own, seen by this process, and whoever serves it."""

    def __init__(self, scripts: Scripts) -> None:
        self.path, self.scripts = scripts.home, scripts
        self.started: list[subprocess.Popen[str]] = []
        self._app: App | None = None

    @property
    def app(self) -> App:
        if self._app is None:
            self._app = App(load_settings({"storage": str(self.path)}, environ={}))
        return self._app

    @property
    def link(self) -> Link:
        """This process's link to the controller."""
        self.app.journal.change_count()  # makes the home
        link = self.app.link
        assert link is not None
        return link

    @property
    def pid(self) -> int | None:
        """The controller's process."""
        return holder_of(self.path / LOCK)

    @property
    def card(self) -> dict[str, Any]:
        card: dict[str, Any] = json.loads((self.path / CARD).read_text())
        return card

    def run(self, run_id: str) -> RunRecord:
        return self.app.records.get_run(run_id)

    def wait_for(self, run_id: str, status: RunStatus) -> None:
        eventually(lambda: self.run(run_id).summary.status is status, f"{run_id} is {status}")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End the controller by a signal; its id."""
        pid = self.pid
        assert pid is not None
        handle = os.pidfd_open(pid)
        os.kill(pid, number)
        assert select.select([handle], [], [], PATIENCE_S)[0]
        os.close(handle)
        return pid

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """`weft controller`, as a person starts it."""
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "weftline.cli.main", "controller", *arguments],
            cwd=self.scripts.folder,
            env=os.environ | {"WEFTLINE_HOME": str(self.path), "PYTHONPATH": PACKAGE} | variables,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def close(self) -> None:
        """End whoever serves the home, as long as it exists."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
            if process.stderr is not None and not process.stderr.closed:
                process.communicate(timeout=PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while self.path.exists() and (pid := self.pid) is not None:
            for number in (signal.SIGCONT, signal.SIGTERM):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            assert time.monotonic() < deadline, f"controller {pid} does not end"
            time.sleep(0.02)
        if self._app is not None:
            self._app.close()


@pytest.fixture
def home(scripts: Scripts) -> Iterator[Home]:
    made = Home(scripts)
    yield made
    scripts.close()  # its programs would start another one
    made.close()


def begin(home: Home, gate: Gate, run_id: str = "r") -> None:
    """Start a run from a program that ends, and see its second step begin."""
    home.scripts.run(f"{FLOW}\n    begin({run_id!r}, {gate.path!r})", variables=IDLE_S)
    assert gate.wait_for(1) == ["second"]


# -- who starts it, and how ---------------------------------------------------------------------


def test_a_run_goes_on_when_its_driver_has_ended(home: Home, gate: Gate) -> None:
    begin(home, gate)
    assert home.run("r").summary.status is RunStatus.RUNNING
    gate.open()
    home.wait_for("r", RunStatus.SUCCESSFUL)
    assert home.app.results.wait_for("r", None, 10.0) == 2


def test_a_run_goes_on_when_its_driver_was_killed(home: Home, gate: Gate) -> None:
    driver = home.scripts.start(f"{FLOW}\n    begin('r', {gate.path!r}).result()", variables=IDLE_S)
    gate.wait_for(1)
    driver.kill()
    driver.wait()
    gate.open()
    home.wait_for("r", RunStatus.SUCCESSFUL)


def test_a_controller_started_on_demand_owes_nothing_to_who_started_it(
    home: Home, gate: Gate
) -> None:
    begin(home, gate)
    pid = home.card["pid"]
    assert pid == home.pid
    with open(f"/proc/{pid}/stat") as file:
        parent, _, session = map(int, file.read().rpartition(")")[2].split()[1:4])
    assert session != os.getsid(0)
    assert parent != os.getpid()
    assert os.readlink(f"/proc/{pid}/cwd") == str(home.path)
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    for number in (1, 2):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == str(log_path(home.path))
    with open(f"/proc/{pid}/status") as file:
        assert "Umask:\t0077" in file.read()
    for name in (SOCKET, LOCK, CARD):
        assert stat.S_IMODE((home.path / name).stat().st_mode) == 0o600
    gate.open()


def test_a_step_may_start_the_controller_which_outlives_it(home: Home, gate: Gate) -> None:
    home.scripts.run(
        f"""{FLOW}
    @workflow.step(num_gpus=1)
    def outer(gate):
        begin("inner", gate)

    workflow.init(num_gpus=1)
    outer.step({gate.path!r}).run("outer")
    """,
        variables=IDLE_S,
    )
    gate.wait_for(1)
    with open(f"/proc/{home.pid}/environ", "rb") as file:
        environ = file.read().decode()
    assert f"{MARKER}=" not in environ
    assert "CUDA_VISIBLE_DEVICES=" not in environ
    gate.open()
    home.wait_for("inner", RunStatus.SUCCESSFUL)


def test_of_two_controllers_a_person_starts_one_wins(home: Home) -> None:
    both = [home.start(), home.start()]
    lost = None
    while lost is None:
        lost = next((each for each in both if each.poll() is not None), None)
        time.sleep(0.005)
    (won,) = [each for each in both if each is not lost]
    _, said = lost.communicate()
    assert lost.returncode == 1
    assert f"controller pid {won.pid} serves this home already" in said
    eventually((home.path / CARD).exists, "the controller serves")
    assert home.card["pid"] == won.pid
    won.terminate()
    _, said = won.communicate(timeout=PATIENCE_S)
    assert won.returncode == 0, said
    assert not (home.path / CARD).exists()
    assert not (home.path / SOCKET).exists()
    assert home.pid is None


def test_one_that_was_started_on_demand_and_lost_ends_quietly(home: Home) -> None:
    home.path.mkdir(mode=0o700)
    held = hold_file(home.path / LOCK)
    assert held is not None
    ours, theirs = os.pipe()
    code = f"import os; os.dup2({theirs}, 3); from weftline.controller.demand import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"WEFTLINE_HOME": str(home.path), "PYTHONPATH": PACKAGE},
        pass_fds=[theirs],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(theirs)
    assert os.read(ours, 64) == b"taken"
    os.close(ours)
    assert done.returncode == 0, done.stderr
    assert f"controller pid {os.getpid()} serves this home already" in done.stderr
    held.close()


def test_many_programs_at_once_get_one_controller(home: Home) -> None:
    started = [
        home.scripts.start(
            f"""
            from weftline import workflow

            @workflow.step
            def number():
                return {n}

            print(number.step().run_async().result())
            """,
            variables=IDLE_S,
        )
        for n in range(4)
    ]
    assert [home.scripts.end(each)[0] for each in started] == [f"{n}\n" for n in range(4)]
    engines = {record.engine for record in home.app.journal.list_runs()}
    assert engines == {home.card["engine"]}


def test_a_controller_that_cannot_start_is_told_with_its_reason(home: Home) -> None:
    home.path.mkdir(mode=0o700)
    (home.path / "weftline.toml").write_text("num_cpus = 'many'\n")
    said = r"ended at once: see .*weftline.toml: num_cpus='many'"
    with pytest.raises(ControllerUnavailable, match=said):
        reach(home.path, "0.1.0", Declared(), {"WEFTLINE_HOME": str(home.path)})


# -- who ends, and what becomes of the runs -----------------------------------------------------


def test_the_next_call_replaces_a_killed_controller_and_goes_on(home: Home, gate: Gate) -> None:
    begin(home, gate)
    killed = home.kill()
    assert home.app.owners.status_of(home.run("r")) is RunStatus.RESUMABLE
    said = home.scripts.run(
        """
        from weftline import workflow

        @workflow.step
        def other():
            return "other"

        print(other.step().run_async().result())
        """,
        variables=IDLE_S,
    )
    assert said == "other\n"
    assert home.pid != killed
    assert gate.wait_for(1) == ["second"]  # tried again: it had not ended
    gate.open(2)
    home.wait_for("r", RunStatus.SUCCESSFUL)
    assert notes(home.scripts.folder / "first") == ["x"]  # it had ended: it does not run again
    assert notes(home.scripts.folder / "second") == ["x"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_asks_for_the_output_of_a_detached_run_replaces_its_controller(
    home: Home, gate: Gate, number: signal.Signals
) -> None:
    begin(home, gate)
    ended = home.kill(number)
    assert home.app.owners.status_of(home.run("r")) is RunStatus.RESUMABLE
    asking = home.scripts.start(
        """
        from weftline import workflow

        print(workflow.get_output("r").result())
        """,
        variables=IDLE_S,
    )
    assert gate.wait_for(1) == ["second"]  # tried again: it had not ended
    assert home.pid not in (None, ended)
    gate.open(2)
    assert home.scripts.end(asking)[0] == "2\n"
    assert notes(home.scripts.folder / "first") == ["x"]


def test_a_controller_started_by_a_person_goes_on_with_what_was_left(
    home: Home, gate: Gate
) -> None:
    begin(home, gate)
    home.kill()
    gate.open(2)
    process = home.start("--until-idle", "0")
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "runs that have no engine any more: 1" in said
    assert home.app.results.wait_for("r", None, 0.0) == 2
    assert notes(home.scripts.folder / "first") == ["x"]


def test_who_waits_for_a_result_goes_on_waiting_when_the_controller_is_killed(
    home: Home, gate: Gate
) -> None:
    driver = home.scripts.start(
        f"{FLOW}\n    print(begin('r', {gate.path!r}).result())", variables=IDLE_S
    )
    gate.wait_for(1)
    killed = home.kill()
    gate.wait_for(1)  # the driver has started another one, which tries the step again
    assert home.pid not in (None, killed)
    gate.open(2)
    assert home.scripts.end(driver)[0] == "2\n"


def test_a_submission_that_was_not_answered_is_said_again(home: Home, gate: Gate) -> None:
    """The controller is killed while it has the submission, and has not recorded it."""
    pid = home.link.ensure()
    lock = writer_lock(home.path / "writer.lock")
    with lock:  # nobody can commit
        driver = home.scripts.start(
            f"""{FLOW}
    from weftline.app import home as open_home
    open_home().link.ensure()
    note("connected")
    print(begin('r', {gate.path!r}).result())
    """,
            variables=IDLE_S,
        )
        connected = home.scripts.folder / "connected"
        eventually(lambda: notes(connected), "the driver is connected")
        eventually(lambda: is_waiting_for_lock(pid), "the controller wants to write")
        home.kill()
    lock.close()
    gate.wait_for(1)
    gate.open()
    assert home.scripts.end(driver)[0] == "2\n"
    assert [each.run_id for each in home.app.journal.list_runs()] == ["r"]


def is_waiting_for_lock(pid: int) -> bool:
    with open("/proc/locks") as file:
        return any("-> POSIX" in line and f" {pid} " in line for line in file)


def test_a_stopped_controller_gives_a_clear_error_that_names_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = home.link.ensure()
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr("weftline.link.contact.ANSWER_WITHIN_S", 0.2)
    with pytest.raises(
        ControllerUnavailable, match=rf"process {pid}\) does not answer.*kill -CONT"
    ):
        reach(home.path, "0.1.0", Declared(), {})
    os.kill(pid, signal.SIGCONT)
    contact, welcome = reach(home.path, "0.1.0", Declared(), {})
    assert welcome.pid == pid
    contact.close()


def test_a_controller_that_is_stopped_later_gives_the_same_error(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = home.link
    pid = link.ensure()
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr("weftline.link.link.ANSWER_WITHIN_S", 0.2)
    with pytest.raises(ControllerUnavailable, match=f"process {pid}"):
        link.adopt(["r"], is_resume=True)


def test_a_terminated_controller_lets_its_runs_go_and_removes_what_is_its_own(
    home: Home, gate: Gate
) -> None:
    begin(home, gate)
    pid = home.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: home.pid is None, "it ends")
    assert home.run("r").summary.status is RunStatus.RESUMABLE
    assert home.run("r").engine is None
    assert not (home.path / SOCKET).exists()
    gate.open(2)
    process = home.start("--until-idle", "0")  # what was let go is taken up like what was lost
    process.communicate(timeout=PATIENCE_S)
    assert home.run("r").summary.status is RunStatus.SUCCESSFUL


def test_a_controller_ends_when_there_is_nothing_to_do(home: Home) -> None:
    home.scripts.run(
        """
        import os, sys
        from weftline import workflow
        from weftline.app import home

        @workflow.step
        def number():
            return 1

        print(number.step().run_async().result())
        handle = os.pidfd_open(home().link.ensure())
        # A driver that says nothing does not keep it.
        import select
        assert select.select([handle], [], [], 60)[0]
        assert number.step().run_async().result() == 1  # it is started again when it is needed
        """,
        variables={"WEFTLINE_CONTROLLER_IDLE_S": "0.2"},
        quiet=False,
    )


def test_a_run_that_sleeps_keeps_the_controller(home: Home) -> None:
    home.scripts.run(
        """
        from weftline import workflow

        @workflow.step
        def after(value):
            return "awake"

        after.step(workflow.sleep(1.5)).run_async("r")
        """,
        variables={"WEFTLINE_CONTROLLER_IDLE_S": "0.2"},
    )
    first = home.card["engine"]
    home.wait_for("r", RunStatus.SUCCESSFUL)
    assert home.run("r").engine == first
    assert home.app.results.wait_for("r", None, 0.0) == "awake"


SERVE = """
    import sys
    from weftline.app import App
    from weftline.config import load_settings
    from weftline.controller import controller as part
    {change}
    app = App(load_settings({{}}))
    try:
        part.Controller(app, {options}).serve(lambda: print("ready", flush=True))
    finally:
        app.close()
    """


def serve(home: Home, change: str = "", options: str = "") -> "subprocess.Popen[str]":
    """A controller with something changed, from Python."""
    process = home.scripts.start(SERVE.format(change=change, options=options))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_controller_ends_when_its_home_is_replaced(home: Home) -> None:
    process = serve(home, "part.LOOK_AT_HOME_S = 0.05; part.CHECK_S = 0.05")
    home.path.rename(home.path.with_name("elsewhere"))
    home.path.mkdir()
    (home.path / SOCKET).write_text("another one's")
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert f"{home.path / LOCK} was removed or replaced" in said
    assert (home.path / SOCKET).read_text() == "another one's"


# -- versions -----------------------------------------------------------------------------------


def test_an_older_controller_steps_down_for_a_newer_driver(home: Home, gate: Gate) -> None:
    old = serve(home, options="version='0.0.9'")
    begin(home, gate)  # its driver made the old one end, and started its own
    assert old.wait(PATIENCE_S) == 0
    assert home.card["version"] != "0.0.9"
    gate.open()
    home.wait_for("r", RunStatus.SUCCESSFUL)


def test_what_an_older_controller_drove_goes_on_with_the_newer_one(home: Home, gate: Gate) -> None:
    old = serve(home, options="version='0.1.0.dev1'")
    contact, _ = reach(home.path, "0.1.0.dev1", Declared(), {})
    home.scripts.start(
        f"""
    from weftline.link import link
    link.__version__ = "0.1.0.dev1"
    link.Link.__init__.__kwdefaults__["version"] = "0.1.0.dev1"
    {FLOW}
    begin("r", {gate.path!r})
    """
    ).wait(PATIENCE_S)
    gate.wait_for(1)
    assert old.poll() is None
    contact.close()
    home.link.ensure()  # of this, newer, version
    assert old.wait(PATIENCE_S) == 0
    gate.wait_for(1)
    gate.open(2)
    home.wait_for("r", RunStatus.SUCCESSFUL)


def test_a_newer_controller_serves_who_speaks_its_protocol(home: Home) -> None:
    new = serve(home, options="version='99.0'")
    contact, welcome = reach(home.path, "0.1.0", Declared(), {})
    assert (welcome.version, welcome.pid) == ("99.0", new.pid)
    contact.close()


def test_a_newer_controller_of_another_protocol_is_a_clear_error(home: Home) -> None:
    serve(home, "part.PROTOCOL = 2", "version='99.0'")
    with pytest.raises(ControllerUnavailable, match=r"is Weftline 99\.0.*upgrade weftline here"):
        reach(home.path, "0.1.0", Declared(), {})


# -- what comes over the socket -----------------------------------------------------------------


def connect(home: Home) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(PATIENCE_S)
    made.connect(str(home.path / SOCKET))
    return made


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 64,
        struct.pack("!I", MAX_FIRST_BYTES + 1),
        struct.pack("!I", 3) + b"\xc1\xc1\xc1",
        bytes(frame(Ping())),
        bytes(frame(Accepted(1))),
        bytes(frame(Hello(1, "0.1.0")) * 2),
    ],
    ids=["http", "zeros", "too long", "no message", "no hello", "not for it", "twice"],
)
def test_what_cannot_be_understood_ends_its_connection_and_nothing_else(
    home: Home, content: bytes
) -> None:
    pid = home.link.ensure()
    with connect(home) as foreign:
        foreign.sendall(content)
        while foreign.recv(4096):
            pass
    contact, welcome = reach(home.path, "0.1.0", Declared(), {})
    assert welcome.pid == pid
    contact.close()


def test_half_a_message_holds_up_nobody(home: Home) -> None:
    pid = home.link.ensure()
    with connect(home) as slow:
        slow.sendall(bytes(frame(Hello(1, "0.1.0")))[:7])
        contact, welcome = reach(home.path, "0.1.0", Declared(), {})
        assert welcome.pid == pid
        contact.close()


# -- limits and resources -----------------------------------------------------------------------


def test_limits_hold_runs_back_and_refuse_them(home: Home, gate: Gate) -> None:
    said = home.scripts.run(
        f"""{FLOW}
    import queue
    workflow.init(max_running_workflows=1, max_pending_workflows=1)
    running, pending = begin("a", {gate.path!r}), begin("b", {gate.path!r})
    print(running.status(), pending.status())
    try:
        begin("c", {gate.path!r})
    except queue.Full as error:
        print(type(error).__name__)
    """,
        variables=IDLE_S,
    )
    assert said == "RUNNING PENDING\nWorkflowQueueFull\n"
    assert home.app.journal.find_run("c") is None
    gate.wait_for(1)
    gate.open()
    gate.wait_for(1)
    assert home.run("a").summary.status is RunStatus.SUCCESSFUL
    assert home.run("b").summary.status is RunStatus.RUNNING
    gate.open()
    home.wait_for("b", RunStatus.SUCCESSFUL)


def test_a_limit_holds_for_all_processes_of_the_home(home: Home, gate: Gate) -> None:
    limit = IDLE_S | {"WEFTLINE_MAX_RUNNING_WORKFLOWS": "1"}
    home.scripts.run(f"{FLOW}\n    begin('a', {gate.path!r})", variables=limit)
    gate.wait_for(1)
    driver = home.scripts.start(
        f"""{FLOW}
    print(second.step(first.step({gate.path!r}), {gate.path!r}).run("b"))
    """,
        variables=limit,
    )
    eventually(lambda: home.app.journal.find_run("b") is not None, "b is recorded")
    assert home.run("b").summary.status is RunStatus.PENDING
    gate.open(2)
    assert home.scripts.end(driver)[0] == "2\n"


def test_runs_that_wait_for_their_turn_still_do_after_a_crash(home: Home, gate: Gate) -> None:
    limit = IDLE_S | {"WEFTLINE_MAX_RUNNING_WORKFLOWS": "1"}
    home.scripts.run(
        f"{FLOW}\n    for run_id in 'abc':\n        begin(run_id, {gate.path!r})", variables=limit
    )
    gate.wait_for(1)
    home.kill()
    gate.open(4)
    process = home.start("--until-idle", "0", WEFTLINE_MAX_RUNNING_WORKFLOWS="1")
    process.communicate(timeout=PATIENCE_S)
    records = [home.run(run_id) for run_id in "abc"]
    assert [each.summary.status for each in records] == [RunStatus.SUCCESSFUL] * 3
    ends = [each.summary.ended_at or 0.0 for each in records]
    assert ends == sorted(ends)  # what ran before what waited, and the oldest first


def test_what_a_driver_declares_is_there_for_its_runs(home: Home) -> None:
    home.link.ensure()  # knows of no licence
    said = home.scripts.run(
        """
        from weftline import workflow

        workflow.init(num_cpus=64, resources={"licence": 1})

        @workflow.step(num_cpus=60, resources={"licence": 1})
        def licensed():
            return "licensed"

        print(licensed.step().run_async().result())

        @workflow.step(resources={"licence": 2})
        def greedy():
            pass

        try:
            greedy.step().run_async()
        except ValueError as error:
            print(type(error).__name__)
        """,
        variables=IDLE_S,
    )
    assert said == "licensed\nResourcesUnavailable\n"


@pytest.mark.parametrize("storage", ["its home", "memory://"])
def test_a_call_of_an_actor_that_asks_for_too_much_fails_and_the_actor_goes_on(
    home: Home, storage: str
) -> None:
    said = home.scripts.run(
        """
        from weftline import workflow

        @workflow.virtual_actor
        class Counter:
            def __init__(self):
                self.count = 0

            def add(self):
                self.count += 1
                return self.count

        counter = Counter.get_or_create("counter")
        print(counter.add.run())
        try:
            counter.add.options(resources={"licence": 2}).run()
        except ValueError as error:
            print(type(error).__name__, error)
            print(*error.__notes__)
        print(counter.add.run(), workflow.get_status("counter"))
        """,
        variables=IDLE_S | ({} if storage == "its home" else {"WEFTLINE_STORAGE": storage}),
    )
    first, error, note, second = said.splitlines()
    assert (first, second) == ("1", "2 SUCCESSFUL")
    assert error.startswith("ResourcesUnavailable step 'add' asks for ")
    assert note == "Nothing of it was carried out; 'counter' goes on as if nobody had called."


# -- news for runs ------------------------------------------------------------------------------


def test_a_canceled_run_ends_at_once_and_starts_nothing_more(home: Home, gate: Gate) -> None:
    begin(home, gate)
    home.app.steering.cancel("r")
    assert home.run("r").summary.status is RunStatus.CANCELED
    home.app.steering.cancel("r")  # once more changes nothing
    gate.open()
    assert notes(home.scripts.folder / "second") == []


def test_a_run_without_a_driver_is_canceled_by_whoever_asks(home: Home, gate: Gate) -> None:
    driver = home.scripts.start(
        f"{FLOW}\n    second.step(first.step({gate.path!r}), {gate.path!r}).run('r')"
    )
    gate.wait_for(1)
    driver.kill()
    driver.wait()
    home.app.steering.cancel("r")
    assert home.run("r").summary.status is RunStatus.CANCELED
    assert home.pid is None  # nobody was needed for that
    with pytest.raises(WorkflowNotResumableError, match="is CANCELED"):
        home.app.steering.signal("r", "news", pack_inline("json", b"1"))


def test_news_for_a_run_whose_controller_was_killed_starts_another(home: Home) -> None:
    home.scripts.run(
        """
        from weftline import workflow

        @workflow.step
        def after(value):
            return value

        after.step(workflow.wait_for_signal("news")).run_async("r")
        """,
        variables=IDLE_S,
    )
    home.kill()
    assert home.app.steering.signal("r", "news", pack_inline("json", b'"it came"'), key="1")
    assert not home.app.steering.signal("r", "news", pack_inline("json", b'"again"'), key="1")
    assert home.app.results.wait_for("r", None, PATIENCE_S) == "it came"
    # Who is not sure whether it was sent may ask again, also when the run has ended.
    assert not home.app.steering.signal("r", "news", pack_inline("json", b'"again"'), key="1")
    with pytest.raises(WorkflowNotResumableError, match="is SUCCESSFUL"):
        home.app.steering.signal("r", "news", pack_inline("json", b"1"), key="2")


def test_a_paused_run_starts_nothing_until_it_may(home: Home, gate: Gate) -> None:
    home.scripts.run(
        f"""{FLOW}
    @workflow.step
    def third(value):
        note("third")
        return value + 1

    third.step(second.step(first.step(0), {gate.path!r})).run_async("r")
    """,
        variables=IDLE_S,
    )
    gate.wait_for(1)
    home.app.steering.pause("r")
    home.wait_for("r", RunStatus.PAUSED)
    gate.open()
    eventually(lambda: home.run("r").summary.succeeded == 2, "the second step has ended")
    assert notes(home.scripts.folder / "third") == []
    home.app.steering.unpause("r")
    assert home.app.results.wait_for("r", None, PATIENCE_S) == 3


def test_resuming_is_refused_while_the_run_is_driven(home: Home, gate: Gate) -> None:
    begin(home, gate)
    problem = home.app.detached.resume_many(["r", "nobody"])
    assert [type(each).__name__ for each in problem] == [
        "WorkflowRunningError",
        "WorkflowNotFoundError",
    ]
    gate.open()
    home.wait_for("r", RunStatus.SUCCESSFUL)
    home.app.detached.resume("r")  # it has its result: nothing happens
    assert home.run("r").summary.status is RunStatus.SUCCESSFUL


def test_an_id_that_is_in_use_is_refused(home: Home, gate: Gate) -> None:
    said = home.scripts.run(
        f"""{FLOW}
    begin("r", {gate.path!r})
    try:
        begin("r", {gate.path!r})
    except workflow.WorkflowRunningError as error:
        print("refused")
    """,
        variables=IDLE_S,
    )
    assert said == "refused\n"
    gate.open()


def test_a_run_that_a_driver_left_is_taken_up_when_it_was_resumed(home: Home, gate: Gate) -> None:
    driver = home.scripts.start(
        f"{FLOW}\n    second.step(first.step({gate.path!r}), {gate.path!r}).run('r')"
    )
    gate.wait_for(1)
    driver.kill()
    driver.wait()
    assert not home.run("r").creation.detached
    home.app.detached.resume("r")
    assert home.run("r").creation.detached
    gate.wait_for(1)
    gate.open(2)
    assert home.app.results.wait_for("r", None, PATIENCE_S) == 2
    assert notes(home.scripts.folder / "first") == ["x"]


def test_a_run_that_cannot_be_read_harms_no_other(home: Home, gate: Gate) -> None:
    begin(home, gate)
    home.kill()
    with sqlite3.connect(home.path / "weftline.db") as database:
        database.execute("UPDATE events SET body = '{}' WHERE run_id = 'r' AND seq = 1")
    database.close()
    gate.open(2)
    begin(home, gate, "s")
    home.wait_for("s", RunStatus.SUCCESSFUL)
    assert "run r is not taken over" in log_path(home.path).read_text()


def test_a_stopped_owner_that_comes_back_after_its_runs_were_adopted_changes_nothing(
    home: Home, gate: Gate
) -> None:
    begin(home, gate)
    owner = home.run("r").engine
    first = home.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    # A stopped process keeps its locks. What could take them from it, a file system that comes
    # back after the machine was thought dead, is done by hand here.
    (home.path / LOCK).unlink()
    (home.path / "engines" / f"{owner}.lock").unlink()
    home.start()
    assert gate.wait_for(1) == ["second"]  # begun again, by another engine
    assert home.run("r").engine != owner
    gate.open(2)
    home.wait_for("r", RunStatus.SUCCESSFUL)
    told = home.app.journal.read("r")
    handle = os.pidfd_open(first)
    os.kill(first, signal.SIGCONT)
    # It finds that its place was taken, and ends; what it was about to write is refused.
    assert select.select([handle], [], [], PATIENCE_S)[0]
    os.close(handle)
    assert home.app.journal.read("r") == told
    assert home.pid not in (None, first)
    assert notes(home.scripts.folder / "first") == ["x"]
    assert notes(home.scripts.folder / "second") == ["x"]
