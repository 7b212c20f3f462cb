"""`weft gc`: removes what nobody needs any more, and tells what that was."""

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from typer import BadParameter

from weftline.app import home
from weftline.cli.terminal import (
    byte_count,
    command,
    count,
    is_terminal,
    iso,
    moment,
    plain,
    say,
    say_json,
    say_note,
    say_table,
)
from weftline.core.events import RunStatus
from weftline.errors import did_you_mean
from weftline.ports.objects import Removed
from weftline.ports.upkeep import EndedRun, Space
from weftline.upkeep.tidying import ENDED, Tidied, tidying_of

MUCH_FREE, MUCH_FREE_BYTES = 0.25, 8_000_000
"""Worth writing the database anew: such a part of it, and so much of it."""

_UNITS = {"w": 7 * 86_400, "d": 86_400, "h": 3600, "min": 60, "m": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(w|d|h|min|m|s)")
_PROGRESS_S = 0.2

_KINDS = (
    ("graphs", "graphs that no run names"),
    ("environments", "environments that no run names"),
    ("trashed", "objects put into the trash"),
    ("restored", "objects taken out of the trash"),
    ("erased", "objects removed for good"),
    ("incoming", "half-written objects"),
    ("logs", "log files"),
    ("locks", "files of dead processes"),
)


def tidy_home(
    *,
    older_than: str | None,
    statuses: Sequence[str],
    dry_run: bool,
    vacuum: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove what nobody needs, and runs that ended long ago if that is asked; the exit status."""
    age_s = None if older_than is None else parse_duration(older_than)
    wanted = [_ended_status(text) for text in statuses] or list(ENDED)
    if statuses and age_s is None:
        raise BadParameter("--status chooses among the runs that --older-than deletes: give both")
    app = home()
    folder, objects = app.settings.home, app.settings.objects
    if folder is None or objects is None or not (folder / "weftline.db").exists():
        where = "this home is in memory" if folder is None else f"there is no home at {folder}"
        if as_json:
            path = None if folder is None else str(folder)
            say_json({"home": path, "note": f"{where}: there is nothing to remove"})
        else:
            say_note(f"{where}: there is nothing to remove")
        return 0
    progress = _Progress(is_quiet=as_json)
    tidying = tidying_of(folder, objects, progress)
    runs = [] if age_s is None else tidying.ended_runs(age_s, wanted)
    if runs and not dry_run and not yes and not _is_sure(runs):
        say_note("nothing was deleted or removed")
        return 1
    deleted = _size(runs) if dry_run else tidying.delete_runs(runs)
    without = {run.run_id for run in runs} if dry_run else set[str]()
    tidied = tidying.tidy(without=without, is_trial=dry_run)
    before = tidying.space() or Space(0, 0, 0)
    if vacuum and not dry_run and before.free_bytes:
        tidying.compact()
    space = tidying.space() or before
    progress.end()
    if as_json:
        document = _document(
            deleted, tidied, space, given_back=before.size_bytes - space.size_bytes
        )
        listed = [_run_document(run) for run in runs]
        say_json({"home": str(folder), "dry_run": dry_run, "deleted": listed, **document})
        return 0
    if dry_run and runs:
        say(f"runs that would be deleted: {_told(runs)}")
    _say_removed(deleted, tidied, dry_run=dry_run)
    _say_space(before, space, vacuum=vacuum, dry_run=dry_run)
    return 0


def parse_duration(text: str) -> float:
    """Seconds, of `7d`, `12h`, `1d12h`, `30min` and the like. Raises: BadParameter."""
    parts = _PART.findall(text.strip().lower())
    rest = _PART.sub("", text.strip().lower())
    if not parts or rest.strip():
        raise BadParameter(
            f"{text!r} is no length of time: give a number with w, d, h, min or s, such as 7d, 12h"
            " or 1d12h"
        )
    return sum(float(amount) * _UNITS[unit] for amount, unit in parts)


def _ended_status(text: str) -> RunStatus:
    known = [status.value for status in ENDED]
    if text.upper() not in known:
        raise BadParameter(
            f"{text!r} is no status of runs that have ended{did_you_mean(text.upper(), known)};"
            f" there are {', '.join(known)}"
        )
    return RunStatus(text.upper())


def _is_sure(runs: Sequence[EndedRun]) -> bool:
    if not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
        raise BadParameter(
            f"deleting {count(len(runs), 'run')} cannot be undone: say --yes to do it without being"
            " asked, or --dry-run to see which"
        )
    sys.stderr.write(plain(f"Delete {_told(runs)} for good? [y/N] "))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _told(runs: Sequence[EndedRun]) -> str:
    """How many of which status, and when they ended."""
    of = Counter(run.status.value for run in runs)
    statuses = ", ".join(f"{number:,} {status}" for status, number in sorted(of.items()))
    first, last = moment(runs[0].ended_at), moment(runs[-1].ended_at)
    when = f"ended {first}" if first == last else f"ended {first} to {last}"
    return f"{count(len(runs), 'run')} ({statuses}; {when})"


def _size(runs: Sequence[EndedRun]) -> Removed:
    return Removed(len(runs), sum(run.size_bytes for run in runs))


# -- telling ------------------------------------------------------------------------------------


class _Progress:
    """Shows how far a long removal has come, to a person who watches."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_shown = not is_quiet and is_terminal(sys.stderr)
        self._shown_at: float | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._is_shown and (self._shown_at is None or now - self._shown_at >= _PROGRESS_S):
            self._shown_at = now
            sys.stderr.write(f"\r\x1b[K{what}: {done:,} of {total:,}")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave nothing of it on the screen."""
        if self._shown_at is not None:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _say_removed(deleted: Removed, tidied: Tidied, *, dry_run: bool) -> None:
    found: list[tuple[str, Removed]] = [("runs deleted", deleted)]
    found += [(title, getattr(tidied, name)) for name, title in _KINDS]
    rows = [
        (title, f"{each.number:,}", byte_count(each.size_bytes))
        for title, each in found
        if each.number
    ]
    if rows:
        say_table(("WOULD BE" if dry_run else "DONE", "NUMBER", "BYTES"), rows)
    else:
        say("there is nothing to remove" if dry_run else "there was nothing to remove")
    if tidied.waiting.number:
        verb = "would be" if dry_run else "are" if tidied.waiting.number > 1 else "is"
        amount = count(tidied.waiting.number, "object")
        say_note(
            f"{amount} ({byte_count(tidied.waiting.size_bytes)}) {verb} in the trash: what is there"
            " for a day, and no run has come to need, the next `weft gc` removes for good"
        )
    if tidied.kept_for:
        others = ", ".join(str(path) for path in tidied.kept_for)
        say_note(f"objects were left alone, since other homes keep theirs with them: {others}")


def _say_space(before: Space, after: Space, *, vacuum: bool, dry_run: bool) -> None:
    given_back = before.size_bytes - after.size_bytes
    if vacuum and not dry_run:
        say(f"the database gave back {byte_count(max(0, given_back))}")
        return
    free = after.free_bytes
    if free and (vacuum or (free >= MUCH_FREE_BYTES and free >= MUCH_FREE * after.size_bytes)):
        say_note(
            f"{byte_count(free)} of the {byte_count(after.size_bytes)} of the database are free;"
            f" {command('weft', 'gc', '--vacuum')} gives them back (runs wait meanwhile)"
        )


def _document(deleted: Removed, tidied: Tidied, space: Space, *, given_back: int) -> dict[str, Any]:
    found = [("runs", deleted), *((name, getattr(tidied, name)) for name, _ in _KINDS)]
    return {
        **{name: _removed_document(each) for name, each in found},
        "in_trash": _removed_document(tidied.waiting),
        "objects_shared_with": [str(path) for path in tidied.kept_for],
        "database": {
            "bytes": space.size_bytes,
            "free_bytes": space.free_bytes,
            "log_bytes": space.log_bytes,
            "given_back_bytes": max(0, given_back),
        },
    }


def _removed_document(removed: Removed) -> dict[str, int]:
    return {"number": removed.number, "bytes": removed.size_bytes}


def _run_document(run: EndedRun) -> dict[str, Any]:
    return {"id": run.run_id, "status": run.status.value, "ended_at": iso(run.ended_at)}
