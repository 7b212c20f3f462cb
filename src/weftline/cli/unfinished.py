"""What an unfinished run does, and what it waits for."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from weftline.app import App
from weftline.cli.terminal import count, duration, one_line
from weftline.cli.waits import joined, steps_text, wait_text
from weftline.core.actions import PythonCall
from weftline.core.events import Event, RunAdopted, RunStatus, StepStarted
from weftline.core.run import Run
from weftline.core.state import StepStatus
from weftline.core.waiting import Waiting, waits_of
from weftline.engine.recovery import RunReader
from weftline.errors import WeftlineError
from weftline.ports.journal import RunRecord

UNFINISHED = (RunStatus.RUNNING, RunStatus.PENDING, RunStatus.PAUSED, RunStatus.RESUMABLE)
SHOWN_REASONS = 2


class Running(NamedTuple):
    """An attempt that is under way."""

    step: str
    attempt: int
    since: float
    worker: str


class Unfinished(NamedTuple):
    """A run that has not ended. Unless it was read, nothing is known of `running` and `waits`."""

    record: RunRecord
    status: RunStatus
    is_read: bool
    running: list[Running]
    waits: list[Waiting]
    problem: str | None = None


def read_unfinished(app: App, record: RunRecord) -> Unfinished:
    """What the run does now."""
    reader = RunReader(app.journal, record.run_id)
    try:
        events = reader.refresh()
        record = reader.recorded().record
    except WeftlineError as error:  # deleted meanwhile, or damaged
        return Unfinished(record, app.owners.status_of(record), True, [], [], str(error))
    status = app.owners.status_of(record)
    is_driven = status is not RunStatus.RESUMABLE
    running = running_of(reader.run, events) if is_driven else []
    detached = record.creation.detached
    waits = waits_of(reader.run, time.time(), status, is_detached=detached)
    return Unfinished(record, status, True, running, waits)


def unread(app: App, record: RunRecord) -> Unfinished:
    """Only what its row tells."""
    return Unfinished(record, app.owners.status_of(record), False, [], [])


def running_of(run: Run, events: Iterable[tuple[float, Event]]) -> list[Running]:
    """The attempts that are under way in a run that is driven, as far as they are recorded: that
    is, all that have been running for more than a moment."""
    latest: dict[int, tuple[float, StepStarted]] = {}
    for at, event in events:
        if isinstance(event, StepStarted):
            latest[event.step] = event.started_at or at, event
        elif isinstance(event, RunAdopted):
            latest.clear()
    found = []
    for number, (since, event) in latest.items():
        step = run.steps[number]
        action = step.spec.action
        is_listening = isinstance(action, PythonCall) and action.listens
        is_running = run.status_of(step) is StepStatus.RUNNING and step.opened is None
        if is_running and step.attempt == event.attempt and not is_listening:
            found.append(Running(step.name, event.attempt, since, event.worker))
    return found


def doing_text(each: Unfinished, now: float) -> str:
    """What runs of it, and what it waits for, in one line."""
    if each.problem is not None:
        return one_line(f"cannot be read: {each.problem}", 100)
    parts = []
    if each.running:
        longest = min(each.running, key=lambda one: one.since)
        more = f" and {len(each.running) - 1:,} more" if len(each.running) > 1 else ""
        age = duration(now - longest.since)
        parts.append(f"runs {one_line(longest.step, 40)} for {age}{more}")
    waits = joined(each.waits)
    for waiting in waits[:SHOWN_REASONS]:
        names = steps_text(waiting)
        of = f" ({names})" if names else ""
        parts.append(f"waits for {wait_text(waiting, now)}{of}")
    if len(waits) > SHOWN_REASONS:
        parts.append(f"{count(len(waits) - SHOWN_REASONS, 'more reason')} to wait")
    return one_line("; ".join(parts), 160)
