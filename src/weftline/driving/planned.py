"""New runs, as they are told to an engine or to a controller."""

import warnings
from typing import NamedTuple

import msgspec

from weftline.control import NewRun
from weftline.core.environment import Environment
from weftline.core.graph import Pages, differences
from weftline.core.workflow import Workflow
from weftline.driving.controllers import Listener
from weftline.engine.active import Submission
from weftline.engine.recovery import Recorded
from weftline.ports.journal import Creation


class Planned(NamedTuple):
    """A run to be started. `listener` is told once, if it is accepted, how it ends: on another
    thread, which it must not hold up."""

    run_id: str
    workflow: Workflow
    listener: Listener
    objects: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    is_actor: bool = False
    group: tuple[str, int] | None = None


def ignore(news: object) -> None:
    """A listener for whoever wants to know nothing."""


def submission_of(
    planned: Planned, at: float, environment: Environment, *, detached: bool = False
) -> Submission:
    """What an engine of this process is told of a run."""
    workflow = planned.workflow
    pages = Pages(workflow.graph.steps)
    return Submission(
        run_id=planned.run_id,
        creation=Creation(
            workflow=workflow.name,
            created_at=at,
            environment=environment,
            metadata=workflow.metadata,
            detached=detached,
        ),
        graph=workflow.graph,
        graph_hash=pages.hash(),
        pages=pages,
        objects=planned.objects,
        warnings=planned.warnings,
        is_actor=planned.is_actor,
        group=planned.group,
    )


def message_of(planned: Planned, number: int, at: float, environment: Environment) -> NewRun:
    """What the controller is told of a run."""
    workflow = planned.workflow
    return NewRun(
        number=number,
        run_id=planned.run_id,
        workflow=workflow.name,
        created_at=at,
        environment=environment,
        metadata=msgspec.json.encode(workflow.metadata),
        pages=list(Pages(workflow.graph.steps)),
        output=workflow.graph.output,
        objects=planned.objects,
        warnings=planned.warnings,
        is_actor=planned.is_actor,
        group=planned.group,
    )


def warn_of_changes(recorded: Recorded, written: Workflow, *, stacklevel: int) -> None:
    """Warn when what is recorded is not what was written now; `stacklevel` as if this warned."""
    changes = differences(recorded.graph, written.graph)
    if changes:
        warnings.warn(
            f"run {recorded.record.run_id!r} goes on as it was recorded, although the workflow"
            f" was changed since: {'; '.join(changes)}. Use another id to run it as it is now.",
            stacklevel=stacklevel,
        )
