"""`weft doctor`: goes through all checks of the home, tells what is not well, and what to do."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from weftline.adapters.journal.inspection import Inspection
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.app import home
from weftline.cli.checks import (
    Check,
    Level,
    Progress,
    RunsRead,
    check_database,
    check_engines,
    check_folder,
    check_graphs,
    check_interpreters,
    check_leftovers,
    check_objects,
    check_orphans,
    check_runs,
    check_schema,
    check_space,
)
from weftline.cli.look import glyphs_for
from weftline.cli.processes import engines_in
from weftline.cli.terminal import is_terminal, one_line, say, say_json, say_note
from weftline.errors import WeftlineError
from weftline.ports.objects import ObjectStore

SHOWN_DETAILS = 10
_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "bold red"}
_PROGRESS_S = 0.2


def check_home(*, full: bool, as_json: bool) -> int:
    """Check the home; the exit status: 1 when something is bad."""
    app = home()
    folder, objects = app.settings.home, app.settings.objects
    if folder is None or objects is None or not folder.is_dir():
        note = (
            "this home is in memory: there is nothing to check"
            if folder is None
            else f"there is no home at {folder}: there is nothing to check"
        )
        if as_json:
            where = None if folder is None else str(folder)
            say_json({"home": where, "note": note, "is_sound": True, "checks": []})
        else:
            say_note(note)
        return 0
    found = []
    for check in _checks(folder, objects, app.objects, full=full, is_quiet=as_json):
        found.append(check)
        if not as_json:
            _say_check(check)
    is_sound = all(check.level is not Level.BAD for check in found)
    if as_json:
        documents = [_document(check) for check in found]
        say_json({"home": str(folder), "is_sound": is_sound, "checks": documents})
    else:
        _say_verdict(found)
    return 0 if is_sound else 1


def _checks(
    folder: Path, objects_folder: Path, objects: ObjectStore, *, full: bool, is_quiet: bool
) -> Iterator[Check]:
    """All checks, each as soon as it is made."""
    yield _guarded("home", lambda: check_folder(folder))
    yield _guarded("space", lambda: check_space([folder, objects_folder]))
    if not (folder / "weftline.db").exists():
        yield Check("database", Level.OK, "there is none yet: the first run makes it")
        yield check_leftovers(objects_folder)
        yield check_engines(engines_in(folder))
        yield check_orphans(folder)
        return
    inspection, journal = Inspection(folder), SqliteJournal(folder, is_read_only=True)
    try:
        yield _guarded("database", lambda: check_database(inspection, full=full))
        yield (schema := _guarded("schema", lambda: check_schema(inspection)))
        if schema.level is Level.OK:
            runs_progress = _progress("runs", is_quiet=is_quiet)
            try:
                engines = engines_in(folder)
                read = check_runs(journal, inspection, engines, full=full, progress=runs_progress)
            except Exception as error:  # rows that cannot be read raise anything
                read = RunsRead(_unreadable("runs", error), [], set())
            yield read.check
            yield _guarded("graphs", lambda: check_graphs(inspection))
            objects_progress = _progress("objects", is_quiet=is_quiet)
            yield _guarded(
                "objects",
                lambda: check_objects(
                    objects,
                    journal,
                    inspection,
                    read.volatile,
                    full=full,
                    progress=objects_progress,
                ),
            )
            yield check_interpreters(read.left)
        yield check_leftovers(objects_folder)
        yield check_engines(engines_in(folder))
        yield check_orphans(folder)
    finally:
        inspection.close()
        journal.close()


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """What was found; that it cannot be found out is bad, too."""
    try:
        return check()
    except Exception as error:  # whatever it is, it belongs to what is looked for
        return _unreadable(name, error)


def _unreadable(name: str, error: Exception) -> Check:
    kind = "" if isinstance(error, WeftlineError) else f"{type(error).__name__}: "
    return Check(name, Level.BAD, f"this cannot be checked: {kind}{error}")


def _progress(noun: str, *, is_quiet: bool) -> Progress:
    """Shows how far a long check has come, to a person who watches."""
    if is_quiet or not is_terminal(sys.stderr):
        return lambda done, total: None
    shown_at = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        is_last = done + 1 >= total
        if is_last or time.monotonic() - shown_at >= _PROGRESS_S:
            shown_at = time.monotonic()
            text = "" if is_last else f"checking {noun}: {done:,} of {total:,}"
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    return show


# -- telling ------------------------------------------------------------------------------------


def _say_check(check: Check) -> None:
    glyphs = glyphs_for(sys.stdout)
    style = _STYLES[check.level]
    say((f"{glyphs.level(check.level)} ", style), (f"{check.name:<14}", "dim"), _line(check.text))
    for detail in check.details[:SHOWN_DETAILS]:
        say(" " * 18 + _line(detail))
    if len(check.details) > SHOWN_DETAILS:
        say((f"{'':18}... {len(check.details) - SHOWN_DETAILS:,} more; --json lists all", "dim"))
    if check.advice is not None:
        say(" " * 16, ("what to do: ", "dim"), _line(check.advice))


def _line(text: str) -> str:
    return one_line(text, 500)


def _say_verdict(found: list[Check]) -> None:
    bad = sum(check.level is Level.BAD for check in found)
    warned = sum(check.level is Level.WARN for check in found)
    say()
    if bad:
        say((f"{bad} of {len(found)} checks found something bad", "bold red"))
    elif warned:
        say((f"all is sound; {warned} of {len(found)} checks found something to look at", "yellow"))
    else:
        say(("all is well", "green"))


def _document(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "level": check.level.value,
        "text": check.text,
        "details": list(check.details),
        "advice": check.advice,
    }
