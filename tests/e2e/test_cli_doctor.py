"""`weft doctor` on real homes: sound ones, and ones that a test has damaged."""

import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Weft
from tests.e2e.conftest import Gate, Scripts, eventually
from weftline.wire import MARKER

ALL = [
    *("home", "space", "database", "schema", "runs", "graphs", "objects", "environments"),
    *("leftovers", "engines", "orphans"),
]


@pytest.fixture
def weft(tmp_path: Path) -> Iterator[Weft]:
    made = Weft(tmp_path)
    yield made
    made.close()


@pytest.fixture
def home(weft: Weft) -> Path:
    """A home with a good run and a failed one."""
    weft("run", "flow.py", "--id", "good", "-q")
    weft("run", "flow.py:checked", "--id", "bad", "-q", status=1)
    return weft.folder / "home"


def examined(weft: Weft, *words: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """The checks by their names."""
    told = weft.json("doctor", *words, status=status)
    assert told["is_sound"] is (status == 0)
    return {check["name"]: check for check in told["checks"]}


def levels(weft: Weft, *words: str, status: int = 0) -> dict[str, str]:
    """What is not well."""
    checks = examined(weft, *words, status=status)
    return {name: each["level"] for name, each in checks.items() if each["level"] != "ok"}


def change(home: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(home / "weftline.db")) as database:
        assert database.execute(statement, values).rowcount != 0
        database.commit()


def contents(home: Path) -> dict[str, str]:
    """Every file that holds something, with the hash of its content."""
    found = {}
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.name.endswith("-shm") and path.stat().st_size:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# -- sound ones ---------------------------------------------------------------------------------


def test_where_there_is_no_home_there_is_nothing_to_check(weft: Weft) -> None:
    home = weft.folder / "home"
    told = f"there is no home at {home}: there is nothing to check"
    assert weft("doctor") == ("", f"note: {told}\n")
    assert weft.json("doctor") == {
        "home": str(home),
        "note": told,
        "is_sound": True,
        "checks": [],
    }
    assert not home.exists()


def test_a_sound_home_is_well_and_nothing_of_it_is_changed(weft: Weft, home: Path) -> None:
    before = contents(home)
    out, err = weft("doctor")
    assert err == ""
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:-2]] == [["✓", name] for name in ALL]
    assert lines[-2:] == ["", "all is well"]
    assert list(examined(weft, "--full")) == ALL
    assert contents(home) == before


def test_a_home_without_a_database_is_well(weft: Weft) -> None:
    (weft.folder / "home").mkdir(mode=0o700)
    assert levels(weft) == {}
    assert os.listdir(weft.folder / "home") == []


def test_it_works_beside_an_engine_that_writes(weft: Weft, home: Path, gate: Gate) -> None:
    process = weft.start("run", "flow.py:slow", "-p", f"gate={gate.path}", "--id", "r", "-q")
    gate.wait_for(2)
    checks = examined(weft, "--full")
    assert {check["level"] for check in checks.values()} == {"ok"}
    assert checks["engines"]["text"] == "1 engine alive; dead ones have left nothing"
    gate.open(2)
    weft.end(process)
    assert levels(weft) == {}


# -- damage -------------------------------------------------------------------------------------


def test_a_missing_object_is_found_with_a_run_that_holds_it(weft: Weft, home: Path) -> None:
    [path, *_] = sorted((home / "objects").glob("??/*"))
    path.unlink()
    checks = examined(weft, status=1)
    assert [name for name, each in checks.items() if each["level"] == "bad"] == ["objects"]
    [detail] = checks["objects"]["details"]
    assert detail.startswith(f"object {path.name} of run ")
    assert detail.endswith(" is missing")
    out, _ = weft("doctor", status=1)
    assert "✗ objects" in out
    assert "what to do: restore these files from a backup" in out
    assert out.endswith("\n1 of 11 checks found something bad\n")


def test_a_changed_object_is_found_when_contents_are_read(weft: Weft, home: Path) -> None:
    [path, *_] = sorted((home / "objects").glob("??/*"))
    content = bytearray(path.read_bytes())
    content[0] ^= 0xFF
    path.write_bytes(content)
    assert levels(weft) == {}
    checks = examined(weft, "--full", status=1)
    [detail] = checks["objects"]["details"]
    assert " is damaged: object " in detail


def test_an_overwritten_page_of_the_database_is_found(weft: Weft, home: Path) -> None:
    with closing(sqlite3.connect(home / "weftline.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'events'"
        [page] = database.execute(query).fetchone()
    with (home / "weftline.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    bad = levels(weft, status=1)
    assert bad["database"] == "bad"
    assert bad["runs"] == "bad"
    out, err = weft("doctor", status=1)
    assert "the database is damaged" in out
    assert "Traceback" not in err


def test_a_file_that_is_no_database_is_told(weft: Weft, home: Path) -> None:
    for path in home.glob("weftline.db*"):
        path.write_bytes(b"this is a text, and quite a long one " * 200)
    checks = examined(weft, status=1)
    assert checks["database"]["level"] == "bad"
    assert "not a database" in checks["database"]["details"][0] + checks["database"]["text"]


def test_a_summary_that_was_changed_is_found(weft: Weft, home: Path) -> None:
    change(home, "UPDATE runs SET status = 'SUCCESSFUL', steps = 9 WHERE run_id = 'bad'")
    checks = examined(weft, status=1)
    assert checks["runs"]["details"] == [
        "run 'bad': its row says SUCCESSFUL, its journal FAILED",
        "run 'bad': its row says 9 steps, its journal 2",
    ]


def test_events_that_are_missing_or_cannot_be_are_found(weft: Weft, home: Path) -> None:
    change(home, "DELETE FROM events WHERE run_id = 'good' AND seq = 2")
    change(home, "UPDATE events SET body = '{' WHERE run_id = 'bad' AND seq = 1")
    stray = "INSERT INTO events SELECT 'nobody', seq, at, kind, body FROM events"
    change(home, f"{stray} WHERE run_id = 'bad'")
    told = "\n".join(examined(weft, status=1)["runs"]["details"])
    assert "run 'good' has " in told
    assert "run 'bad': its journal cannot be read: DecodeError" in told
    assert "run 'nobody'" not in told
    full = examined(weft, "--full", status=1)["runs"]["details"]
    assert "run 'nobody' has events and no row" in full


def test_a_missing_graph_is_found(weft: Weft, home: Path) -> None:
    change(home, "DELETE FROM graphs")
    checks = examined(weft, status=1)
    assert (checks["graphs"]["level"], checks["runs"]["level"]) == ("bad", "bad")
    assert len(checks["graphs"]["details"]) == 2


def test_rows_that_cannot_be_read_are_told_and_the_rest_is_checked(weft: Weft, home: Path) -> None:
    change(home, "UPDATE runs SET status = 'DONE' WHERE run_id = 'bad'")
    checks = examined(weft, status=1)
    assert list(checks) == ALL
    assert checks["runs"]["text"].startswith("this cannot be checked: ValueError: 'DONE'")


def test_a_newer_schema_is_bad_and_an_older_one_stays_as_it_is(weft: Weft, home: Path) -> None:
    change(home, "PRAGMA user_version = 999")
    checks = examined(weft, status=1)
    assert "newer Weftline (schema 999" in checks["schema"]["text"]
    assert "runs" not in checks
    change(home, "PRAGMA user_version = 0")
    before = contents(home)
    assert levels(weft) == {"schema": "warn"}
    assert contents(home) == before


# -- what was left behind -----------------------------------------------------------------------


def test_locks_of_a_dead_engine_and_a_gone_interpreter_are_found(
    weft: Weft, home: Path, gate: Gate
) -> None:
    process = weft.start("run", "flow.py:slow", "-p", f"gate={gate.path}", "--id", "r", "-q")
    gate.wait_for(2)
    process.kill()
    process.wait()

    def locks() -> list[str]:
        details: list[str] = examined(weft)["engines"]["details"]
        return details

    eventually(lambda: len(locks()) == 3, "the children have died, too")
    assert sum(".child-" in name for name in locks()) == 2
    checks = examined(weft)
    assert checks["engines"]["level"] == "warn"
    assert checks["environments"]["text"].startswith("1 run can be resumed")
    change(home, 'UPDATE environments SET body = replace(body, \'"python":"\', \'"python":"/x\')')
    checks = examined(weft)
    assert checks["environments"]["level"] == "warn"
    assert checks["environments"]["details"][0].endswith(" of run 'r'")


def test_a_process_that_outlives_its_engine_is_found(weft: Weft, home: Path) -> None:
    variables = os.environ | {MARKER: "dead/1", "WEFTLINE_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        check = examined(weft, status=1)["orphans"]
        assert check["details"] == [f"process {process.pid}"]
        assert f"kill -9 {process.pid}" in check["advice"]
        process.communicate("\n")
    assert levels(weft) == {}


def test_a_home_that_is_open_to_others_is_warned_of(weft: Weft, home: Path) -> None:
    home.chmod(0o755)
    out, _ = weft("doctor")
    assert "! home" in out
    assert f"what to do: chmod 700 {home} closes it" in out
    assert out.endswith("\nall is sound; 1 of 11 checks found something to look at\n")


@pytest.mark.parametrize(
    "first",
    [
        "import weftline; weftline.put(bytes(100_000))",
        "step().run()",
        "step().run_async().result()",
        "workflow.init(executor='threads'); step().run()",
        "workflow.list_all(); step().run()",
    ],
)
def test_a_home_is_closed_to_others_whatever_makes_it(scripts: Scripts, first: str) -> None:
    scripts.run(
        f"""
        from weftline import workflow

        @workflow.step
        def one():
            return 1

        step = one.step
        {first}
        """,
        variables={"WEFTLINE_CONTROLLER_IDLE_S": "0"},
    )
    assert stat.S_IMODE(scripts.home.stat().st_mode) == 0o700
