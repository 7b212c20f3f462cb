"""`weft status`: who is alive in a home, what is unfinished, and what it waits for."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.e2e.commands import Weft, record
from tests.e2e.conftest import Gate, eventually
from tests.graphs import CALL, Book, graph, step, timer
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.app import close_home
from weftline.cli.status import show_status
from weftline.core.actions import PythonCall, Wait, WaitKind
from weftline.core.events import PauseChanged, Quarantined, RunStatus
from weftline.core.policy import Placement

CONTROLLER = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(lock, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def weft(tmp_path: Path) -> Iterator[Weft]:
    made = Weft(tmp_path)
    yield made
    made.close()


@pytest.fixture
def engine(weft: Weft) -> Iterator[str]:
    """An engine that lives in this process."""
    journal = SqliteJournal(weft.folder / "home")
    journal.register("here")
    yield "here"
    journal.close()


def test_a_home_that_is_not_there_yet_is_no_error(weft: Weft) -> None:
    home = weft.folder / "home"
    assert weft("status") == ("", f"note: there is no home at {home} yet: the first run makes it\n")
    assert weft.json("status") == {"home": {"path": str(home), "exists": False}}
    assert not home.exists()


def test_an_idle_home_has_sizes_and_nobody_in_it(weft: Weft) -> None:
    weft("run", "flow.py", "--id", "good", "-q")
    out, err = weft("status")
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"home        {weft.folder / 'home'}"
    sizes = r" +database [\d.]+ kB, objects [\d.]+ k?B, logs [\d.]+ B; [\d.]+ .B free"
    assert re.fullmatch(sizes, lines[1])
    assert lines[2:] == ["controller  none is alive", "", "no unfinished runs"]
    told = weft.json("status")
    assert (told["controller"], told["engines"], told["runs"]) == (None, [], [])
    objects = weft.folder / "home" / "objects"
    real = sum(path.stat().st_size for path in objects.rglob("*") if path.is_file())
    assert told["home"]["objects_bytes"] == real
    assert told["home"]["free_bytes"] > 0


def test_that_there_is_hardly_any_room_left_is_told(
    weft: Weft, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weft("run", "flow.py", "--id", "good", "-q")
    monkeypatch.setenv("WEFTLINE_HOME", str(weft.folder / "home"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    monkeypatch.setattr("weftline.app._app", None)  # other tests of this process have a home open
    try:
        assert show_status(all_runs=False, as_json=False) == 0
    finally:
        close_home()
    out, err = capsys.readouterr()
    assert "; 5 MB free\n" in out
    assert f"only 5 MB are free at {weft.folder / 'home'}: free some space" in err


def test_a_run_that_is_driven_is_shown_with_its_processes(weft: Weft, gate: Gate) -> None:
    process = weft.start("run", "flow.py:slow", "-p", f"gate={gate.path}", "--id", "r", "-q")
    gate.wait_for(2)
    eventually(lambda: len(weft.json("status")["runs"][0]["running"]) == 2, "starts are recorded")
    told = weft.json("status")
    [engine] = told["engines"]
    assert (engine["pid"], engine["is_controller"]) == (process.pid, False)
    assert engine["resident_bytes"] > 1_000_000
    assert sorted(child["attempt"]["step"] for child in engine["children"]) == [
        "wait_here",
        "wait_here_1",
    ]
    for child in engine["children"]:
        parent = int(Path(f"/proc/{child['pid']}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent == process.pid
    [run] = told["runs"]
    assert (run["id"], run["status"], run["waits"]) == ("r", "RUNNING", [])
    assert run["driven_by"] == {"engine": engine["id"], "pid": process.pid}
    out, _ = weft("status")
    assert re.search(rf"\n{process.pid} +engine +[\d.]+ MB +drives 1 run\n", out)
    assert re.search(r"\n\d+ +child \d +[\d.]+ MB +wait_here(_1)? of run r for [\d.]+ m?s\n", out)
    row = rf"\nr +pair +RUNNING +0/3 +[\d.]+ m?s +process {process.pid} +runs wait_here(_1)? for "
    assert re.search(row + r"[\d.]+ m?s and 1 more\n", out)
    process.kill()
    process.wait()
    out, err = weft("status")
    assert re.search(r"\nr +pair +RESUMABLE +0/3 .* nobody +waits for being resumed: nobody", out)
    assert "`weft runs resume ID` lets a RESUMABLE run go on" in err
    assert weft.json("status")["runs"][0]["driven_by"] is None


def test_what_runs_wait_for_is_told(weft: Weft, engine: str) -> None:
    home = weft.folder / "home"
    now = time.time()
    signal = Wait(WaitKind.SIGNAL, name="approve")
    listening = PythonCall(function=CALL.function, arguments=b"", listens=True)
    waits = Book(
        graph(
            step("all", [1, 2, 3, 4, 5]),
            timer("nap", 3600.0),
            step("ask", action=signal),
            step("listen", action=listening),
            step("train", placement=Placement(num_gpus=2.0)),
            step("flaky", tries=2),
        )
    )
    waits.now = now
    waits.begin_wait("nap")
    waits.begin_wait("ask")
    waits.start("listen")
    waits.start("flaky")
    waits.fail("flaky", retry_at=now + 7200)
    record(home, "waits", waits, engine=engine)
    paused = Book(graph(step("a")))
    paused.record(PauseChanged(paused=True))
    record(home, "paused", paused, engine=engine)
    held = Book(graph(step("a")))
    held.record(Quarantined(reason="step 'a' ended its process 4 times in a row"))
    record(home, "held", held, engine=engine)
    record(home, "late", Book(graph(step("a"))), engine=engine, status=RunStatus.PENDING)
    told = {run["id"]: run for run in weft.json("status")["runs"]}
    found = {each["for"]: each for each in told["waits"]["waits"]}
    assert sorted(found) == ["event", "resources", "retry", "signal", "timer"]
    assert found["signal"]["signal"] == "approve"
    assert found["resources"]["asks"]["num_gpus"] == 2.0
    assert found["timer"]["steps"] == ["nap"]
    assert [each["for"] for each in told["paused"]["waits"]] == ["continue"]
    assert told["held"]["status"] == "RESUMABLE"
    assert told["held"]["waits"][0]["reason"].startswith("step 'a' ended its process")
    assert told["late"]["status"] == "PENDING"
    out, _ = weft("status")
    rows = {line.split()[0]: line for line in out.splitlines() if "made" in line}
    assert f"process {os.getpid()}" in rows["waits"]
    assert "waits for a timer until " in rows["waits"]
    assert "waits for the signal 'approve' (ask); 3 more reasons to wait" in rows["waits"]
    assert "waits for being continued: it is paused (a)" in rows["paused"]
    assert "4 unfinished runs: " in out


def test_the_controller_is_alive_as_long_as_it_holds_its_lock(weft: Weft) -> None:
    weft("run", "flow.py", "--id", "good", "-q")
    home = weft.folder / "home"
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(home / "controller.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        record(home, "r", Book(graph(step("a"))), engine="controls")
        (home / "controller.json").write_text(
            f'{{"pid": {process.pid}, "version": "9.9", "started_at": {time.time() - 60},'
            ' "engine": "controls", "of_a_later_release": 1}'
        )
        out, _ = weft("status")
        told = (
            rf"controller  alive, process {process.pid}, Weftline 9.9, since .* \(1 min 0\d s\)\n"
        )
        assert re.search(told, out)
        assert weft.json("status")["controller"]["engine"] == "controls"
        (home / "controller.json").write_text("{")
        assert weft.json("status")["controller"]["pid"] == process.pid
        process.communicate()
    assert "controller  none is alive\n" in weft("status")[0]
    assert weft.json("status")["controller"] is None


def test_only_the_newest_runs_are_on_the_screen(weft: Weft, engine: str) -> None:
    home = weft.folder / "home"
    for number in range(25):
        book = Book(graph(step("a")))
        book.now += number
        record(home, f"run-{number}", book, engine=engine)
    out, err = weft("status")
    assert len(re.findall(r"\nrun-\d+ ", out)) == 20
    assert "\nrun-24 " in out
    assert "\nrun-4 " not in out
    assert "25 unfinished runs: 25 RUNNING" in out
    assert err == "note: these are the newest 20; --all lists all\n"
    out, err = weft("status", "--all")
    assert (len(re.findall(r"\nrun-\d+ ", out)), err) == (25, "")
    assert len(weft.json("status")["runs"]) == 25


def test_a_run_that_cannot_be_read_hides_no_other(weft: Weft, engine: str) -> None:
    home = weft.folder / "home"
    broken = Book(graph(step("a")))
    broken.events *= 2
    record(home, "broken", broken, engine=engine)
    record(home, "good", Book(graph(step("a"))), engine=engine)
    out, _ = weft("status")
    assert re.search(r"\nbroken .* cannot be read: a run is submitted once\n", out)
    assert re.search(r"\ngood .* waits for 1 CPU \(a\)\n", out)
