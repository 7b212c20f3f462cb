"""The steps of a run as people look at them: alike ones together, returned ones below their owner.

A tree is fed the events of a run as they are committed, at a cost per event, or made of a run that
was read. Steps of one name that stand at the same place of their graph are one group, however many
they are; those that they return hang below it. A step that comes back to itself stays in its own
group, so that a tree is as deep as the code, not as the run.

Feeding it an event twice changes nothing: who takes a tree from the journal while the run goes on
need not know exactly how far it had come.
"""

from collections.abc import Iterator, Sequence

from weftline.core.events import (
    Event,
    GraphExtended,
    RunAdopted,
    RunFinished,
    RunStatus,
    RunSubmitted,
    ScopeClosed,
    StepFailed,
    StepLost,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    WaitBegun,
    WaitEnded,
)
from weftline.core.graph import Graph, Step
from weftline.core.names import Names, with_suffix
from weftline.core.run import Run
from weftline.core.state import StepState, StepStatus

# Where a step stands; also the position of its count in a group.
WAITING, RUNNING, RETRYING, DONE, FAILED, SKIPPED, CANCELED = range(7)

MAX_GROUPS = 400
"""Further names of one graph share a group: so many lines nobody reads."""

MAX_LEVELS = 8
"""A name that stands at more places of one graph than this is one group all the same."""

OTHERS = "(others)"

_STATES = {
    StepStatus.RUNNING: RUNNING,
    StepStatus.SUCCESSFUL: DONE,
    StepStatus.FAILED: FAILED,
    StepStatus.SKIPPED: SKIPPED,
    StepStatus.CANCELED: CANCELED,
}


class Group:
    """Steps that are shown as one. `counts` has a number for each state; `running` says since when
    (seconds since 1970) its steps run. Durations are in seconds."""

    __slots__ = (
        "children",
        "counts",
        "ended_at",
        "first",
        "index",
        "longest_s",
        "name",
        "parent",
        "running",
        "shortest_s",
        "started_at",
        "total",
        "tries",
        "upstream",
    )

    def __init__(self, index: int, name: str, parent: "Group | None") -> None:
        self.index, self.name, self.parent = index, name, parent
        self.children: dict[tuple[str, int], Group] = {}
        self.upstream: dict[int, Group] = {}  # groups beside it that it reads from
        self.first = -1  # its first step
        self.total = 0
        self.counts = [0] * 7
        self.running: dict[int, float] = {}
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.shortest_s: float | None = None
        self.longest_s = 0.0
        self.tries = 0  # attempts beyond the first of each step

    @property
    def ended(self) -> int:
        """How many of its steps have ended, one way or another."""
        counts = self.counts
        return counts[DONE] + counts[FAILED] + counts[SKIPPED] + counts[CANCELED]


class _Scope:
    """A graph that was returned (or submitted), with what is left until its owner ends."""

    __slots__ = (
        "chain",
        "count",
        "first",
        "head",
        "inner",
        "is_list",
        "left",
        "outputs",
        "owner",
    )

    def __init__(self, owner: int | None, first: int, graph: Graph) -> None:
        self.owner, self.first, self.count = owner, first, len(graph.steps)
        self.is_list = isinstance(graph.output, list)
        output = graph.output if isinstance(graph.output, list) else [graph.output]
        self.outputs = {first + n for n in output}
        self.left = len(self.outputs)
        self.head = self  # the scope whose owner gets this one's value
        self.chain: list[int] = []  # steps between the head's owner and this output
        self.inner: list[_Scope] = []


class Tree:
    """All steps of a run, in groups."""

    def __init__(self) -> None:
        self.root = Group(-1, "", None)
        self.groups: list[Group] = []
        self.names: list[str] = []
        self.states = bytearray()
        self.counts = [0] * 7
        self.failures: list[int] = []
        """Steps that have failed for good, oldest first."""
        self.delivered: list[int] = []
        """Steps that ended because what they returned did; for whoever tells of them to clear."""
        self._group_of: list[Group] = []
        self._scope_of: list[_Scope] = []
        self._scopes: dict[int | None, _Scope] = {}  # by owner
        self._started: dict[int, float] = {}
        self._attempts: dict[int, int] = {}  # of steps that needed more than one
        self._catching: set[int] = set()
        self._names = Names()

    @classmethod
    def of(cls, run: Run) -> "Tree":
        """The tree of a run that was read from its journal."""
        tree = cls()
        for scope in run.scopes:
            first = scope.first
            output: int | list[int] = (
                [n - first for n in scope.output]
                if isinstance(scope.output, list)
                else scope.output - first
            )
            specs = [step.spec for step in run.steps[first : first + scope.count]]
            tree.add_scope(scope.owner, Graph(steps=specs, output=output))
        for step in run.steps:
            tree._settle(run, step)
        return tree

    def _settle(self, run: Run, step: StepState) -> None:
        """Put a step where it stands in the run."""
        number, status = step.number, run.status_of(step)
        state = _STATES.get(status, WAITING)
        if state == WAITING and step.due_at is not None:
            state = RETRYING
        if step.started_at is not None:
            self._begun(number, step.attempt, step.started_at)
        if state == FAILED:
            self.failures.append(number)
        ended_at = step.ended_at
        if ended_at is None and step.opened is not None:
            # The link of a chain of tail calls ends when the owner of the first one does.
            owner = run.scopes[run.scopes[step.opened].head].owner
            ended_at = None if owner is None else run.steps[owner].ended_at
        self._set(number, state, ended_at if ended_at is not None else step.started_at or 0.0)
        scope = self._scope_of[number]
        if state >= DONE and number in scope.outputs:
            scope.left -= 1

    # -- what happens ---------------------------------------------------------------------------

    def apply(self, at: float, event: Event, graph: Graph | None = None) -> None:
        """Take in what was recorded at `at`; `graph` for events that bring one."""
        if isinstance(event, StepSucceeded):
            self._begun(event.step, event.attempt, event.started_at or at)
            self._end(event.step, DONE, at)
        elif isinstance(event, StepStarted):
            if not self._is_ended(event.step):
                self._begun(event.step, event.attempt, event.started_at or at)
                self._set(event.step, RUNNING)
        elif isinstance(event, StepFailed):
            if self._is_ended(event.step):
                return
            self._begun(event.step, event.attempt, event.started_at or at)
            if event.retry_at is not None:
                self._set(event.step, RETRYING)
            elif event.step in self._catching:
                self._end(event.step, DONE, at)
            else:
                self.failures.append(event.step)
                self._set(event.step, FAILED, at)
        elif isinstance(event, StepLost):
            if not self._is_ended(event.step):
                self._begun(event.step, event.attempt, event.started_at or at)
                self._set(event.step, WAITING)
        elif isinstance(event, StepSkipped):
            self._end(event.step, SKIPPED, at)
        elif isinstance(event, RunSubmitted | GraphExtended):
            owner = event.step if isinstance(event, GraphExtended) else None
            if graph is not None and owner not in self._scopes:
                if isinstance(event, GraphExtended):
                    self._begun(event.step, event.attempt, event.started_at or at)
                    self._set(event.step, RUNNING)
                self.add_scope(owner, graph)
        elif isinstance(event, WaitBegun):
            if not self._is_ended(event.step):
                self._begun(event.step, 1, at)
                self._set(event.step, RUNNING)
        elif isinstance(event, WaitEnded):
            self._end(event.step, DONE, at)
        elif isinstance(event, ScopeClosed):
            self._close(event.step, at)
        elif isinstance(event, RunAdopted):
            self.stop()
        elif isinstance(event, RunFinished) and event.status is not RunStatus.FAILED:
            # One that succeeded may have left steps that nobody waited for any more.
            for step, state in enumerate(self.states):
                if state < DONE:
                    self._set(step, CANCELED, at)

    def add_scope(self, owner: int | None, graph: Graph) -> None:
        """Add the steps that `owner` returned (None: those of the run itself)."""
        first = len(self.names)
        around = None if owner is None else self._scope_of[owner]
        parent = self.root if owner is None else self._group_of[owner]
        scope = _Scope(owner, first, graph)
        if around is not None and owner is not None:
            around.inner.append(scope)
            is_output = not around.is_list and owner in around.outputs
            is_tail = is_output and around.owner is not None and not scope.is_list
            if is_tail and owner not in self._catching:
                # It delivers straight to the owner of the first link, as `core.scopes` has it.
                scope.head = around.head
                scope.head.chain.append(owner)
        self._scopes[owner] = scope
        steps = graph.steps
        for number, step in enumerate(steps, first):
            self.names.append(with_suffix(step.name, self._names.add(step.name, number)))
            if step.policy.catch:
                self._catching.add(number)
        self.states.extend(bytes(len(steps)))
        self.counts[WAITING] += len(steps)
        self._scope_of += [scope] * len(steps)
        self._place(steps, first, parent)

    def _place(self, steps: Sequence[Step], first: int, parent: Group) -> None:
        """Sort new steps into the groups below `parent`, in the order in which they can run."""
        levels = _levels(steps)
        places: dict[str, set[int]] = {}
        for step, level in zip(steps, levels, strict=True):
            places.setdefault(step.name, set()).add(level)
        self._group_of += [parent] * len(steps)
        known: dict[tuple[str, int], Group] = {}
        for position in sorted(range(len(steps)), key=levels.__getitem__):
            name = steps[position].name
            level = levels[position] if len(places[name]) <= MAX_LEVELS else -1
            group = known.get((name, level))
            if group is None:
                group = known[name, level] = self._find_group(parent, name, level)
            self._group_of[first + position] = group
            group.total += 1
            group.counts[WAITING] += 1
            if group.first < 0:
                group.first = first + position
        for position, step in enumerate(steps):
            group = self._group_of[first + position]
            for source in step.upstream():
                other = self._group_of[first + source]
                if other is not group and other.parent is group.parent:
                    group.upstream[other.index] = other

    def _find_group(self, parent: Group, name: str, level: int) -> Group:
        above: Group | None = parent
        while above is not None:
            if above.name == name and above.index >= 0:
                return above  # it calls itself
            above = above.parent
        group = parent.children.get((name, level))
        if group is None and len(self.groups) >= MAX_GROUPS:
            name, level = OTHERS, -1
            group = parent.children.get((name, level))
        if group is None:
            group = parent.children[name, level] = Group(len(self.groups), name, parent)
            self.groups.append(group)
        return group

    def _is_ended(self, step: int) -> bool:
        return self.states[step] >= DONE

    def _begun(self, step: int, attempt: int, at: float) -> None:
        if self.states[step] >= DONE:
            return
        self._started[step] = at
        group = self._group_of[step]
        if group.started_at is None:
            group.started_at = at
        if attempt > self._attempts.get(step, 1):
            group.tries += attempt - self._attempts.get(step, 1)
            self._attempts[step] = attempt

    def _set(self, step: int, state: int, at: float = 0.0) -> None:
        before = self.states[step]
        if before == state:
            return
        self.states[step] = state
        self.counts[before] -= 1
        self.counts[state] += 1
        group = self._group_of[step]
        group.counts[before] -= 1
        group.counts[state] += 1
        if state == RUNNING:
            group.running[step] = self._started.get(step, at)
        elif before == RUNNING:
            group.running.pop(step, None)
        if state >= DONE:
            group.ended_at = at
            started_at = self._started.pop(step, None)
            if started_at is not None and state <= FAILED:
                self._took(group, at - started_at)

    @staticmethod
    def _took(group: Group, seconds: float) -> None:
        if seconds < 0.0:
            seconds = 0.0
        if group.shortest_s is None or seconds < group.shortest_s:
            group.shortest_s = seconds
        if seconds > group.longest_s:
            group.longest_s = seconds

    def _end(self, step: int, state: int, at: float) -> None:
        """End the step, and each owner that has its value with it."""
        while self.states[step] < DONE:
            self._set(step, state, at)
            scope = self._scope_of[step]
            if step not in scope.outputs:
                return
            scope.left -= 1
            if scope.left:
                return
            if scope.is_list:
                state = DONE
            head = scope.head
            for link in head.chain:
                if self.states[link] < DONE:
                    self._set(link, state, at)
            if head.owner is None:
                return
            step = head.owner
            self.delivered.append(step)

    def _close(self, owner: int, at: float) -> None:
        """A failure below `owner` became its value: what it returned is dropped."""
        if self._is_ended(owner):
            return
        scopes = [self._scopes[owner]] if owner in self._scopes else []
        while scopes:
            scope = scopes.pop()
            scopes += scope.inner
            for step in range(scope.first, scope.first + scope.count):
                if self.states[step] < DONE:
                    self._set(step, CANCELED, at)
        self._end(owner, DONE, at)

    def stop(self, *, owners: bool = False) -> None:
        """What was running waits to be started again; with `owners` (nobody drives the run) those
        wait, too, that have returned steps."""
        for group in self.groups:
            for step in [n for n in group.running if owners or n not in self._scopes]:
                self._set(step, WAITING)

    def begin_times(self) -> None:
        """From now on is when groups begin: what was done of them before does not count."""
        for group in self.groups:
            if group.total > 1:
                group.started_at = None

    # -- questions ------------------------------------------------------------------------------

    def title_of(self, group: Group) -> str:
        """What the group is called: by its step's own name when it is only one."""
        return self.names[group.first] if group.total == 1 else group.name

    def group_of(self, step: int) -> Group:
        """The group in which the step is shown."""
        return self._group_of[step]

    def returned_by(self, step: int) -> int:
        """How many steps the step returned."""
        scope = self._scopes.get(step)
        return 0 if scope is None else scope.count

    @property
    def total(self) -> int:
        """How many steps the run has so far."""
        return len(self.names)

    @property
    def ended(self) -> int:
        """How many of them have ended, one way or another."""
        return sum(self.counts[DONE:])

    def walk(self) -> Iterator[tuple[int, Group]]:
        """Every group with its depth (0: of the run's own graph), owners before what they own."""
        waiting = [(0, group) for group in reversed(self.root.children.values())]
        while waiting:
            depth, group = waiting.pop()
            yield depth, group
            waiting += [(depth + 1, child) for child in reversed(group.children.values())]


def _levels(steps: Sequence[Step]) -> list[int]:
    """How many steps come at least before each one, along the longest way to it."""
    levels = [0] * len(steps)
    waiting_on = [0] * len(steps)
    dependents: list[list[int] | None] = [None] * len(steps)
    for position, step in enumerate(steps):
        if not step.inputs and not step.needs:
            continue
        for source in step.upstream():
            waiting_on[position] += 1
            readers = dependents[source]
            if readers is None:
                dependents[source] = [position]
            else:
                readers.append(position)
    free = [position for position, left in enumerate(waiting_on) if left == 0]
    while free:
        position = free.pop()
        level = levels[position] + 1
        for reader in dependents[position] or ():
            if levels[reader] < level:
                levels[reader] = level
            waiting_on[reader] -= 1
            if waiting_on[reader] == 0:
                free.append(reader)
    return levels
