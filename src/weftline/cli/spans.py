"""When what of a run took place: tries, waits and the delays before retries, as spans of time."""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from weftline.core.actions import PythonCall
from weftline.core.events import (
    Event,
    GraphExtended,
    RunAdopted,
    RunFinished,
    RunResumed,
    RunStatus,
    ScopeClosed,
    StepFailed,
    StepLost,
    StepStarted,
    StepSucceeded,
    WaitBegun,
    WaitEnded,
)
from weftline.core.run import Run
from weftline.core.state import StepStatus


class SpanKind(StrEnum):
    """What went on. A step that listens for an event waits, too: it holds no worker."""

    ATTEMPT = "attempt"
    WAIT = "wait"
    RETRY_DELAY = "retry-delay"


class Outcome(StrEnum):
    """How it ended. INTERRUPTED: the process that drove the run died, or let it go."""

    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    RETURNED_STEPS = "returned steps"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    LOST = "lost"
    CANCELED = "canceled"
    INTERRUPTED = "interrupted"
    ENDED = "ended"


class Span(Struct, frozen=True):
    """One of them. `step` is its number in the run; `attempt` is 0 for a wait, and for a delay the
    one that failed before it. Times in seconds since 1970; None: it goes on."""

    step: int
    attempt: int
    kind: SpanKind
    started_at: float
    ended_at: float | None
    outcome: Outcome


def spans_of(
    run: Run, events: Iterable[tuple[float, Event]], *, is_driven: bool = True
) -> list[Span]:
    """All that took place, in the order of the beginnings.

    `run` is what the `events` fold into. Unless somebody drives the run, nothing of it runs.
    """
    spans = _Spans(run)
    for at, event in events:
        spans.take(at, event)
    return spans.settled(is_driven)


class _Spans:
    """Those that have ended, and for each step at most one that goes on."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ended: list[Span] = []
        self._open: dict[int, Span] = {}
        self._last_at = 0.0

    def take(self, at: float, event: Event) -> None:
        match event:
            case StepStarted(step=step, attempt=attempt, started_at=started_at):
                self._begin(step, attempt, started_at or at)
            case StepSucceeded():
                self._end_attempt(at, event, Outcome.SUCCEEDED)
            case StepFailed():
                outcome = Outcome.TIMED_OUT if event.is_timeout else Outcome.FAILED
                self._end_attempt(at, event, outcome)
                if event.retry_at is not None and event.retry_at > at:
                    self._set(event.step, event.attempt, SpanKind.RETRY_DELAY, at)
            case StepLost():
                self._end_attempt(at, event, Outcome.LOST)
            case GraphExtended():
                self._end_attempt(at, event, Outcome.RETURNED_STEPS)
            case WaitBegun(step=step):
                self._close(step, at, Outcome.INTERRUPTED)
                self._set(step, 0, SpanKind.WAIT, at)
            case WaitEnded(step=step):
                self._close(step, at, Outcome.SUCCEEDED)
            case RunAdopted():
                self._interrupt()
            case RunResumed():
                # What was to be tried again later is tried again now.
                for span in self._of(SpanKind.RETRY_DELAY):
                    self._close(span.step, at, Outcome.ENDED)
            case ScopeClosed():
                for span in list(self._open.values()):
                    if self._run.steps[span.step].status is StepStatus.CANCELED:
                        self._close(span.step, at, Outcome.CANCELED)
            case RunFinished(status=RunStatus.CANCELED | RunStatus.SUCCESSFUL):
                for span in list(self._open.values()):
                    self._close(span.step, at, Outcome.CANCELED)
            case _:
                pass
        self._last_at = at

    def settled(self, is_driven: bool) -> list[Span]:
        """All of them, once there are no more events."""
        if not is_driven:
            self._interrupt()
        found = [*self._ended, *self._open.values()]
        found.sort(key=lambda span: span.started_at)
        return found

    def _begin(self, step: int, attempt: int, at: float) -> None:
        before = self._open.get(step)
        if before is not None and before.kind is SpanKind.RETRY_DELAY:
            self._close(step, at, Outcome.ENDED)
        elif before is not None and before.attempt == attempt:
            return
        else:  # nobody has recorded what became of an earlier one
            self._close(step, at, Outcome.INTERRUPTED)
        self._set(step, attempt, self._kind_of(step), at)

    def _end_attempt(
        self,
        at: float,
        event: StepSucceeded | StepFailed | StepLost | GraphExtended,
        outcome: Outcome,
    ) -> None:
        """A short one is told of only when it has ended."""
        before = self._open.get(event.step)
        if before is None or before.kind is not SpanKind.WAIT or before.attempt:
            self._begin(event.step, event.attempt, event.started_at or at)
        self._close(event.step, at, outcome)

    def _interrupt(self) -> None:
        """What ran has ended, nobody knows when; it was there at the last event."""
        for span in list(self._open.values()):
            if span.attempt and span.kind is not SpanKind.RETRY_DELAY:
                self._close(span.step, self._last_at, Outcome.INTERRUPTED)

    def _kind_of(self, step: int) -> SpanKind:
        action = self._run.steps[step].spec.action
        is_listening = isinstance(action, PythonCall) and action.listens
        return SpanKind.WAIT if is_listening else SpanKind.ATTEMPT

    def _of(self, kind: SpanKind) -> list[Span]:
        return [span for span in self._open.values() if span.kind is kind]

    def _set(self, step: int, attempt: int, kind: SpanKind, at: float) -> None:
        outcome = Outcome.RUNNING if kind is SpanKind.ATTEMPT else Outcome.WAITING
        self._open[step] = Span(step, attempt, kind, at, None, outcome)

    def _close(self, step: int, at: float, outcome: Outcome) -> None:
        span = self._open.pop(step, None)
        if span is not None:
            ended = replace(span, ended_at=max(at, span.started_at), outcome=outcome)
            self._ended.append(ended)
