"""`weft gc` with real homes: what it removes, when, what it says, and what it leaves alone."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import FLOW, Terminal, Weft
from tests.e2e.conftest import Gate
from weftline.adapters.journal.inspection import Inspection
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.adapters.journal.upkeep import SqliteUpkeep
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.local_upkeep import LocalUpkeep
from weftline.cli.checks import Level, check_objects
from weftline.upkeep.leftovers import Leftovers
from weftline.upkeep.tidying import AGES, Tidying

MORE = """
@workflow.step(name="large")
def large(n, gate=None):
    if gate:
        pass_gate(gate)
    return bytes(n)

@workflow.step(name="size")
def size(content, gate=None):
    if gate:
        pass_gate(gate)
    return len(content)

def sized(n: int = 100_000, gate: str = ""):
    return size.step(large.step(n), gate)

def passing(gate: str = ""):
    return size.step(large.options(checkpoint=False).step(100_000), gate)
"""
EMPTY = {"number": 0, "bytes": 0}
DAY = 86_400


@pytest.fixture
def weft(tmp_path: Path) -> Iterator[Weft]:
    made = Weft(tmp_path)
    made.write("flow.py", FLOW + MORE)
    yield made
    made.close()


@pytest.fixture
def terminals(weft: Weft) -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for terminal in made:
        terminal.close()


def home_of(weft: Weft) -> Path:
    return weft.folder / "home"


def age(weft: Weft, days: int = 2) -> None:
    """Make all objects and logs of the home older by so many days."""
    for name in ("objects", "logs"):
        for path in home_of(weft).joinpath(name).rglob("*"):
            if path.is_file():
                at = path.stat().st_mtime - days * DAY
                os.utime(path, (at, at))


def stored(weft: Weft) -> list[str]:
    """Paths of all objects, below their folder."""
    root = home_of(weft) / "objects"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def removed(weft: Weft, *words: str) -> dict[str, Any]:
    """What `weft gc` says was done, without what was not."""
    told = weft.json("gc", *words)
    assert told.pop("home") == str(home_of(weft))
    for name in ("database", "dry_run", "objects_shared_with"):
        told.pop(name)
    return {name: each for name, each in told.items() if each not in (EMPTY, [])}


def test_what_a_deleted_run_needed_goes_into_the_trash_and_a_day_later_for_good(
    weft: Weft,
) -> None:
    weft("run", "flow.py:sized", "--id", "kept", "-q")
    weft("run", "flow.py:sized", "--id", "gone", "-p", "n=200000", "-q")
    assert removed(weft) == {}
    age(weft)
    assert removed(weft) == {}  # every run is there
    before = stored(weft)
    weft("runs", "delete", "gone", "--yes")
    assert removed(weft, "--dry-run") == removed(weft, "--dry-run")
    assert stored(weft) == before
    told = removed(weft)
    assert set(told) == {"trashed", "in_trash"}
    assert told["trashed"] == told["in_trash"]
    assert told["trashed"]["number"] == 1
    assert told["trashed"]["bytes"] > 200_000
    (thrown,) = set(stored(weft)) - set(before)
    assert thrown.startswith("trash/")
    assert removed(weft) == {"in_trash": told["trashed"]}
    age(weft)
    assert removed(weft) == {"erased": told["trashed"]}
    assert stored(weft) == [each for each in before if each != thrown.removeprefix("trash/")]
    assert weft("runs", "output", "kept") == ("100000\n", "")
    assert weft.json("doctor", "--full")["is_sound"]


def test_volatile_values_go_when_their_run_has_ended(weft: Weft, gate: Gate) -> None:
    waiting = weft.start("run", "flow.py:passing", "-p", f"gate={gate.path}", "--id", "a", "-q")
    gate.wait_for()
    age(weft)
    assert removed(weft) == {}
    gate.open()
    assert weft.end(waiting)[0] == "100000\n"
    (volatile,) = [each for each in stored(weft) if each.startswith("volatile/")]
    assert set(removed(weft)) == {"trashed", "in_trash"}
    age(weft)
    assert removed(weft)["erased"]["number"] == 1
    assert not any(volatile in each for each in stored(weft))
    assert weft.json("doctor")["is_sound"]
    # It is no loss in a run that is not among those that were read first either.
    journal, inspection = SqliteJournal(home_of(weft)), Inspection(home_of(weft))
    objects = LocalObjectStore(home_of(weft) / "objects")
    try:
        for level in (Level.OK, Level.BAD):
            check = check_objects(
                objects, journal, inspection, set(), full=False, progress=lambda done, total: None
            )
            assert check.level is level
            weft("run", "flow.py:sized", "--id", "b", "-p", "n=200000", "-q")
            objects.delete(
                max(stored(weft), key=lambda each: (objects.root / each).stat().st_size)[3:]
            )
    finally:
        journal.close()
        inspection.close()


def test_what_is_needed_again_comes_out_of_the_trash(weft: Weft) -> None:
    weft("run", "flow.py:sized", "--id", "a", "-q")
    age(weft)
    weft("runs", "delete", "a", "--yes")
    thrown = removed(weft)["trashed"]["number"]
    assert thrown > 1
    # The function was stored again, and what it returned, too; nothing is taken from the trash.
    assert weft("run", "flow.py:sized", "--id", "b", "-q")[0] == "100000\n"
    age(weft)
    assert removed(weft)["erased"]["number"] == thrown
    assert weft("runs", "output", "b", "--step", "size")[0] == "100000\n"


def test_runs_that_ended_long_ago_are_deleted_when_that_is_sure(
    weft: Weft, terminals: list[Terminal]
) -> None:
    weft("run", "flow.py:scored", "--id", "good", "-q")
    weft("run", "flow.py:checked", "--id", "bad", "-q", status=1)
    age(weft)
    assert removed(weft, "--older-than", "1h") == {}
    _, err = weft("gc", "--older-than", "0s", status=2)
    assert "deleting 2 runs cannot be undone: say --yes" in err
    out, _ = weft("gc", "--older-than", "0s", "--dry-run")
    assert out.startswith("runs that would be deleted: 2 runs (1 FAILED, 1 SUCCESSFUL; ended 2")
    assert "WOULD BE" in out
    told = weft.json("gc", "--older-than", "0s", "--dry-run")
    assert [(run["id"], run["status"]) for run in told["deleted"]] == [
        ("good", "SUCCESSFUL"),
        ("bad", "FAILED"),
    ]
    terminals.append(no := Terminal(weft, "gc", "--older-than", "0s"))
    no.read_until("Delete 2 runs (1 FAILED, 1 SUCCESSFUL; ended ")
    no.type("\n")
    assert "nothing was deleted or removed" in no.end(1)
    assert len(weft.json("runs", "list")) == 2
    told.pop("dry_run")
    done = weft.json("gc", "--older-than", "0s", "--status", "failed", "--yes")
    assert [run["id"] for run in done["deleted"]] == ["bad"]
    assert [run["id"] for run in weft.json("runs", "list")] == ["good"]
    terminals.append(yes := Terminal(weft, "gc", "--older-than", "0s"))
    yes.read_until("Delete 1 run (1 SUCCESSFUL; ended ")
    yes.type("y\n")
    assert "runs deleted" in yes.end(0)
    assert weft.json("runs", "list") == []
    assert weft.json("doctor")["is_sound"]


def test_a_trial_tells_exactly_what_is_done_then(weft: Weft) -> None:
    weft("run", "flow.py:sized", "--id", "a", "-q")
    weft("run", "flow.py", "--id", "b", "-q")
    age(weft)
    (home_of(weft) / "engines" / "dead.lock").touch()
    (home_of(weft) / "engines" / "dead.bell").touch()
    told = removed(weft, "--older-than", "0s", "--dry-run")
    assert (home_of(weft) / "logs").exists()
    done = removed(weft, "--older-than", "0s", "--yes")
    # A graph goes with the last run that names it, before it is counted.
    told.pop("graphs")
    assert told == done
    assert {"runs", "trashed", "environments", "logs", "locks"} <= set(done)
    assert list((home_of(weft) / "logs").glob("*.out")) == []
    assert list((home_of(weft) / "engines").iterdir()) == []


def test_a_run_that_goes_on_loses_nothing(weft: Weft, gate: Gate) -> None:
    waiting = weft.start("run", "flow.py:sized", "-p", f"gate={gate.path}", "--id", "a", "-q")
    gate.wait_for()
    age(weft)
    engines = sorted(path.name for path in (home_of(weft) / "engines").iterdir())
    assert removed(weft, "--older-than", "0s", "--yes", "--vacuum") == {}
    assert sorted(path.name for path in (home_of(weft) / "engines").iterdir()) == engines
    age(weft)
    assert removed(weft, "--older-than", "0s", "--yes") == {}
    gate.open()
    assert weft.end(waiting)[0] == "100000\n"
    assert weft.json("doctor", "--full")["is_sound"]


def test_runs_are_not_disturbed_by_being_tidied_up_all_the_time(weft: Weft) -> None:
    weft.write(
        "many.py",
        """
        from weftline import workflow

        @workflow.step(name="made")
        def made(n, content=b""):
            return bytes([n]) * 50_000 + content[:50_000]

        @workflow.step(name="total")
        def total(contents):
            return sum(map(sum, contents))

        def main(fan: int = 40):
            first = [made.step(n % 3) for n in range(fan)]
            return total.step([made.step(1, each) for each in first])
        """,
    )
    # What is new goes into the trash as well, so that whoever reads it has to bring it back.
    ages = AGES._replace(object_s=0.0, log_s=0.0, dead_writer_s=0.0)
    (home_of(weft) / "objects").mkdir(parents=True)
    running = [weft.start("run", "many.py", "--id", f"r{n}", "-q") for n in range(2)]
    thrown = 0
    journal = SqliteUpkeep(home_of(weft))
    try:
        while any(process.poll() is None for process in running):
            objects = LocalUpkeep(LocalObjectStore(home_of(weft) / "objects"))
            tidying = Tidying(journal, objects, Leftovers(home_of(weft)), journal, ages=ages)
            thrown += tidying.tidy().trashed.number
    finally:
        journal.close()
    value = sum((n % 3) * 50_000 + 50_000 for n in range(40))
    for process in running:
        assert weft.end(process)[0] == f"{value}\n"
    assert thrown > 0
    assert weft.json("doctor", "--full")["is_sound"]


def test_what_was_put_and_no_run_uses_is_kept_for_a_day(weft: Weft) -> None:
    weft.write(
        "keep.py",
        """
        import pickle, sys, weftline
        if sys.argv[1] == "put":
            pickle.dump(weftline.put("x" * 50), open("ref", "wb"))
        else:
            print(weftline.get(pickle.load(open("ref", "rb"))))
        """,
    )

    def keep(word: str) -> str:
        return subprocess.run(
            [sys.executable, "keep.py", word],
            cwd=weft.folder,
            env=weft.environ,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    weft("run", "flow.py:scored", "-q")
    keep("put")
    assert removed(weft) == {}
    age(weft)
    assert removed(weft)["trashed"]["number"] == 1
    assert keep("get") == "x" * 50 + "\n"
    assert removed(weft) == {}
    age(weft)
    assert removed(weft)["trashed"]["number"] == 1
    age(weft)
    assert removed(weft)["erased"]["number"] == 1


def test_logs_stay_as_long_as_a_run_names_them(weft: Weft) -> None:
    weft("run", "flow.py", "--id", "a", "-q")
    age(weft)
    before = weft("runs", "logs", "a")
    assert "training 2" in before[0]
    assert removed(weft) == {}
    assert weft("runs", "logs", "a") == before
    weft("runs", "delete", "a", "--yes")
    assert removed(weft)["logs"]["number"] > 0


def test_vacuum_gives_back_what_deleted_runs_left_free(weft: Weft) -> None:
    weft("run", "flow.py", "--id", "a", "-q")
    with sqlite3.connect(home_of(weft) / "weftline.db") as database:
        database.execute("CREATE TABLE other (content)")
        database.executemany("INSERT INTO other VALUES (?)", [(bytes(4000),)] * 5000)
        database.execute("DROP TABLE other")
    database.close()
    _, err = weft("gc")
    assert "of the database are free; weft gc --vacuum gives them back" in err
    told = weft.json("gc", "--vacuum", "--dry-run")["database"]
    assert told["free_bytes"] > 20_000_000
    assert told["given_back_bytes"] == 0
    out, _ = weft("gc", "--vacuum")
    assert "the database gave back 2" in out
    told = weft.json("gc", "--vacuum")["database"]
    assert told["free_bytes"] == told["log_bytes"] == 0
    assert home_of(weft).joinpath("weftline.db").stat().st_size == told["bytes"] < 1_000_000
    assert weft.status("a") == "SUCCESSFUL"


def test_objects_of_another_home_are_left_alone(weft: Weft) -> None:
    def theirs(*words: str) -> tuple[str, str]:
        other, storage = str(weft.folder / "other"), str(home_of(weft))
        return weft(*words, WEFTLINE_DATABASE=other, WEFTLINE_STORAGE=storage)

    theirs("run", "flow.py:sized", "--id", "theirs", "-q")
    weft("run", "flow.py", "--id", "ours", "-q")
    weft("runs", "delete", "ours", "--yes")
    age(weft)
    before = stored(weft)
    out, err = weft("gc")
    assert f"other homes keep theirs with them: {weft.folder / 'other'}" in err
    assert "objects" not in out
    _, err = theirs("gc")
    assert f"other homes keep theirs with them: {home_of(weft)}" in err
    assert stored(weft) == before
    assert theirs("runs", "output", "theirs", "--step", "size")[0] == "100000\n"


def test_a_home_that_is_not_there_has_nothing_to_remove(weft: Weft) -> None:
    _, err = weft("gc")
    assert err == f"note: there is no home at {home_of(weft)}: there is nothing to remove\n"
    assert weft.json("gc")["note"].startswith("there is no home at")
    assert not home_of(weft).exists()
    (weft.folder / "weftline.toml").write_text('storage = "memory://"\n')
    environ = weft.environ.pop("WEFTLINE_HOME")
    assert weft("gc")[1] == "note: this home is in memory: there is nothing to remove\n"
    weft.environ["WEFTLINE_HOME"] = environ


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--older-than", "soon"), "'soon' is no length of time: give a number with w, d, h"),
        (("--older-than", "7"), "'7' is no length of time"),
        (("--older-than", "7d later"), "'7d later' is no length of time"),
        (("--status", "FAILED"), "--status chooses among the runs that --older-than deletes"),
        (
            ("--older-than", "7d", "--status", "RUNNING"),
            "'RUNNING' is no status of runs that have ended; there are SUCCESSFUL, FAILED, CANCEL",
        ),
        (("--older-than", "7d", "--status", "falied"), "did you mean 'FAILED'?"),
    ],
)
def test_wrong_use_is_told(weft: Weft, words: tuple[str, ...], told: str) -> None:
    out, err = weft("gc", *words, status=2)
    assert out == ""
    assert err.startswith("error: ")
    assert told in err


def test_half_written_objects_of_dead_processes_are_found_by_doctor_and_removed(
    weft: Weft,
) -> None:
    weft("run", "flow.py:scored", "-q")
    dead = weft.start("--version")
    weft.end(dead)
    folder = home_of(weft) / "objects" / "incoming"
    (folder / f"{dead.pid}-abc").write_bytes(b"half")
    (check,) = [c for c in weft.json("doctor")["checks"] if c["name"] == "leftovers"]
    assert check["level"] == "warn"
    assert check["advice"] == "`weft gc` removes them after an hour"
    assert removed(weft) == {}
    os.utime(folder / f"{dead.pid}-abc", (1, 1))
    assert removed(weft) == {"incoming": {"number": 1, "bytes": 4}}
    assert list(folder.iterdir()) == []
