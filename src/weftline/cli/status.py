"""`weft status`: who is alive in the home, what is unfinished, and what it waits for."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.text import Text

from weftline.app import home
from weftline.cli.checks import Level, free_space, judge_space
from weftline.cli.look import STATUS_STYLES
from weftline.cli.processes import (
    Controller,
    EngineProcess,
    controller_of,
    engines_in,
    living,
    resident_bytes,
)
from weftline.cli.terminal import (
    byte_count,
    command,
    count,
    duration,
    iso,
    moment,
    one_line,
    plain,
    say,
    say_json,
    say_note,
    say_table,
)
from weftline.cli.unfinished import (
    UNFINISHED,
    Running,
    Unfinished,
    doing_text,
    read_unfinished,
    unread,
)
from weftline.cli.waits import wait_document
from weftline.core.events import RunStatus
from weftline.core.waiting import WaitingFor
from weftline.ports.journal import RunRecord

SHOWN_RUNS = 20
SHOWN_PROCESSES = 20
DATABASE = ("weftline.db", "weftline.db-wal", "weftline.db-shm")


class Sizes(NamedTuple):
    """How many bytes there are of what, and where how many more find room."""

    database: int
    objects: int
    logs: int
    free: int
    where: str


def show_status(*, all_runs: bool, as_json: bool) -> int:
    """What is going on in the home; the exit status."""
    app = home()
    folder, objects = app.settings.home, app.settings.objects
    if folder is None or objects is None:
        say_note("this home is in memory: no other process can see it")
        if as_json:
            say_json({"home": None})
        return 0
    if not (folder / DATABASE[0]).exists():
        if as_json:
            say_json({"home": {"path": str(folder), "exists": False}})
        else:
            say_note(f"there is no home at {folder} yet: the first run makes it")
        return 0
    controller, engines = controller_of(folder), living(engines_in(folder))
    records = app.journal.list_runs(statuses=UNFINISHED)
    is_complete = all_runs or as_json
    read = len(records) if is_complete else SHOWN_RUNS
    runs = [
        read_unfinished(app, record) if n < read else unread(app, record)
        for n, record in enumerate(records)
    ]
    sizes = Sizes(
        sum(_size_of(folder / name) for name in DATABASE),
        _tree_size(objects),
        _tree_size(folder / "logs"),
        *free_space([folder, objects]),
    )
    if as_json:
        say_json(_document(folder, objects, sizes, controller, engines, runs))
        return 0
    _say_home(folder, objects, sizes, controller)
    _say_processes(controller, engines, runs, limit=None if is_complete else SHOWN_PROCESSES)
    _say_runs(controller, engines, runs, read)
    return 0


# -- finding out --------------------------------------------------------------------------------


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tree_size(folder: Path) -> int:
    """Bytes of all files below the folder."""
    total, waiting = 0, [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # it has just been removed, or may not be read
            continue
    return total


# -- for people ---------------------------------------------------------------------------------


def _say_home(folder: Path, objects: Path, sizes: Sizes, controller: Controller | None) -> None:
    where = "" if objects.parent == folder else f" in {objects}"
    text = f"database {byte_count(sizes.database)}, objects {byte_count(sizes.objects)}{where}"
    say(("home        ", "dim"), (plain(str(folder)), "bold"))
    text += f", logs {byte_count(sizes.logs)}"
    say(f"            {plain(text)}; {byte_count(sizes.free)} free")
    room = judge_space(sizes.free, sizes.where)
    if room.level is not Level.OK and room.advice is not None:
        say_note(f"only {room.text}: {room.advice}")
    if controller is None:
        say(("controller  ", "dim"), "none is alive")
        return
    parts = [f"process {controller.pid}", f"Weftline {controller.version or '(unknown)'}"]
    if controller.started_at is not None:
        age = duration(time.time() - controller.started_at)
        parts.append(f"since {moment(controller.started_at)} ({age})")
    say(("controller  ", "dim"), ("alive", "green"), ", " + plain(", ".join(parts)))


def _say_processes(
    controller: Controller | None,
    engines: Sequence[EngineProcess],
    runs: Sequence[Unfinished],
    limit: int | None,
) -> None:
    if not engines:
        return
    drives = Counter(each.record.engine for each in runs if each.status is not RunStatus.RESUMABLE)
    works = {one.worker: (one, each) for each in runs for one in each.running}
    is_partly_read = not all(each.is_read for each in runs)
    rows = []
    for engine in engines:
        is_controller = controller is not None and controller.engine == engine.engine
        what = "controller" if is_controller else "engine"
        does = f"drives {count(drives[engine.engine], 'run')}"
        rows.append((_pid_text(engine.pid), what, _memory_text(engine.pid), does))
        for child in engine.children:
            does = "nothing, or of a run that is not shown" if is_partly_read else "nothing long"
            if child.worker in works:
                one, each = works[child.worker]
                name = one.step if one.attempt == 1 else f"{one.step} #{one.attempt}"
                age = duration(time.time() - one.since)
                does = one_line(f"{name} of run {each.record.run_id}", 100) + f" for {age}"
            row = _pid_text(child.pid), f"  child {child.number}", _memory_text(child.pid), does
            rows.append(row)
    shown = rows if limit is None else rows[:limit]
    say()
    say_table(("PROCESS", "IS", "MEMORY", "DOES"), shown)
    if len(rows) > len(shown):
        say((f"... {len(rows) - len(shown):,} more; --all lists them", "dim"))


def _say_runs(
    controller: Controller | None,
    engines: Sequence[EngineProcess],
    runs: Sequence[Unfinished],
    limit: int,
) -> None:
    say()
    if not runs:
        say("no unfinished runs")
        return
    rows = [
        (
            each.record.run_id,
            each.record.creation.workflow,
            Text(each.status.value, STATUS_STYLES[each.status]),
            f"{each.record.summary.succeeded:,}/{each.record.summary.steps:,}",
            duration(time.time() - _since(each.record)),
            _driver_text(each, controller, engines),
            doing_text(each, time.time()),
        )
        for each in runs[:limit]
    ]
    head = ("RUN", "WORKFLOW", "STATUS", "STEPS", "FOR", "DRIVEN BY", "WHAT IT DOES OR WAITS FOR")
    say_table(head, rows)
    counts = Counter(each.status for each in runs)
    told = ", ".join(f"{counts[status]:,} {status}" for status in UNFINISHED if counts[status])
    say()
    say(f"{count(len(runs), 'unfinished run')}: {told}")
    if len(runs) > limit:
        say_note(f"these are the newest {limit}; --all lists all")
    if counts[RunStatus.RESUMABLE]:
        hint = command("weft", "runs", "resume")
        say_note(f"`{hint} ID` lets a RESUMABLE run go on")
    if any(wait.kind is WaitingFor.CONTROLLER for each in runs for wait in each.waits):
        hint = command("weft", "controller")
        say_note(
            f"`{hint}` goes on with those that wait for one; so does the next program that"
            " starts a run in the background, or waits for one"
        )


def _driver_text(
    each: Unfinished, controller: Controller | None, engines: Iterable[EngineProcess]
) -> str:
    if each.status is RunStatus.RESUMABLE:
        return "nobody"
    if controller is not None and each.record.engine == controller.engine:
        return "controller"
    pids = [one.pid for one in engines if one.engine == each.record.engine]
    return f"process {_pid_text(pids[0])}" if pids else "nobody"


def _pid_text(pid: int | None) -> str:
    return str(pid) if pid is not None and pid > 0 else "(elsewhere)"


def _memory_text(pid: int | None) -> str:
    size = resident_bytes(pid)
    return "" if size is None else byte_count(size)


def _since(record: RunRecord) -> float:
    started_at = record.summary.started_at
    return record.creation.created_at if started_at is None else started_at


# -- for programs -------------------------------------------------------------------------------


def _document(
    folder: Path,
    objects: Path,
    sizes: Sizes,
    controller: Controller | None,
    engines: Sequence[EngineProcess],
    runs: Sequence[Unfinished],
) -> dict[str, Any]:
    works = {one.worker: (one, each) for each in runs for one in each.running}
    return {
        "home": {
            "path": str(folder),
            "exists": True,
            "objects_path": str(objects),
            "database_bytes": sizes.database,
            "objects_bytes": sizes.objects,
            "logs_bytes": sizes.logs,
            "free_bytes": sizes.free,
        },
        "controller": _controller_document(controller),
        "engines": [_engine_document(engine, controller, works) for engine in engines],
        "runs": [_run_document(each, engines) for each in runs],
    }


def _controller_document(controller: Controller | None) -> dict[str, Any] | None:
    if controller is None:
        return None
    return {
        "pid": controller.pid,
        "version": controller.version,
        "started_at": iso(controller.started_at),
        "engine": controller.engine,
    }


def _engine_document(
    engine: EngineProcess,
    controller: Controller | None,
    works: Mapping[str, tuple[Running, Unfinished]],
) -> dict[str, Any]:
    return {
        "id": engine.engine,
        "pid": engine.pid,
        "is_controller": controller is not None and controller.engine == engine.engine,
        "resident_bytes": resident_bytes(engine.pid),
        "children": [
            {
                "name": child.worker,
                "pid": child.pid,
                "resident_bytes": resident_bytes(child.pid),
                "attempt": _work_document(*works[child.worker]) if child.worker in works else None,
            }
            for child in engine.children
        ],
    }


def _work_document(one: Running, each: Unfinished) -> dict[str, Any]:
    return {"run": each.record.run_id} | _running_document(one)


def _running_document(one: Running) -> dict[str, Any]:
    document = {"step": one.step, "attempt": one.attempt, "since": iso(one.since)}
    return document | {"worker": one.worker or None}


def _run_document(each: Unfinished, engines: Iterable[EngineProcess]) -> dict[str, Any]:
    record, summary = each.record, each.record.summary
    is_driven = each.status is not RunStatus.RESUMABLE
    pids = [one.pid for one in engines if one.engine == record.engine]
    return {
        "id": record.run_id,
        "workflow": record.creation.workflow,
        "status": each.status.value,
        "detached": record.creation.detached,
        "steps": summary.steps,
        "succeeded": summary.succeeded,
        "created_at": iso(record.creation.created_at),
        "started_at": iso(summary.started_at),
        "driven_by": {"engine": record.engine, "pid": pids[0] if pids else None}
        if is_driven
        else None,
        "running": [_running_document(one) for one in each.running],
        "waits": [wait_document(waiting) for waiting in each.waits],
        "problem": each.problem,
    }
