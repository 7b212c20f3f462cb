"""Taking in the sub-graphs of a run, and leaving them."""

from weftline.core.bearing import go_without
from weftline.core.climbing import does_without
from weftline.core.graph import Graph
from weftline.core.policy import DEFAULT_POLICY
from weftline.core.progress import free, inputs_ended, pass_state_on
from weftline.core.splits import waits_for_steps
from weftline.core.standing import Standing
from weftline.core.state import CANCELED, Scope, StepState


def open_scope(
    run: Standing, owner: StepState | None, graph: Graph, after: StepState | None = None
) -> Scope:
    """Take in a sub-graph; its steps begin when `after`, if given, has ended."""
    first, number = len(run.steps), len(run.scopes)
    scope = Scope(None if owner is None else owner.number, first, graph)
    scope.head = number
    if owner is not None:
        owner.opened = number
        _place(run, scope, owner, number)
    else:
        run.undelivered += 1
    run.scopes.append(scope)
    run.unfinished += len(graph.steps)
    steps = run.steps
    for position, spec in enumerate(graph.steps, first):
        suffix = run.naming.add(spec.name, position)
        if 0 < suffix < position:
            suffix = steps[suffix].number  # equal: an int of its own would be 32 bytes a step
        steps.append(StepState(position, suffix, spec, number))
        if spec.policy is not DEFAULT_POLICY and spec.policy.checkpoint is False:
            run.has_volatile = True
    _connect(run, first, after)
    return scope


def _place(run: Standing, scope: Scope, owner: StepState, number: int) -> None:
    """Put the scope into the one that its owner is part of, or at the end of a chain."""
    around = run.scopes[owner.scope]
    if around.inner is None:
        around.inner = []
    around.inner.append(number)
    scope.catching = number if owner.spec.policy.catch else around.catching
    is_tail = owner.number == around.output and around.owner is not None
    if is_tail and not owner.spec.policy.catch and not isinstance(scope.output, list):
        scope.head = around.head
        head = run.scopes[scope.head]
        head.chained += 1
        if owner.dependents:
            head.followers = head.followers or []
            head.followers += owner.dependents
            owner.dependents = None


def _connect(run: Standing, first: int, after: StepState | None) -> None:
    """Let the steps from `first` on wait for what they read; those that need not are READY."""
    steps = run.steps
    lacking: list[tuple[StepState, list[StepState]]] = []
    for step in steps[first:]:
        spec, reader = step.spec, (step.number,)
        for source in spec.upstream():
            upstream = steps[first + source]
            if upstream.dependents is None:
                upstream.dependents = reader
            else:
                upstream.add_dependent(reader)
            step.waiting_on += 1
        for source in run.outer_of(spec) if spec.inputs else ():
            if causes := _read_outer(run, step, source):
                lacking.append((step, causes))
        if after is not None:
            _read_outer(run, step, after.number)
        if waits_for_steps(step):
            run.splits[step.number] = sum(1 for _ in spec.upstream()) + len(spec.outer())
            free(run, step)  # it is the wait itself that waits for them
        elif step.waiting_on == 0:
            inputs_ended(run, step)
    for step, causes in lacking:
        go_without(run, step, causes)


def _read_outer(run: Standing, step: StepState, number: int) -> list[StepState]:
    """Let the step wait for one that the run had before it. Gives failures, borne so far, by
    which that one has no value, when the step cannot do without it."""
    source, causes = run.get_step(number), run.failures_of(number)
    if run.has_ended(number) and not causes:
        step.lacks |= run.value_of(number) is None
        return []
    opened = None if source.opened is None else run.scopes[source.opened]
    if opened is not None and run.scopes[opened.head] is not opened:
        head = run.scopes[opened.head]  # its value comes from the end of its chain
        head.followers = head.followers or []
        head.followers.append(step.number)
    else:
        source.add_dependent((step.number,))
    if causes and does_without(step, source):
        return []
    step.waiting_on += 1
    return causes


def close_scope(run: Standing, number: int, at: float) -> None:
    """Drop what is not ended of a scope, and of those inside of it."""
    open_scopes = [number]
    while open_scopes:
        scope = run.scopes[open_scopes.pop()]
        if scope.closed:
            continue
        scope.closed = True
        open_scopes += scope.inner or ()
        for step in run.steps[scope.first : scope.first + scope.count]:
            if not step.is_ended and not run.is_ended_link(step):
                if step.may_begin:
                    run.dropped.append(step.number)
                step.status, step.ended_at, step.due_at = CANCELED, at, None
                run.unfinished -= 1
                if run.is_actor:
                    pass_state_on(run, step)
    still_open = [n for n in run.failures.open if not run.scopes[run.steps[n].scope].closed]
    run.unfinished -= len(run.failures.open) - len(still_open)
    run.failures.open = still_open
