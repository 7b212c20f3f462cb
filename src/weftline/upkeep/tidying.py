"""Tidies a home up, step by step, beside engines that write to it.

What no run needs is removed; an object goes to the trash first, and for good a day later. What was
found without a lock is looked at once more before it is removed, while nobody can commit. Any step
may be interrupted and done again, also by two at once.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from msgspec import Struct

from weftline.adapters.journal.upkeep import SqliteUpkeep
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.local_upkeep import LocalUpkeep
from weftline.adapters.objects.sharing import other_homes
from weftline.core.events import RunStatus
from weftline.errors import StorageError
from weftline.ports.clock import Clock
from weftline.ports.objects import ObjectUpkeep, Removed, StoredFile
from weftline.ports.upkeep import DatabaseUpkeep, EndedRun, Held, JournalUpkeep, Space
from weftline.upkeep.leftovers import Leftover, Leftovers

ENDED = (RunStatus.SUCCESSFUL, RunStatus.FAILED, RunStatus.CANCELED)
"""What a run may be that has ended."""

DAY, HOUR = 86_400.0, 3_600.0

# Others cannot commit while so many objects are moved, or runs deleted: some milliseconds.
_FILES_AT_ONCE, _RUNS_AT_ONCE = 200, 20

_NOTHING = Removed(0, 0)

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Told of what, how many, of how many, something was done."""


class Ages(NamedTuple):
    """For how many seconds what nobody needs is left alone.

    An object may be on its way to a run, which names it later; so `object_s` is longer than that
    takes, and for `trash_s` whoever needs it after all brings it back.
    """

    object_s: float = DAY
    trash_s: float = DAY
    incoming_s: float = DAY
    dead_writer_s: float = HOUR
    log_s: float = DAY


AGES = Ages()


class Tidied(Struct, kw_only=True):
    """What was done, or in a trial would be. `waiting` is what is left in the trash.

    `kept_for` are other homes, which keep their objects in the same folder: none is removed then.
    """

    graphs: Removed = _NOTHING
    environments: Removed = _NOTHING
    trashed: Removed = _NOTHING
    restored: Removed = _NOTHING
    erased: Removed = _NOTHING
    waiting: Removed = _NOTHING
    incoming: Removed = _NOTHING
    logs: Removed = _NOTHING
    locks: Removed = _NOTHING
    kept_for: Sequence[Path] = ()


class Tidying:
    """Tidies up one home. `sharing` are the homes that keep their objects in the same folder.

    Raises (all calls): StorageError, StorageFull.
    """

    def __init__(
        self,
        journal: JournalUpkeep,
        objects: ObjectUpkeep,
        leftovers: Leftovers | None = None,
        database: DatabaseUpkeep | None = None,
        *,
        sharing: Sequence[Path] = (),
        ages: Ages = AGES,
        clock: Clock = time,
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        self._journal, self._objects = journal, objects
        self._leftovers, self._database = leftovers, database
        self._sharing, self._ages, self._clock = sharing, ages, clock
        self._progress = progress

    # -- runs -------------------------------------------------------------------------------

    def ended_runs(self, older_than_s: float, statuses: Iterable[RunStatus]) -> list[EndedRun]:
        """Runs of these statuses that ended longer ago than this, oldest first."""
        return self._journal.ended_runs(statuses, self._clock.time() - older_than_s)

    def delete_runs(self, runs: Sequence[EndedRun]) -> Removed:
        """Forget these runs, but for those that somebody has resumed since."""
        removed = _NOTHING
        for done, some in _in_parts(runs, _RUNS_AT_ONCE):
            self._progress("runs", done, len(runs))
            removed = _sum(removed, self._journal.delete_runs(some))
        return removed

    # -- everything else --------------------------------------------------------------------

    def tidy(self, *, without: Collection[str] = (), is_trial: bool = False) -> Tidied:
        """Remove what nobody needs. A trial only counts; runs that are in `without` then count as
        if they were deleted."""
        tidied = Tidied(kept_for=self._sharing)
        journal, ages = self._journal, self._ages
        unnamed = journal.unnamed(without) if is_trial else journal.drop_unnamed()
        tidied.graphs, tidied.environments = unnamed
        if not self._sharing:
            self._tidy_objects(tidied, journal.held_objects(without), is_trial=is_trial)
        tidied.incoming = self._objects.clear_incoming(
            ages.incoming_s, ages.dead_writer_s, is_trial=is_trial
        )
        if self._leftovers is not None:
            tidied.locks = _remove(self._leftovers.locks(), is_trial=is_trial)
            if logs := self._leftovers.old_logs(ages.log_s):
                named = journal.named_logs(without)
                logs = [each for each in logs if each.path.stem not in named]
                tidied.logs = _remove(logs, is_trial=is_trial)
        if self._database is not None and not is_trial:
            self._database.fold_log()
        return tidied

    def _tidy_objects(self, tidied: Tidied, held: Held, *, is_trial: bool) -> None:
        now, ages = self._clock.time(), self._ages
        in_trash = list(self._objects.trashed())
        places = set(map(_place, in_trash))
        old, again = list[StoredFile](), set[tuple[str, bool]]()
        for each in self._objects.objects():
            if each.modified_at <= now - ages.object_s and not held.holds(each):
                old.append(each)
            if _place(each) in places:  # stored again since it was thrown away
                again.add(_place(each))
        over = [each for each in in_trash if each.modified_at <= now - ages.trash_s]
        spare = [each for each in over if held.holds(each) and _place(each) in again]
        over = [each for each in over if not held.holds(each)]
        needed = [each for each in in_trash if held.holds(each) and _place(each) not in again]
        if not is_trial:
            needed = [each for each in needed if self._objects.restore(each.name)]
            spare = [each for each in spare if self._is_spare(each) and self._objects.erase(each)]
            over = self._each_unheld("trash", over, self._objects.erase)
            old = self._each_unheld("objects", old, self._objects.trash)
        tidied.restored, tidied.trashed = _size(needed), _size(old)
        tidied.erased = _size(over + spare)
        tidied.waiting = _size({*in_trash, *old}.difference(needed, over, spare))

    def _is_spare(self, found: StoredFile) -> bool:
        """Whether what is in the trash is there beside what is in its place."""
        return not self._objects.restore(found.name)

    def _each_unheld(
        self, what: str, files: list[StoredFile], act: Callable[[StoredFile], bool]
    ) -> list[StoredFile]:
        """Act on those of the files that nobody needs by now; those for which that worked."""
        done: list[StoredFile] = []
        for count, some in _in_parts(files, _FILES_AT_ONCE):
            self._progress(what, count, len(files))
            with self._journal.unheld(some) as unheld:
                done += filter(act, unheld)
        return done

    # -- the database -----------------------------------------------------------------------

    def space(self) -> Space | None:
        """What the database takes on the disk; None when there is none."""
        return None if self._database is None else self._database.space()

    def compact(self) -> None:
        """Give back what is free in the database; nobody else can write meanwhile."""
        if self._database is not None:
            self._database.compact()


def tidying_of(home: Path, objects: Path, progress: Progress, ages: Ages = AGES) -> Tidying:
    """What tidies up the home in this folder, with its objects in the other one."""
    journal = SqliteUpkeep(home)
    return Tidying(
        journal,
        LocalUpkeep(LocalObjectStore(objects)),
        Leftovers(home),
        journal,
        sharing=other_homes(objects, home),
        ages=ages,
        progress=progress,
    )


def _remove(files: Iterable[Leftover], *, is_trial: bool) -> Removed:
    removed = _NOTHING
    for each in files:
        try:
            if is_trial or Leftovers.remove(each):
                removed = _sum(removed, Removed(1, each.size_bytes))
        except OSError as error:
            raise StorageError(f"cannot remove {each.path}: {error.strerror}") from error
    return removed


def _in_parts(items: Sequence[T], size: int) -> Iterator[tuple[int, Sequence[T]]]:
    for start in range(0, len(items), size):
        yield start, items[start : start + size]


def _place(found: StoredFile) -> tuple[str, bool]:
    return found.name, found.is_volatile


def _size(files: Collection[StoredFile]) -> Removed:
    return Removed(len(files), sum(each.size_bytes for each in files))


def _sum(one: Removed, other: Removed) -> Removed:
    return Removed(one.number + other.number, one.size_bytes + other.size_bytes)
