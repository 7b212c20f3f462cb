"""What a graph may read of the run it becomes part of: steps that do not wait for the graph."""

from weftline.core.actions import Wait, WaitKind
from weftline.core.graph import Graph, Join, Step
from weftline.core.standing import Standing


def reference_problems(
    graph: Graph, run: Standing | None = None, owner: int | None = None
) -> list[str]:
    """What is wrong with the graph's references to steps of `run`, in words; no run: each one.

    `owner` returns the graph. Whatever ends only after it cannot be read in there: the reader and
    what it reads would wait for each other.
    """
    found: list[str] = []
    looked_at: set[int] = set()  # each once: of several ways to the owner the first is told
    for step in graph.steps:
        for number in step.outer() if step.inputs else ():
            if run is None or not 0 <= number < run.laid_down + len(run.steps):
                found.append(f"step {step.name!r} reads a step that its run does not have")
                continue
            if number < run.laid_down:
                found.append(
                    f"step {step.name!r} reads a step of a call that its actor has laid down; keep"
                    " the value in the state, not the reference"
                )
                continue
            source = number - run.laid_down
            is_needed = owner is not None and _waits_for_all(step)
            if is_needed and _ends_after(run, source, owner, looked_at):
                found.append(
                    f"step {step.name!r} reads step {run.steps[source].name!r}, which ends only"
                    " after it: they would wait for each other for ever"
                )
    return found


def _ends_after(run: Standing, number: int, owner: int | None, looked_at: set[int]) -> bool:
    """Whether the step cannot end before the owner has."""
    waiting = [number]
    while waiting:
        number = waiting.pop()
        if number == owner:
            return True
        if number in looked_at or run.has_ended(number):
            continue
        looked_at.add(number)
        step = run.steps[number]
        if step.opened is not None:
            waiting += run.scopes[step.opened].outputs
        elif _waits_for_all(step.spec):
            waiting += run.sources_of(step)
    return False


def _waits_for_all(step: Step) -> bool:
    """Whether the step needs the end of everything that it reads or waits for."""
    action = step.action
    if not isinstance(action, Wait) or action.kind is not WaitKind.STEPS:
        return step.join is not Join.ONE_SUCCEEDED
    is_patient = action.seconds is None
    return is_patient and action.count >= len({*step.upstream()}) + len({*step.outer()})
