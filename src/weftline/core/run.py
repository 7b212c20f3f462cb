"""The state machine of a run: what is true after a list of events, and what follows from it.

Pure: it takes events and a time, and answers what is ready, what is due and what the status is.
The engine appends an event to the journal and applies it here; a reader folds a journal from its
beginning. Both get the same run, because nothing else changes one.

A *scope* is the sub-graph a step returned; the run's own graph is scope 0. A failure climbs to the
innermost scope whose owner catches. All walks are loops over explicit lists: depth costs no stack.

What a run knows is in `standing`, what each event changes in `rules`; those use, from the top down:
`scopes` and `volatile`, `bearing` (what a failure comes to), `progress` (what begins, and who is
told of an end), `climbing` (a failure on its way up) and `splits` (waits for some of many steps).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heappop

from msgspec import UNSET, Raw

from weftline.core.actions import Wait, WaitKind
from weftline.core.events import (
    ActorRested,
    Event,
    GraphExtended,
    RunAdopted,
    RunFinished,
    RunStatus,
    RunSubmitted,
    ScopeClosed,
    StepFailed,
    StepSkipped,
    WaitBegun,
    WaitEnded,
)
from weftline.core.graph import Graph
from weftline.core.progress import make_ready
from weftline.core.rules import RULES
from weftline.core.splits import split_of
from weftline.core.standing import Standing
from weftline.core.state import RUNNING, WAITING, StepState
from weftline.core.values import NOTHING, Error, Packed
from weftline.core.volatile import find_lost, may_be_volatile


class Run(Standing):
    """A run as it stands after the events applied so far."""

    def apply(self, event: Event, at: float, graph: Graph | None = None) -> None:
        """Take `event`, recorded at `at`, into the run; `graph` for events that bring one.

        Raises: ImpossibleEvent if it does not follow from the ones before it.
        """
        rule = RULES[type(event)]
        # What did not follow any more when its turn came was not recorded; it must not wait here
        # until a resume makes it look as if it did.
        following = self.following
        while following and following[0] != event and not self._still_follows(following[0]):
            following.popleft()
        if following and following[0] == event:
            following.popleft()
        if type(event) is not RunAdopted:
            self.adoptions = 0
        rule(self, event, at, graph)

    def settle(self) -> Event | None:
        """The next event that follows from those applied, or None. Record it, apply it, ask again.

        What follows belongs into the commit of its cause.
        """
        while self.following:
            event = self.following[0]
            if self._still_follows(event):
                return event
            self.following.popleft()
        if not self.is_open:
            return None
        if self.cancel_requested:
            return RunFinished(status=RunStatus.CANCELED)
        if self.signals.fresh and (match := self.signals.match(self._is_waiting)) is not None:
            return WaitEnded(step=match[0], value=Raw(match[1]))
        if self.is_actor or not self.steps:
            return None
        # What a wait for steps left, and nobody took up, is not waited for.
        if self.unfinished == 0 or (self.splits and self.scopes[0].delivered):
            return RunFinished(status=RunStatus.SUCCESSFUL)
        return None

    def _still_follows(self, event: Event) -> bool:
        if isinstance(event, StepSkipped):
            return self.steps[event.step].status is WAITING
        if isinstance(event, ScopeClosed):
            return not self.steps[event.step].is_ended
        if isinstance(event, WaitEnded | StepFailed):
            return self.is_open and self.steps[event.step].status is RUNNING
        return self.is_open

    def _is_waiting(self, number: int) -> bool:
        return self.steps[number].status is RUNNING

    def due(self, now: float) -> Iterator[Event]:
        """Let the time be `now`: retries that are due become READY; gives the ends of waits.

        Each is to be recorded before the next is asked for: what the first leads to may be the end
        of others.
        """
        while self.is_open and self.later and self.later[0][0] <= now:
            due_at, number = heappop(self.later)
            step = self.steps[number]
            if step.due_at != due_at:
                continue
            if step.status is WAITING:
                step.due_at = None
                make_ready(self, step)
            elif step.status is RUNNING and isinstance(step.spec.action, Wait):
                yield self._end_of_patience(step, step.spec.action)

    def _end_of_patience(self, step: StepState, action: Wait) -> Event:
        """What follows when the time of a wait is up."""
        if action.kind is WaitKind.TIMER:
            return WaitEnded(step=step.number, value=Raw(NOTHING))
        if action.kind is WaitKind.STEPS:
            return split_of(self, step, action)
        text = f"step {step.name!r} got no signal {action.name!r} within {action.seconds:g} s"
        error = Error(type="weftline.errors.StepTimeoutError", text=text)
        return StepFailed(step=step.number, attempt=step.attempt + 1, error=error, is_timeout=True)

    def next_due(self) -> float | None:
        """The earliest time at which `due` may have news."""
        while self.later and self.steps[self.later[0][1]].due_at != self.later[0][0]:
            heappop(self.later)  # begun, ended or dropped since
        return self.later[0][0] if self.later and self.is_open else None

    def begin_wait(self, number: int, now: float) -> WaitBegun:
        """The event that begins the READY wait step `number`."""
        action = self.steps[number].spec.action
        assert isinstance(action, Wait)
        until = None if action.seconds is None else now + action.seconds
        return WaitBegun(step=number, until=until, name=action.name)

    def lay_down(self) -> ActorRested:
        """The event that leaves the steps of an actor at rest behind it."""
        signals = {name: list(map(Raw, values)) for name, values in self.signals.kept().items()}
        return ActorRested(
            first=self.laid_down + len(self.steps),
            names=self.name_counts(),
            submitted_at=self.submitted_at or 0.0,
            state=UNSET if self.state is None else Raw(self.state),
            value=UNSET if self.value is None else Raw(self.value),
            started_at=self.started_at,
            signals=signals,
        )

    def judge_failure(
        self, number: int, *, retryable: bool, now: float, luck: float
    ) -> float | None:
        """When the step is to be tried again after the try that just failed; None: not again."""
        step = self.steps[number]
        policy = step.spec.policy
        tried = step.tries + 1
        # Nothing starts in a run that is over, but what it was left with must not depend on when.
        if self.cancel_requested or tried >= policy.tries:
            return None
        if policy.retry_selected and not retryable:
            return None
        return now + policy.delay_s(tried, luck)

    def may_be_volatile(self, number: int) -> bool:
        """Whether the step's value need not survive a crash of the machine."""
        return self.has_volatile and may_be_volatile(self, number)

    def find_lost(self, is_there: Callable[[Packed], bool]) -> tuple[int, ...]:
        """Steps to be carried out again, since their volatile value is gone and still needed."""
        return find_lost(self, is_there)


def fold(
    events: Iterable[tuple[float, Event]], graphs: Mapping[str, Graph], run_id: str = ""
) -> Run:
    """The run as it stands after `events` (time and event, oldest first).

    Starting, resuming after a crash and drawing a page all call this. `graphs` holds the graphs
    that the events name.

    Raises: ImpossibleEvent if an event does not follow from the ones before it.
    """
    run = Run(run_id)
    for at, event in events:
        graph = graphs[event.graph] if isinstance(event, RunSubmitted | GraphExtended) else None
        run.apply(event, at, graph)
    return run
