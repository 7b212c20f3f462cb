"""News from outside: what an entry of the inbox is for its run, and how an engine takes it in."""

import logging
from contextlib import suppress
from typing import NamedTuple

from msgspec import DecodeError
from msgspec.json import decode as decode_json

from weftline.core.events import (
    CallReceived,
    CancelRequested,
    Event,
    PauseChanged,
    RunStatus,
    SignalReceived,
)
from weftline.core.graph import decode_pages
from weftline.core.run import Run
from weftline.engine.active import ActiveRun, Ended, error_of
from weftline.engine.dispatcher import Dispatcher
from weftline.engine.parking import Parking
from weftline.engine.recorder import Recorder
from weftline.engine.writer import RETRY_COMMIT_S, Writer
from weftline.errors import ImpossibleEvent, StorageError, WeftlineError, WorkflowError
from weftline.ports.clock import Clock
from weftline.ports.journal import (
    INBOX_AT_ONCE,
    ActorCall,
    InboxEntry,
    InboxKind,
    Journal,
    RunRecord,
    Signal,
)

LOOK_S = 5.0
"""How often the inbox is looked at without having been told of news, which may get lost."""

REMEMBERED = 1000
"""So many refused calls are remembered for those who may not have asked yet how they end."""

log = logging.getLogger("weftline.engine")


class NewsFor(NamedTuple):
    """What an entry is for its run: an event, or nothing, and objects that the run holds now."""

    event: Event | None
    objects: tuple[str, ...] = ()


def news_for(run: Run, entry: InboxEntry) -> NewsFor:
    """What an entry of the inbox is for its run as it stands, also where it has no owner.

    Raises: msgspec.DecodeError, ValueError when it cannot be read.
    """
    match InboxKind(entry.kind):
        case InboxKind.CANCEL:
            is_over = run.finished in (RunStatus.SUCCESSFUL, RunStatus.CANCELED)
            return NewsFor(None if is_over else CancelRequested())
        case InboxKind.PAUSE:
            may_pause = run.is_open and not run.is_paused
            return NewsFor(PauseChanged(paused=True) if may_pause else None)
        case InboxKind.CONTINUE:
            return NewsFor(PauseChanged(paused=False) if run.is_paused else None)
        case InboxKind.SIGNAL:
            if run.finished is RunStatus.SUCCESSFUL:
                return NewsFor(None)
            signal = decode_json(entry.body, type=Signal)
            return NewsFor(SignalReceived(signal.name, signal.value), signal.objects)
        case InboxKind.CALL:
            call = decode_json(entry.body, type=ActorCall)
            return NewsFor(CallReceived(call.steps, call.call), call.objects)


class Inbox:
    """Takes in what is posted for the runs of one engine. Any thread may call `look_soon`."""

    def __init__(
        self,
        engine_id: str,
        journal: Journal,
        clock: Clock,
        writer: Writer,
        dispatcher: Dispatcher,
        recorder: Recorder,
        parking: Parking,
    ) -> None:
        self._engine_id, self._journal, self._clock = engine_id, journal, clock
        self._writer, self._dispatcher = writer, dispatcher
        self._recorder, self._parking = recorder, parking
        self._refused: dict[tuple[str, str], Ended] = {}
        self.next_look = clock.monotonic() + LOOK_S
        """When (monotonic seconds) to read again."""
        self.has_more = False
        """Whether there is more than could be read at once."""

    def look_soon(self) -> None:
        """There may be news."""
        self.next_look = 0.0

    def read(self) -> None:
        """Take in what was posted."""
        self.next_look = self._clock.monotonic() + LOOK_S
        try:
            entries = self._journal.read_inbox(self._engine_id)
            self.has_more = len(entries) >= INBOX_AT_ONCE
            for entry in entries:
                active = self._parking.load(entry.run_id)
                if active is not None and entry.number > active.inbox_read:
                    self._take_in(active, entry)
        except StorageError as error:
            log.warning("the inbox cannot be read, trying again: %s", error)
            self.next_look = self._clock.monotonic() + RETRY_COMMIT_S

    def read_older(self, active: ActiveRun, record: RunRecord) -> None:
        """Take in what was posted for a run before it is resumed: a cancel among it is none of what
        goes on from here. Where this engine was not its owner, nothing can have been left."""
        if record.engine != self._engine_id:
            return
        with suppress(StorageError):  # then the commit of the resume does not succeed either
            for entry in self._journal.read_inbox(self._engine_id):
                if entry.run_id == active.run_id:
                    self._take_in(active, entry)

    def find_refused(self, run_id: str, call: str | None) -> Ended | None:
        """How a call ended that was not recorded, if it is one of the latest."""
        return None if call is None else self._refused.get((run_id, call))

    def _take_in(self, active: ActiveRun, entry: InboxEntry) -> None:
        """Record what an entry of the inbox says, in the commit that removes it."""
        active.inbox_read = entry.number
        active.taken.append(entry.number)
        event: Event | None = None
        try:
            event, objects = news_for(active.run, entry)
            steps = decode_pages([event.steps]) if isinstance(event, CallReceived) else []
            problem = self._dispatcher.lacking(steps)
            if problem is not None and isinstance(event, CallReceived):
                log.info("run %s: a call was refused: %s", active.run_id, problem)
                self._refuse(active, event.call, problem)
            elif event is not None:
                active.objects += objects
                self._recorder.record(active, event)
        except (DecodeError, ValueError) as error:
            log.error("run %s: news that cannot be read: %s", active.run_id, error)
            if isinstance(event, CallReceived):
                problem = WorkflowError(f"the call cannot be read: {error}", active.run_id)
                self._refuse(active, event.call, problem)
        except ImpossibleEvent as error:
            log.warning("run %s: news that came too late: %s", active.run_id, error)
            if isinstance(event, CallReceived):
                self._refuse(active, event.call, error)
        self._writer.note(active)

    def _refuse(self, active: ActiveRun, call: str, problem: WeftlineError) -> None:
        """Tell whoever made the call, or asks for it later, why it is not recorded."""
        ended = Ended(RunStatus.FAILED, None, error_of(problem), None, None)
        self._refused[active.run_id, call] = ended
        if len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]
        active.tell_step(call, ended)
