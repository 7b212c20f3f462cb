"""What Weftline needs from outside, in its own words. Adapters fulfil these; features call them."""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from msgspec import Raw, Struct

from weftline.core.actions import PythonCall
from weftline.core.environment import Environment
from weftline.core.events import LogRange, RunStatus
from weftline.core.policy import Placement
from weftline.core.values import Error, Packed

# -- large values -------------------------------------------------------------------------------


class ObjectWriter(Protocol):
    """One object being written; nothing is visible before `commit`."""

    def write(self, part: bytes | bytearray | memoryview) -> int: ...

    def commit(self) -> str:
        """Make the object durable and return its name."""
        ...

    def abort(self) -> None: ...


class ObjectStore(Protocol):
    """Keeps large values: datasets, models, step outputs, code.

    An object is named by the SHA-256 of its content (64 lower-case hex digits), so it never
    changes once written, and storing it again is safe. When `put` or `ObjectWriter.commit`
    returns, the object survives a power cut.

    Raises: StorageFull when there is no space left; nothing is half-written then.
    """

    def put(self, content: bytes, *, durable: bool = True) -> str:
        """Store the content; `durable` as for `writer`. What is there already is as good as new."""
        ...

    def writer(self, *, durable: bool = True) -> ObjectWriter:
        """For content that does not fit into memory twice: write parts, then commit. Without
        `durable` the object need not survive a crash of the machine, and may be removed when no
        run needs it; it is read as any other."""
        ...

    def read(self, name: str) -> memoryview:
        """The whole content, mapped into memory where that is possible; private to the caller and
        writable: changing it never changes the object.

        Raises: ObjectNotFound, ObjectDamaged if its content does not match its name.
        """
        ...

    def exists(self, name: str) -> bool:
        """Whether the object is there. One that is not durable is looked at as a whole, since a
        crash of the machine may have damaged it: then it counts as gone."""
        ...

    def delete(self, name: str) -> None:
        """Remove the object; none of that name is no error."""
        ...


class StoredFile(NamedTuple):
    """Something that takes room in an object store. The time is in seconds since 1970."""

    name: str
    size_bytes: int
    modified_at: float
    is_volatile: bool = False


class Removed(NamedTuple):
    """How many things were removed for good, and how large they were together."""

    number: int
    size_bytes: int


class ObjectUpkeep(Protocol):
    """Finds what nobody needs any more in an object store, and removes it in two steps.

    Which objects are needed, the caller knows. What it throws away may be named by a run a moment
    later: until it is erased there, reading the object or asking whether it exists brings it
    back, and storing its content again is as if it had never been there.

    Raises: StorageError.
    """

    def objects(self) -> Iterator[StoredFile]:
        """Every object that is not in the trash, in no order; twice if it is there both durable
        and volatile. Others may come and go meanwhile."""
        ...

    def trash(self, found: StoredFile) -> bool:
        """Move an object into the trash, unless it was stored again since it was `found`."""
        ...

    def trashed(self) -> Iterator[StoredFile]:
        """What is in the trash, in no order; `modified_at` is when it came there."""
        ...

    def restore(self, name: str) -> bool:
        """Bring an object back from the trash, as good as new; whether there was one to bring."""
        ...

    def erase(self, found: StoredFile) -> bool:
        """Remove for good what is in the trash, unless it came there again since it was `found`."""
        ...

    def incoming(self) -> Iterator[StoredFile]:
        """What is being written, or was by somebody who has died; its name is no object's."""
        ...

    def clear_incoming(
        self, older_than_s: float, dead_for_s: float, *, is_trial: bool = False
    ) -> Removed:
        """Remove what has been incoming without a change for longer than this: longer than any
        writer may pause, and if the writer is dead `dead_for_s`. A trial only counts."""
        ...

    def check(self, name: str) -> None:
        """Compare the content of the object, and of every copy of it, with its name.

        Raises: ObjectDamaged, ObjectNotFound.
        """
        ...


# -- time ---------------------------------------------------------------------------------------


class Clock(Protocol):
    """What tells the time; the standard library's `time` module is one."""

    def time(self) -> float:
        """Seconds since 1970, for what is recorded."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump, for durations."""
        ...


# -- the journal --------------------------------------------------------------------------------


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


# -- where attempts happen ----------------------------------------------------------------------


class Lane(NamedTuple):
    """Attempts that are alike for an executor: same environment, code and placement."""

    environment: Environment
    function: str
    placement: Placement
    listens: bool = False
    """They wait for something outside, and occupy nothing while they do."""


class Attempt(Struct, kw_only=True, gc=False):
    """One try of one step, handed to an executor. `key` is unique within the engine."""

    key: int
    run_id: str
    step: str
    number: int
    call: PythonCall
    inputs: list[Packed]
    timeout_s: float | None = None
    forward: bool = False
    """Whether the lines it prints are wanted as they come (`Printed`)."""
    state: Packed | None = None
    """For a method of a virtual actor: the actor's last state; None before there is one."""
    is_volatile: bool = False
    """Whether its value need not survive a crash."""
    beside: int | None = None
    """The key of the attempt whose process, which is kept waiting for this, is to carry it out."""


class Started(Struct, frozen=True, gc=False):
    """The attempt has been running for a moment (told once, for attempts that take long)."""

    key: int
    at: float
    worker: str
    log: LogRange | None = None


class Done(Struct, frozen=True, kw_only=True, gc=False):
    """What all ends of an attempt tell. Times in seconds since 1970."""

    key: int
    started_at: float = 0.0
    worker: str = ""
    log: LogRange | None = None


class Succeeded(Done, frozen=True, kw_only=True):
    """The function returned; `objects` are those the value cannot be read without."""

    value: Packed
    preview: str | None = None
    objects: tuple[str, ...] = ()
    picture: str | None = None
    """The object that shows the value, a PNG; one of `objects`."""
    state: Packed | None = None
    is_volatile: bool = False
    """Whether the value lies where it need not survive a crash."""


class Extended(Done, frozen=True, kw_only=True):
    """The function returned steps; `pages` hold their graph, as `core.graph` steps in msgpack."""

    graph: str
    pages: list[bytes]
    output: int | list[int]
    objects: tuple[str, ...] = ()
    state: Packed | None = None
    stays: bool = False
    """Whether its process waits for the output step of the graph, an attempt `beside` this key;
    killing the key lets the process go."""


class Failed(Done, frozen=True, kw_only=True):
    """The function raised, or its arguments or result could not be carried."""

    error: Error
    retryable: bool = True
    """Whether the step's `retry_on` matches."""
    objects: tuple[str, ...] = ()


class TimedOut(Done, frozen=True, kw_only=True):
    """It ran longer than its limit and was ended."""

    after_s: float


class Outgrown(Done, frozen=True, kw_only=True):
    """Its processes had more memory resident than its limit, and were ended. All in bytes."""

    limit: int
    resident: int


class Lost(Done, frozen=True, kw_only=True):
    """Its process died under it."""

    reason: str


class Starved(Done, frozen=True, kw_only=True):
    """It ended well, but the home has no room for its result: start it again when there is."""

    reason: str


class GivenBack(Done, frozen=True, kw_only=True):
    """It was not begun, or is not known to have been: start it again, nothing has happened."""


class Printed(NamedTuple):
    """Output of an attempt that asked for it. `stream` is `stdout` or `stderr`."""

    key: int
    stream: str
    text: str


class Refused(Struct, frozen=True, kw_only=True):
    """A whole environment cannot be used: its interpreter is gone, or has another Weftline."""

    environment: Environment
    reason: str


Report = (
    Started
    | Succeeded
    | Extended
    | Failed
    | TimedOut
    | Outgrown
    | Lost
    | Starved
    | GivenBack
    | Printed
    | Refused
)


class Executor(Protocol):
    """Carries attempts out and reports what becomes of them. Used by one thread, but for `wake`."""

    def check(self, placement: Placement) -> str | None:
        """Why such a step could never run here, or None."""
        ...

    def room(self, lane: Lane) -> int:
        """How many more attempts of this lane would be welcome now. Costs microseconds."""
        ...

    def start(self, lane: Lane, attempts: list[Attempt]) -> None:
        """Take on at most `room(lane)` attempts; each is reported on until it is done."""
        ...

    def wait(self, timeout_s: float | None) -> list[Report]:
        """What happened, oldest first; returns at once when there is news or after `wake`, and
        after `timeout_s` (None: no limit) at the latest."""
        ...

    def wake(self) -> None:
        """Make `wait` return soon; may be called from any thread, cheap when repeated."""
        ...

    def kill(self, keys: set[int]) -> None:
        """End these attempts, running or not, and what they started; nothing more is reported on
        them. Others that have to make way are reported as `GivenBack`."""
        ...

    def close(self) -> None:
        """End everything that was started."""
        ...
