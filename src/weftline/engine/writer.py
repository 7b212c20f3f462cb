"""Writes what happened in all runs: facts gather here until one commit takes them.

What a commit came to is told as it turns out. While nothing can be written the writer is stalled:
it keeps all facts, and tries again. A commit that may have taken place is *in doubt* until the
journal tells; nothing else is written before.
"""

import logging
from collections.abc import Callable
from enum import Enum, auto

from msgspec.structs import replace

from weftline.core.events import RunStatus
from weftline.engine.active import ActiveRun, Stalled
from weftline.engine.committer import Committer, Outcome
from weftline.engine.part import Part
from weftline.errors import CommitUnknown, StorageError
from weftline.ports.clock import Clock
from weftline.ports.journal import Batch, Journal, RunChange

MAX_BATCH_AGE_S = 0.005
RETRY_COMMIT_S = 0.25
RETRY_RELEASE_S = 1.0

SLOW_COMMIT_S = 0.002
"""Commits that take longer than this are made beside the loop, if there is anything to do there."""

MOST_UNWRITTEN = 4096
"""Nothing is started while a commit is under way and so many facts wait for the next: where steps
end faster than that can be written, they would become ever more."""

log = logging.getLogger("weftline.engine")


class Fate(Enum):
    """What became of one run's part of a commit of unknown outcome."""

    WRITTEN = auto()
    UNWRITTEN = auto()
    REFUSED = auto()
    EITHER = auto()
    """It would be the same: nothing tells, and to write it once more does no harm."""


class Writer:
    """Commits for one engine. Only the engine's thread touches it.

    `on_written` and `on_refused` are told of each part of a commit, in order, unless its run was
    given up meanwhile; `on_stalled` whenever nothing could be written.
    """

    def __init__(
        self,
        engine_id: str,
        journal: Journal,
        clock: Clock,
        committer: Committer | None,
        *,
        on_written: Callable[[Part], object],
        on_refused: Callable[[Part], object],
        on_stalled: Callable[[Stalled], object],
    ) -> None:
        self._engine_id, self._journal, self._clock = engine_id, journal, clock
        self._committer = committer
        self._on_written, self._on_refused = on_written, on_refused
        self._on_stalled = on_stalled
        self._unwritten: list[ActiveRun] = []
        self._oldest_unwritten = 0.0
        self._committing: tuple[list[Part], float] | None = None  # on the committer's thread
        self._doubtful: list[Part] | None = None
        self._stalled_since: float | None = None
        self._next_try = 0.0
        self._releases: dict[str, RunChange] = {}
        self._next_release = 0.0
        self.unwritten = 0
        """How many facts wait for the next commit, about."""
        self.commit_s = 0.0
        """How long commits take, as a moving average."""

    # -- what is to be written ------------------------------------------------------------------

    def note(self, active: ActiveRun) -> None:
        """The run has something to write, or waits for what is being written."""
        if not active.is_queued:
            active.is_queued = True
            if not self._unwritten:
                self._oldest_unwritten = self._clock.monotonic()
            self._unwritten.append(active)

    def forget(self, active: ActiveRun) -> None:
        """Write nothing more of the run: its next owner does that again."""
        if active.is_queued:
            active.is_queued = False
            self._unwritten.remove(active)

    def has_unwritten(self, active: ActiveRun) -> bool:
        """Whether something of the run is not known to be durable."""
        if active.is_queued:
            return True
        parts = self._committing[0] if self._committing is not None else self._doubtful
        return parts is not None and any(part.active is active for part in parts)

    def is_in_doubt(self, run_id: str) -> bool:
        """Whether the run was part of a commit of which nobody knows what became of it."""
        return any(part.active.run_id == run_id for part in self._doubtful or ())

    # -- when -----------------------------------------------------------------------------------

    @property
    def is_stalled(self) -> bool:
        """Whether nothing can be written at present."""
        return self._stalled_since is not None

    @property
    def may_start(self) -> bool:
        """Whether anything is to be started: what comes of it can be written in time."""
        if self._committing is not None and self.unwritten >= MOST_UNWRITTEN:
            return False
        return self._stalled_since is None

    @property
    def has_to_write(self) -> bool:
        """Whether a commit could be made now, stalls aside."""
        return bool(self._unwritten) and self._committing is None

    @property
    def next_look(self) -> float | None:
        """When (monotonic seconds) `go_on` has something to do; None: not before there is news."""
        if self._stalled_since is not None:
            return self._next_try
        return self._next_release if self._releases else None

    def is_due(self, *, may_wait: bool) -> bool:
        """Whether to commit now; facts may wait for others, but not for long."""
        if not self.has_to_write or self._doubtful is not None:
            return False
        if may_wait or self._stalled_since is not None:
            now = self._clock.monotonic()
            if self._stalled_since is not None and now < self._next_try:
                return False
            return not may_wait or now - self._oldest_unwritten >= MAX_BATCH_AGE_S
        return True

    # -- commits --------------------------------------------------------------------------------

    def commit(self, *, may_be_beside: bool) -> None:
        """Write everything that is unwritten: here and now, or, where that takes long and it
        `may_be_beside` the loop, on the committer's thread."""
        parts = [Part.of(active, self._engine_id) for active in self._unwritten]
        self._unwritten, self.unwritten = [], 0
        batch = Batch(
            changes=[part.change for part in parts],
            graphs=[graph for part in parts for graph in part.graphs],
            objects=[(part.active.run_id, name) for part in parts for name in part.objects],
        )
        start = self._clock.monotonic()
        if self._committer is not None and self.commit_s > SLOW_COMMIT_S and may_be_beside:
            self._committing = (parts, start)
            self._committer.begin(batch)
            return
        try:
            outcome: Outcome = self._journal.commit(batch)
        except StorageError as error:
            outcome = error
        self._committed(parts, outcome, start)

    def look(self, *, wait: bool = False) -> None:
        """Take in what the commit on the committer's thread came to, if it has ended."""
        if self._committer is None or self._committing is None:
            return
        outcome = self._committer.outcome(wait=wait)
        if outcome is not None:
            (parts, start), self._committing = self._committing, None
            self._committed(parts, outcome, start)

    def go_on(self) -> None:
        """Do what is due by now: runs to be let go, a commit in doubt, the end of a stall."""
        if self._releases and self._clock.monotonic() >= self._next_release:
            self.write_releases()
        if self._doubtful is not None:
            self._resolve_doubt()
        if self._stalled_since is not None and not self._unwritten and self._doubtful is None:
            self._stalled_since = None  # whose facts could not be written was let go

    def settle(self) -> None:
        """Find out, as far as can be done now, what became of the last commit."""
        self.look(wait=True)
        if self._doubtful is not None:
            self._next_try = self._clock.monotonic()
            self._resolve_doubt()

    def _committed(self, parts: list[Part], outcome: Outcome, start: float) -> None:
        self.commit_s += (self._clock.monotonic() - start - self.commit_s) / 4
        if isinstance(outcome, CommitUnknown):
            self._doubtful = parts
            self._stall(outcome)
            self._next_try = self._clock.monotonic()
            self._resolve_doubt()
        elif isinstance(outcome, StorageError):
            self._unwrite(parts)
            self._stall(outcome)
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            self._accept(parts, outcome)

    def _accept(self, parts: list[Part], refused: set[str]) -> None:
        self._stalled_since = None
        for part in parts:
            if not part.active.is_loaded:
                continue  # given up meanwhile
            if part.active.run_id in refused:
                self._on_refused(part)
            else:
                self._on_written(part)

    def _unwrite(self, parts: list[Part]) -> None:
        for part in parts:
            if part.active.is_loaded:
                part.take_back()
                self.note(part.active)

    def _stall(self, error: StorageError) -> None:
        """Nothing can be written: keep what is known, try again, and tell."""
        now = self._clock.monotonic()
        if self._stalled_since is None:
            self._stalled_since = now
            log.warning("nothing can be written, trying again: %s", error)
        self._next_try = now + RETRY_COMMIT_S
        self._on_stalled(Stalled(self._stalled_since, error))

    # -- doubt ----------------------------------------------------------------------------------

    def _resolve_doubt(self) -> None:
        """Find out what became of a commit of unknown outcome, before anything else is written."""
        parts = self._doubtful
        if parts is None or self._clock.monotonic() < self._next_try:
            return
        try:
            fates = [self._fate(part.change) for part in parts]
        except StorageError as error:
            self._stall(error)
            return
        self._doubtful = None
        # A batch is written as a whole, or not at all.
        if Fate.UNWRITTEN in fates or (Fate.EITHER in fates and Fate.WRITTEN not in fates):
            self._unwrite(parts)
        else:
            changes = zip(parts, fates, strict=True)
            self._accept(parts, {p.change.run_id for p, fate in changes if fate is Fate.REFUSED})

    def _fate(self, change: RunChange) -> Fate:
        """What became of a change, as the journal tells."""
        last_seq = change.entries[-1].seq if change.entries else 0
        found = self._journal.read(change.run_id, last_seq)
        if found is None:
            return Fate.UNWRITTEN if change.creation else Fate.REFUSED
        record = found[0]
        is_ours = record.engine == self._engine_id
        if change.creation:
            is_it = is_ours and record.creation == change.creation
            return Fate.WRITTEN if is_it else Fate.REFUSED
        if change.takes and record.epoch == change.epoch:
            is_next = record.last_seq == change.entries[0].seq - 1
            return Fate.UNWRITTEN if is_next else Fate.REFUSED
        if record.epoch != change.epoch + change.takes or not is_ours:
            return Fate.REFUSED
        if not change.entries:
            return Fate.EITHER
        return Fate.WRITTEN if record.last_seq >= last_seq else Fate.UNWRITTEN

    # -- runs that are let go -------------------------------------------------------------------

    def release(self, active: ActiveRun) -> None:
        """Write, as soon as that can be done, that the run has no owner any more."""
        summary = active.stored
        if summary.status in (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.PENDING):
            summary = replace(summary, status=RunStatus.RESUMABLE)
        self._releases[active.run_id] = RunChange(
            run_id=active.run_id, epoch=active.epoch, entries=[], summary=summary, takes=True
        )

    def is_released(self, run_id: str) -> bool:
        """Whether the run is let go, and that is not written yet."""
        return run_id in self._releases

    def write_releases(self) -> None:
        """Tell that runs have no owner any more; tried again while nothing can be written. When
        this process ends its lock tells the same."""
        if self._releases and self._doubtful is None:
            try:
                self._journal.commit(Batch(changes=list(self._releases.values())))
                self._releases.clear()
            except StorageError as problem:
                log.warning(
                    "%d runs are not marked as let go yet: %s", len(self._releases), problem
                )
                self._next_release = self._clock.monotonic() + RETRY_RELEASE_S
