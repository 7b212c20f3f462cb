"""What keeps a journal in order: finding and removing what nobody needs."""

from collections.abc import Container, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from weftline.core.events import RunStatus
from weftline.ports.objects import Removed, StoredFile


class EndedRun(NamedTuple):
    """A run that has ended, and how large its events are."""

    run_id: str
    epoch: int
    status: RunStatus
    ended_at: float
    size_bytes: int


class Held(NamedTuple):
    """Objects that are needed: by any run, and by those that have not ended. What news name that
    no run has taken in is in both."""

    by_any: set[str]
    by_unfinished: set[str]

    def holds(self, found: StoredFile) -> bool:
        """Whether the object is needed there: an ended run needs no volatile one any more."""
        return found.name in (self.by_unfinished if found.is_volatile else self.by_any)


class Unnamed(NamedTuple):
    """What of a journal no run names."""

    graphs: Removed
    environments: Removed


class JournalUpkeep(Protocol):
    """What a journal tells to those who tidy up, and what it forgets for them, while engines write.

    Runs that are in `without` count as if they were deleted.

    Raises (all calls): StorageFull, StorageError.
    """

    def ended_runs(self, statuses: Iterable[RunStatus], before: float) -> list[EndedRun]:
        """Runs of these statuses that ended before this time, oldest first. Virtual actors are not
        among them, since they never end for good."""
        ...

    def delete_runs(self, runs: Sequence[EndedRun]) -> Removed:
        """Forget, in one commit, those of the runs whose epoch has not changed."""
        ...

    def held_objects(self, without: Container[str] = ()) -> Held:
        """All objects that are needed now."""
        ...

    def unheld(self, files: Sequence[StoredFile]) -> AbstractContextManager[list[StoredFile]]:
        """Those of the files that nobody needs, in order. Nothing is committed until the block is
        left, so that nobody comes to need them within it: leave it soon."""
        ...

    def unnamed(self, without: Container[str] = ()) -> Unnamed:
        """What `drop_unnamed` would forget."""
        ...

    def drop_unnamed(self) -> Unnamed:
        """Forget graphs and environments that no run names."""
        ...

    def named_logs(self, without: Container[str] = ()) -> set[str]:
        """Every file that an event's `LogRange` names, and perhaps others."""
        ...


class Space(NamedTuple):
    """How many bytes a database has on the disk, how many of them are free, and those of its log
    of changes."""

    size_bytes: int
    free_bytes: int
    log_bytes: int


class DatabaseUpkeep(Protocol):
    """Gives back what a journal's database takes on the disk and does not use.

    Raises (all calls): StorageFull, StorageError.
    """

    def space(self) -> Space: ...

    def fold_log(self) -> None:
        """Bring the log of changes into the database, and shorten it, as far as readers allow."""
        ...

    def compact(self) -> None:
        """Write the database anew without its free pages. Nobody else can write meanwhile."""
        ...
