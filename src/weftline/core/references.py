"""What a graph may read of the run it becomes part of: steps that the run has already."""

from weftline.core.graph import Graph
from weftline.core.standing import Standing


def reference_problems(graph: Graph, run: Standing | None = None) -> list[str]:
    """What is wrong with the graph's references to steps of `run`, in words; no run: each one."""
    found: list[str] = []
    for step in graph.steps:
        for number in step.outer() if step.inputs else ():
            if run is None or not 0 <= number < run.laid_down + len(run.steps):
                found.append(f"step {step.name!r} reads a step that its run does not have")
            elif number < run.laid_down:
                found.append(
                    f"step {step.name!r} reads a step of a call that its actor has laid down; keep"
                    " the value in the state, not the reference"
                )
    return found
