"""The checks of `weft doctor`, one by one: each looks at one thing and says whether it is well.

Nothing is changed by any of them, and all of them work beside engines that write.
"""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from msgspec import DecodeError

from weftline.adapters.journal.inspection import HeldObject, Inspection
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.cli.processes import EngineProcess, engines_in, strays_of
from weftline.cli.terminal import byte_count, command, count
from weftline.core.events import Event, RunStatus, StepSucceeded, decode_event
from weftline.core.run import Run
from weftline.core.values import ListOf, Object, Value, unpack
from weftline.engine.active import ActiveRun
from weftline.engine.recovery import RunReader
from weftline.errors import StorageError, WorkflowNotFoundError
from weftline.ports.journal import Journal, RunRecord
from weftline.ports.objects import ObjectStore

SAMPLED_RUNS = 1000
"""So many of the newest runs are read, unless all are."""

LITTLE_SPACE, NO_SPACE = 1 << 30, 100 << 20
_OPEN = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.PENDING)
_ORPHANS_END_WITHIN_S = 0.5

Progress = Callable[[int, int], None]
"""Told how many of how many were looked at."""


class Level(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


class Check(NamedTuple):
    """What was found. `details` name what is not well, `advice` says what to do about it."""

    name: str
    level: Level
    text: str
    details: Sequence[str] = ()
    advice: str | None = None


# -- the folder ---------------------------------------------------------------------------------


def check_folder(home: Path) -> Check:
    """Whether the home can be used by its owner, and by nobody else."""
    if not os.access(home, os.W_OK | os.X_OK):
        advice = f"let its owner use it: {command('chmod', '700', str(home))}"
        return Check("home", Level.BAD, f"{home} cannot be written to", advice=advice)
    sealed = [path for path in sorted(home.glob("weftline.db*")) if not os.access(path, os.W_OK)]
    if sealed:
        advice = f"let its owner write: {command('chmod', '600', *map(str, sealed))}"
        return Check("home", Level.BAD, f"{sealed[0]} cannot be written to", advice=advice)
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o077:
        text = f"{home} is open to others (mode {mode:03o}): values and code are in it"
        return Check(
            "home", Level.WARN, text, advice=f"{command('chmod', '700', str(home))} closes it"
        )
    return Check("home", Level.OK, f"{home} can be written to, and only by its owner")


def free_space(folders: Iterable[Path]) -> tuple[int, str]:
    """Bytes that are free where there is the least room of these, and where that is."""
    return min((shutil.disk_usage(each).free, str(each)) for each in folders if each.exists())


def check_space(folders: Iterable[Path]) -> Check:
    """Whether there is room for results."""
    return judge_space(*free_space(folders))


def judge_space(free: int, where: str) -> Check:
    """Whether so many bytes are enough."""
    text = f"{byte_count(free)} are free at {where}"
    advice = "free some space: runs stop when nothing can be written"
    if free < NO_SPACE:
        return Check("space", Level.BAD, text, advice=advice)
    level = Level.WARN if free < LITTLE_SPACE else Level.OK
    return Check("space", level, text, advice=None if level is Level.OK else advice)


# -- the database -------------------------------------------------------------------------------


def check_database(inspection: Inspection, *, full: bool) -> Check:
    """Whether the database file is sound."""
    damage = inspection.damage(full=full)
    if damage:
        advice = (
            "restore weftline.db from a backup, or save what can be saved with SQLite's .recover"
        )
        return Check("database", Level.BAD, "the database is damaged", damage, advice)
    how = "integrity_check" if full else "quick_check"
    return Check("database", Level.OK, f"SQLite finds nothing wrong ({how})")


def check_schema(inspection: Inspection) -> Check:
    """Whether this release knows the database."""
    found, known = inspection.schema()
    if found > known:
        text = f"written by a newer Weftline (schema {found}; this one knows up to {known})"
        return Check("schema", Level.BAD, text, advice="upgrade weftline")
    if found < known:
        text = f"schema {found} is older than {known}: runs were not checked"
        advice = "any use of the home brings it up to date, `weft runs list` too"
        return Check("schema", Level.WARN, text, advice=advice)
    return Check("schema", Level.OK, f"schema {found}, the newest")


class RunsRead(NamedTuple):
    """What reading the runs has brought. `left` have no living owner and are not over;
    `volatile` are objects that need not be there any more."""

    check: Check
    left: list[RunRecord]
    volatile: set[str]


def check_runs(
    journal: SqliteJournal,
    inspection: Inspection,
    engines: Iterable[EngineProcess],
    *,
    full: bool,
    progress: Progress,
) -> RunsRead:
    """Whether every run follows from its journal, and its row tells the same."""
    limit = None if full else SAMPLED_RUNS
    alive = {each.engine for each in engines if each.pid is not None}
    details = [
        f"run {gap.run_id!r} has {gap.events:,} events from {gap.first} to {gap.last}, and should"
        f" have all from 1 to {gap.last_seq}"
        for gap in inspection.gaps(limit)
    ]
    if full:
        details += [f"run {each!r} has events and no row" for each in inspection.ownerless_events()]
    records = journal.list_runs(limit=limit)
    left, volatile = list[RunRecord](), set[str]()
    for number, record in enumerate(records):
        progress(number, len(records))
        try:
            reader = RunReader(journal, record.run_id)
            events = reader.refresh()
            record = reader.recorded().record
            problems = contradictions(record, reader.run)
            volatile.update(name for _, event in events for name in volatile_objects(event))
        except WorkflowNotFoundError:  # deleted meanwhile
            continue
        except Exception as error:  # whatever it is, it is what we are looking for
            problems = [f"its journal cannot be read: {type(error).__name__}: {error}"]
        details += [f"run {record.run_id!r}: {problem}" for problem in problems]
        is_open = record.summary.status in (*_OPEN, RunStatus.RESUMABLE)
        if is_open and record.engine not in alive:
            left.append(record)
    more = "" if full or len(records) < SAMPLED_RUNS else f" (the newest {SAMPLED_RUNS:,})"
    if details:
        advice = (
            "restore the database from a backup; or delete these runs with `weft runs delete ID`"
        )
        text = f"of {count(len(records), 'run')}{more} some contradict themselves"
        return RunsRead(Check("runs", Level.BAD, text, details, advice), left, volatile)
    text = f"{count(len(records), 'run')}{more} agree with their journals"
    return RunsRead(Check("runs", Level.OK, text), left, volatile)


def contradictions(record: RunRecord, run: Run) -> list[str]:
    """Where the run's row tells something else than its journal."""
    owner = ActiveRun(record.run_id, run, record.creation, record.epoch, record.last_seq)
    told, true = record.summary, owner.summary()
    found = []
    # Who lets a run go says so in its row alone: that nobody drives it is no event.
    if told.status != true.status and not (told.status is RunStatus.RESUMABLE and run.is_open):
        found.append(f"its row says {told.status}, its journal {true.status}")
    for field, noun in (
        ("steps", "steps"),
        ("succeeded", "successful steps"),
        ("started_at", "as its beginning"),
        ("ended_at", "as its end"),
    ):
        said, known = getattr(told, field), getattr(true, field)
        if said != known:
            found.append(f"its row says {said} {noun}, its journal {known}")
    for field in ("error", "value"):
        if getattr(told, field) != getattr(true, field):
            found.append(f"its row has another {field} than its journal")
    return found


def volatile_objects(event: Event) -> Iterator[str]:
    """Objects of the value that the event brought, if they need not survive a crash."""
    if isinstance(event, StepSucceeded) and event.is_volatile:
        waiting: list[Value] = [unpack(bytes(event.value))]
        while waiting:
            value = waiting.pop()
            if isinstance(value, Object):
                yield value.hash
            elif isinstance(value, ListOf):
                waiting += value.values


def check_graphs(inspection: Inspection) -> Check:
    """Whether every graph is there that a run names."""
    missing = [f"graph {graph} of run {run!r}" for run, graph in inspection.missing_graphs()]
    if missing:
        advice = "restore the database from a backup: such runs can be neither shown nor resumed"
        return Check(
            "graphs", Level.BAD, f"{count(len(missing), 'graph')} missing", missing, advice
        )
    return Check("graphs", Level.OK, "all graphs are there that runs name")


# -- the objects --------------------------------------------------------------------------------


def check_objects(
    objects: ObjectStore,
    journal: Journal,
    inspection: Inspection,
    volatile: set[str],
    *,
    full: bool,
    progress: Progress,
) -> Check:
    """Whether every object is there that a run holds; with `full`, whether it is unchanged."""
    held = list(inspection.held_objects())
    details = []
    for number, each in enumerate(held):
        progress(number, len(held))
        problem = _problem_of(objects, each.name, full=full)
        if problem is None:
            continue
        is_volatile = each.name in volatile or _is_volatile(journal, each)
        if not is_volatile or objects.exists(each.name):
            others = f" and {each.runs - 1:,} more" if each.runs > 1 else ""
            details.append(f"object {each.name} of run {each.run_id!r}{others} {problem}")
    if details:
        advice = (
            "restore these files from a backup; or delete the runs, and run them again: what cannot"
            " be read cannot be used by their steps"
        )
        text = f"of {count(len(held), 'object')} some cannot be read"
        return Check("objects", Level.BAD, text, details, advice)
    how = "there and unchanged" if full else "there"
    return Check("objects", Level.OK, f"{count(len(held), 'object')} that runs hold: all {how}")


def _is_volatile(journal: Journal, held: HeldObject) -> bool:
    """Whether the object is one that the run holding it need not find any more."""
    found = journal.read(held.run_id)
    try:
        events = [] if found is None else [decode_event(entry.body) for entry in found[1]]
    except DecodeError:  # what is wrong with the run is told with the runs
        return False
    return any(held.name in volatile_objects(event) for event in events)


def _problem_of(objects: ObjectStore, name: str, *, full: bool) -> str | None:
    if not full:
        return None if objects.exists(name) else "is missing"
    try:
        objects.read(name)
    except StorageError as error:
        return "is missing" if not objects.exists(name) else f"is damaged: {error}"
    return None


def check_leftovers(folder: Path) -> Check:
    """Whether somebody died while writing an object. `folder` is that of the objects."""
    number = size = 0
    try:
        entries = list(os.scandir(folder / "incoming"))
    except OSError:
        entries = []
    for entry in entries:
        pid = entry.name.partition("-")[0]
        if pid.isdigit() and os.path.exists(f"/proc/{pid}"):
            continue  # it is being written
        try:
            size += entry.stat(follow_symlinks=False).st_size
        except OSError:  # it has just become an object
            continue
        number += 1
    if number:
        text = f"{count(number, 'file')} of dead processes in incoming, {byte_count(size)}"
        return Check("leftovers", Level.WARN, text, advice="`weft gc` removes them after an hour")
    return Check("leftovers", Level.OK, "nothing half-written was left behind")


# -- the living and the dead --------------------------------------------------------------------


def check_engines(engines: Iterable[EngineProcess]) -> Check:
    """Whether dead engines have left locks behind."""
    alive, left = 0, list[str]()
    for each in engines:
        if each.pid is not None:
            alive += 1
        elif each.lock.exists():
            left.append(each.lock.name)
        if each.pid is None:
            left += [child.lock.name for child in each.children if child.pid is None]
    living = f"{count(alive, 'engine')} alive" if alive else "no engine is alive"
    if left:
        text = f"{living}; dead ones have left {count(len(left), 'lock file')}"
        advice = "they harm nobody; `weft gc`, or the next use of their runs, removes them"
        return Check("engines", Level.WARN, text, left, advice)
    return Check("engines", Level.OK, f"{living}; dead ones have left nothing")


def check_orphans(home: Path) -> Check:
    """Whether processes go on that belong to dead engines."""
    deadline = time.monotonic() + _ORPHANS_END_WITHIN_S
    while found := _orphans(home):
        if time.monotonic() >= deadline:  # they end a moment after their engine
            break
        time.sleep(0.05)
    if found:
        text = f"processes of dead engines go on: {len(found):,}"
        details = [f"process {pid}" for pid in found]
        advice = f"end them: {command('kill', '-9', *map(str, found))}; or resume their runs"
        return Check("orphans", Level.BAD, text, details, advice)
    return Check("orphans", Level.OK, "no process of a dead engine goes on")


def _orphans(home: Path) -> list[int]:
    engines = engines_in(home)
    held = [c.pid for each in engines if each.pid is None for c in each.children]
    return sorted({*strays_of(home, engines), *(pid for pid in held if pid is not None)})


def check_interpreters(left: Iterable[RunRecord]) -> Check:
    """Whether the code of the runs that can be resumed still finds its interpreter and folder."""
    gone: dict[str, list[str]] = {}
    number = 0
    for record in left:
        number += 1
        environment = record.creation.environment
        if not Path(environment.python).exists():
            gone.setdefault(f"interpreter {environment.python}", []).append(record.run_id)
        elif not Path(environment.cwd).is_dir():
            gone.setdefault(f"folder {environment.cwd}", []).append(record.run_id)
    if gone:
        details = [
            f"{what} of run {runs[0]!r}" + (f" and {len(runs) - 1:,} more" if len(runs) > 1 else "")
            for what, runs in gone.items()
        ]
        advice = "put it back; else those who resume them use their own, and warn"
        return Check("environments", Level.WARN, "some that runs need are gone", details, advice)
    text = f"{count(number, 'run')} can be resumed: interpreters and folders are there"
    return Check("environments", Level.OK, text if number else "no run is to be resumed")
