"""What an entry of the inbox is for its run; the same for its owner and when it has none."""

from typing import NamedTuple

from msgspec.json import decode as decode_json

from weftline.core.events import (
    CallReceived,
    CancelRequested,
    Event,
    PauseChanged,
    RunStatus,
    SignalReceived,
)
from weftline.core.run import Run
from weftline.ports import ActorCall, InboxEntry, InboxKind, Signal


class NewsFor(NamedTuple):
    """What an entry is for its run: an event, or nothing, and objects that the run holds now."""

    event: Event | None
    objects: tuple[str, ...] = ()


def news_for(run: Run, entry: InboxEntry) -> NewsFor:
    """What an entry of the inbox is for its run as it stands.

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
