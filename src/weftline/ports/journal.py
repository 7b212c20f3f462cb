"""Where runs are recorded."""

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from msgspec import Raw, Struct

from weftline.core.environment import Environment
from weftline.core.events import RunStatus
from weftline.core.values import Error, Packed


class Entry(NamedTuple):
    """One event as it is stored. `seq` counts from 1 within its run, without gaps."""

    seq: int
    at: float
    kind: str
    body: bytes


class Summary(Struct, kw_only=True):
    """What lists of runs show, so that they need not fold a journal."""

    status: RunStatus
    steps: int
    succeeded: int
    started_at: float | None = None
    ended_at: float | None = None
    wake_at: float | None = None
    error: Error | None = None
    value: Packed | None = None
    base_seq: int = 0
    """The seq of the event at which whoever goes on with the run may begin to read."""


class Creation(Struct, frozen=True, kw_only=True):
    """What is said once, when a run is submitted."""

    workflow: str
    created_at: float
    environment: Environment
    metadata: dict[str, Any]
    detached: bool = False
    parent: str | None = None


class InboxKind(StrEnum):
    """What an entry of the inbox asks for, and so how its body is read."""

    CANCEL = "cancel"
    PAUSE = "pause"
    CONTINUE = "continue"
    SIGNAL = "signal"
    CALL = "call"


class Signal(Struct, frozen=True):
    """The body of a SIGNAL: a packed value for whoever waits for it."""

    name: str
    value: Raw
    objects: tuple[str, ...] = ()


class ActorCall(Struct, frozen=True):
    """The body of a CALL: as in `core.events.CallReceived`."""

    steps: bytes
    call: str
    objects: tuple[str, ...] = ()


class InboxEntry(NamedTuple):
    """News for a run that its owner has not taken in. `body` is JSON; numbers grow."""

    number: int
    run_id: str
    kind: str
    body: bytes


class Posted(NamedTuple):
    """What became of news for a run, how the run stood then, and who owned it."""

    counts: bool
    status: RunStatus
    engine: str | None


class RunChange(Struct, kw_only=True):
    """One run's part of a batch. All of it is written, or none.

    With `creation` the run is new: it gets epoch 1 and `engine` as its owner, and the change is
    refused when the id is taken. Else the change is refused unless the stored epoch is `epoch`
    and the run's last seq is the one before the first entry. With `takes` the run's epoch is
    raised by one and `engine` becomes its owner (None: it has no owner from now on), and with
    `detached` the run is one that controllers drive from now on. `taken` are the numbers of the
    inbox entries that the change takes in.
    """

    run_id: str
    epoch: int
    entries: Sequence[Entry]
    summary: Summary
    creation: Creation | None = None
    takes: bool = False
    engine: str | None = None
    detached: bool = False
    taken: Sequence[int] = ()


class Batch(Struct, kw_only=True):
    """Everything that happened in all runs since the last commit.

    `graphs` are stored before they are named, in pages, by content hash; one that is there
    already is left alone. Pages may be iterated over again. `objects` says which run holds which
    object.
    """

    changes: list[RunChange]
    graphs: Sequence[tuple[str, Iterable[bytes]]] = ()
    objects: list[tuple[str, str]] = []


class RunRecord(Struct, frozen=True, kw_only=True):
    """A run as its row tells. `last_seq` is the seq of its newest event."""

    run_id: str
    creation: Creation
    summary: Summary
    epoch: int
    engine: str | None
    last_seq: int


FROM_BASE = -1
"""In place of a seq: where whoever goes on with a run may begin to read."""


INBOX_AT_ONCE = 10_000


class Journal(Protocol):
    """The events of all runs, written by the engines that own them.

    Raises (all calls): StorageFull, StorageError.
    """

    def commit(self, batch: Batch) -> set[str]:
        """Write the batch durably; ids of the runs whose change was refused, and left out.

        Raises: StorageFull (nothing was written), CommitUnknown (it may have been).
        """
        ...

    def read(self, run_id: str, after_seq: int = 0) -> tuple[RunRecord, list[Entry]] | None:
        """The run and its events behind `after_seq`, oldest first, as of one moment; with
        `FROM_BASE` those from its `base_seq` on."""
        ...

    def read_graph(self, graph_hash: str) -> list[bytes]:
        """The pages of a graph, in order. Raises: StorageError if there is none."""
        ...

    def read_inbox(self, engine: str) -> list[InboxEntry]:
        """News for the runs that this engine owns, oldest first; at most `INBOX_AT_ONCE`."""
        ...

    def register(self, engine: str, on_news: Callable[[], None] | None = None) -> None:
        """From now on, until `release` or this process's end, `engine` counts as alive.

        `on_news` is called soon after something was posted for a run of it, on any thread; now
        and then it may be called in vain, or not be called.
        """
        ...

    def release(self, engine: str) -> None: ...

    def is_alive(self, engine: str) -> bool: ...


class RunCatalogue(Protocol):
    """What can be asked of all runs, and the one thing done to a run from outside."""

    def find_run(self, run_id: str) -> RunRecord | None: ...

    def first_event(self, run_id: str) -> Entry | None:
        """The event that a run began with."""
        ...

    def list_runs(
        self,
        *,
        statuses: Iterable[RunStatus] | None = None,
        workflow: str | None = None,
        detached: bool | None = None,
        limit: int | None = None,
        before: float | None = None,
    ) -> list[RunRecord]:
        """Newest first. `statuses` are compared as stored (a RUNNING run may have lost its
        engine); `before` pages: only runs created earlier than this time."""
        ...

    def delete_run(self, run_id: str, epoch: int) -> bool:
        """Forget the run unless its epoch changed; whether it was there to be forgotten.

        Graphs that no other run names go with it.
        """
        ...

    def post(
        self,
        run_id: str,
        kind: InboxKind,
        body: bytes,
        key: str | None = None,
        *,
        unless: Collection[RunStatus] = (),
    ) -> Posted | None:
        """Put news into the run's inbox, durably, and wake its owner; not if its status is one of
        `unless`.

        Of several with the same `key` only the first counts, for as long as the run is kept.
        Returns: None when there is no such run.
        """
        ...

    def knows_key(self, run_id: str, key: str) -> bool:
        """Whether news with this key was put into the run's inbox, taken in since or not."""
        ...

    def list_inbox(self, run_id: str) -> list[InboxEntry]:
        """What the run's owner has not taken in, oldest first."""
        ...

    def list_unread(self) -> list[str]:
        """Detached runs whose inbox holds what nobody has taken in, whoever owns them."""
        ...

    def change_count(self) -> int:
        """A number that differs after any other process has committed; costs microseconds."""
        ...

    def close(self) -> None:
        """Let go of what is open; the journal is not used afterwards."""
        ...


class WholeJournal(Journal, RunCatalogue, Protocol):
    """A journal of which also its catalogue is needed."""
