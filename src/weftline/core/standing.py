"""A run as it stands: what is known of it, and the questions that readers ask.

The modules of rules beside it change one; each says for which part of it. What stands here under a
name is read everywhere, by the engine and by those who show a run.
"""

from collections import deque
from collections.abc import Iterable

from weftline.core.events import Event, RunStatus
from weftline.core.failures import Failures
from weftline.core.graph import GivenInput, OptionalInput, OuterInput, Step
from weftline.core.names import Names
from weftline.core.signals import Signals
from weftline.core.state import (
    CANCELED,
    FAILED,
    RUNNING,
    SKIPPED,
    SUCCESSFUL,
    Scope,
    StepState,
    StepStatus,
)
from weftline.core.values import NOTHING, Error, Packed, pack_list
from weftline.core.writers import Writers
from weftline.errors import ImpossibleEvent


class Standing:
    """A run as it stands after the events applied so far. Read it freely; only events change it."""

    def __init__(self, run_id: str = "") -> None:
        self.run_id = run_id
        self.steps: list[StepState] = []
        self.scopes: list[Scope] = []
        self.ready: deque[int] = deque()
        """Steps that became READY and that nobody has taken from here yet."""
        self.beginning: deque[int] = deque()
        """READY waits, which begin as soon as the run may start anything (`begin_wait`)."""
        self.undecided: deque[int] = deque()
        """Steps that wait only for their condition to be decided."""
        self.dropped: list[int] = []
        """Steps whose attempt, if one is under way, is of no use any more."""
        self.finished: RunStatus | None = None
        self.error: Error | None = None
        self.failed_step: int | None = None
        self.held: str | None = None
        self.is_paused = self.is_pending = False
        self.cancel_requested = False
        self.is_actor = False
        self.group: tuple[str, int] | None = None
        self.state: Packed | None = None
        """An actor's last state."""
        self.laid_down = 0
        """Steps of an actor that lie behind: they are in the journal, and here no more."""
        self.volatile: set[int] = set()
        """Steps whose value need not survive a crash of the machine."""
        self.value: Packed | None = None
        self.unfinished = 0
        self.succeeded = 0
        self.adoptions = 0
        self.generation = 0
        """Counts adoptions and resumes: what was taken from `ready` before is void after one."""
        self.submitted_at: float | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.warnings: list[str] = []
        self.failures = Failures()
        self.naming = Names()
        self.following: deque[Event] = deque()
        """Events that follow from those applied, as far as that is known yet."""
        self.later: list[tuple[float, int]] = []
        """A heap of times, and the steps that are due then; some may not be any more."""
        self.signals = Signals()
        self.splits: dict[int, int] = {}
        """Waits for steps, and how many inputs each began with."""
        self.has_volatile = False
        """Whether any value need not survive a crash."""
        self.undelivered = 0
        """Calls of an actor that have no result yet."""
        self.last_call: int | None = None
        """The first step of an actor's last call."""
        self.calls: dict[str, int] = {}
        """First steps of an actor's calls, by what their callers know them as."""
        self.writers = Writers()

    @property
    def status(self) -> RunStatus:
        """The run's status, as far as its journal tells."""
        if self.finished is not None:
            return self.finished
        if self.held is not None:
            return RunStatus.RESUMABLE
        if self.is_pending:
            return RunStatus.PENDING
        if self.is_at_rest:
            return RunStatus.SUCCESSFUL
        return RunStatus.PAUSED if self.is_paused else RunStatus.RUNNING

    @property
    def is_open(self) -> bool:
        """Whether the run goes on by itself."""
        return self.finished is None and self.held is None

    @property
    def is_at_rest(self) -> bool:
        """Whether it is an actor whose calls have all ended: open, and yet there is a result."""
        if not (self.is_actor and self.is_open) or self.is_pending:
            return False
        # What a wait for steps left, and nobody took up, is not waited for.
        return self.unfinished == 0 or (bool(self.splits) and self.undelivered == 0)

    @property
    def may_start(self) -> bool:
        """Whether steps may be started now."""
        is_held_back = self.is_paused or self.is_pending or self.cancel_requested
        return self.is_open and not is_held_back

    def status_of(self, step: StepState) -> StepStatus:
        """The step's status as people see it: what a canceled run left open is canceled."""
        if self.is_ended_link(step):
            return SKIPPED if self.value_of(step.number) is None else SUCCESSFUL
        is_left = self.finished in (RunStatus.CANCELED, RunStatus.SUCCESSFUL)
        if is_left and not step.is_ended:
            return CANCELED
        return step.status

    def is_ended_link(self, step: StepState) -> bool:
        """Whether the step is a link of a chain of tail calls that has ended, and it with it."""
        if step.status is not RUNNING or step.opened is None:
            return False
        return self.scopes[self.scopes[step.opened].head].delivered

    @property
    def names(self) -> list[str]:
        """The names of all steps, in order."""
        return [step.name for step in self.steps]

    def find_step(self, name: str) -> StepState | None:
        """The step of this name, or of this call of an actor, if the run has one (yet)."""
        number = self.naming.find(name)
        if number is None:
            number = self.calls.get(name)
        return None if number is None else self.steps[number]

    def name_counts(self) -> dict[str, int]:
        """How many steps have asked for each name, those that lie behind included."""
        return self.naming.counts()

    def value_of(self, number: int) -> Packed | None:
        """The step's value, or None while (or because) there is none."""
        step = self.steps[number]
        if step.value is None and step.opened is not None:
            return self.scopes[self.scopes[step.opened].head].result
        return step.value

    def error_of(self, number: int) -> Error | None:
        """Why the step has no value: its own failure, or that of a step it returned.

        None while its sub-graph may still succeed.
        """
        step = self.steps[number]
        if step.error is None and (failures := self.failures_of(number)):
            return failures[0].error
        if step.error is not None or step.opened is None or self.finished is not RunStatus.FAILED:
            return step.error
        if self.failed_step is None:
            return None
        scope = self.scopes[self.steps[self.failed_step].scope]
        while scope.owner is not None:
            if scope.owner == number:
                return self.error
            scope = self.scopes[self.steps[scope.owner].scope]
        return None

    def inputs_of(self, number: int) -> list[Packed]:
        """The values for the step's holes, in order; an absent one arrives as null."""
        step = self.steps[number]
        first = self.scopes[step.scope].first
        values: list[Packed] = []
        for entry in step.spec.inputs:
            if type(entry) is int:
                values.append(self.value_of(first + entry) or NOTHING)
            elif type(entry) is list:
                values.append(pack_list([self.value_of(first + n) or NOTHING for n in entry]))
            elif isinstance(entry, OptionalInput):
                value = self.value_of(first + entry.step)
                if value is None and entry.default is not None:
                    value = entry.default
                values.append(value or NOTHING)
            elif isinstance(entry, OuterInput):
                values.append(self.value_of(entry.number - self.laid_down) or NOTHING)
            elif isinstance(entry, GivenInput):
                values.append(entry.value)
        return values

    def sources_of(self, step: StepState) -> list[int]:
        """Numbers of the steps that it reads or waits for, as often as it does, in order."""
        first = self.scopes[step.scope].first
        found = [first + n for n in step.spec.upstream()]
        return found + self.outer_of(step.spec)

    def outer_of(self, spec: Step) -> list[int]:
        """Numbers here of the steps outside of its graph that the step reads."""
        return [number - self.laid_down for number in spec.outer()]

    def failures_of(self, number: int) -> list[StepState]:
        """The failures, borne so far, by which the step gets no value: its own, or others'."""
        step = self.steps[number]
        if step.status is FAILED:
            return [] if number in self.failures.open else [step]
        if not self.failures.are_borne:
            return []
        if step.opened is not None:  # a link of a chain fares as the chain's first step does
            number = self.scopes[self.scopes[step.opened].head].owner or 0
        return [self.steps[n] for n in self.failures.behind(number)]

    def failures_among(self, numbers: Iterable[int]) -> list[StepState]:
        return [failed for number in numbers for failed in self.failures_of(number)]

    def readers_of(self, number: int) -> list[int]:
        """Steps that wait for the step's value, once an edge."""
        step = self.steps[number]
        found = list(step.dependents or ())
        if step.opened is not None:
            head = self.scopes[self.scopes[step.opened].head]
            if head.owner == number:
                found += head.followers or ()
        return found

    def has_ended(self, number: int) -> bool:
        """Whether nothing can be expected of the step, as those see it that read it."""
        step = self.steps[number]
        if step.status is FAILED:
            return number not in self.failures.open
        return step.is_ended or self.is_ended_link(step) or bool(self.failures_of(number))

    def get_step(self, number: int) -> StepState:
        if not 0 <= number < len(self.steps):
            raise ImpossibleEvent(f"the run has no step number {number}")
        return self.steps[number]
