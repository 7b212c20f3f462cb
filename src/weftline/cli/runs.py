"""`weft runs ...`: lists, shows and deletes what is recorded."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.text import Text
from typer import BadParameter

from weftline.app import App, home
from weftline.cli.drawing import draw
from weftline.cli.look import STATUS_STYLES, glyphs_for
from weftline.cli.results import error_document, is_json, load_result
from weftline.cli.spans import Span, spans_of
from weftline.cli.terminal import (
    command,
    console,
    count,
    duration,
    is_terminal,
    iso,
    moment,
    one_line,
    plain,
    say,
    say_json,
    say_note,
    say_table,
    value_text,
)
from weftline.cli.timeline import bounds, draw_timeline, rows_of
from weftline.cli.tree import Tree
from weftline.core.events import (
    RunStatus,
    StepSucceeded,
)
from weftline.core.run import Run
from weftline.core.state import StepState
from weftline.engine.recovery import Recorded, RunReader
from weftline.errors import (
    StepNotFoundError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    did_you_mean,
)
from weftline.ports.journal import RunRecord

OPEN = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.PENDING)


def record_of(app: App, run_id: str) -> RunRecord:
    """The run's row. Raises: WorkflowNotFoundError, naming an id that is near."""
    record = app.journal.find_run(run_id)
    if record is None:
        known = [one.run_id for one in app.journal.list_runs(limit=2000)]
        hint = did_you_mean(run_id, known)
        if not hint:
            longer = [one for one in known if one.startswith(run_id)][:5] if run_id else []
            names = ", ".join(repr(one) for one in longer)
            hint = f"; there is {names}" if names else "; `weft runs list` shows those there are"
        raise WorkflowNotFoundError(f"there is no run {run_id!r}{hint}", run_id)
    return record


def step_of(run: Run, run_id: str, name: str) -> StepState:
    """The run's step of this name. Raises: StepNotFoundError, naming one that is near."""
    step = run.find_step(name)
    if step is None:
        hint = did_you_mean(name, run.names)
        if not hint:
            listed = list(run.names)[:8]
            more = f" and {len(run.names) - 8:,} more" if len(run.names) > 8 else ""
            hint = f"; it has {', '.join(listed)}{more}"
        raise StepNotFoundError(f"run {run_id!r} has no step {name!r}{hint}", run_id)
    return step


def has_owner(app: App, record: RunRecord) -> bool:
    """Whether an engine that owns the run lives; that of a failed one may still finish steps."""
    return record.engine is not None and app.journal.is_alive(record.engine)


# -- list ---------------------------------------------------------------------------------------


def list_runs(*, statuses: Sequence[str], workflow: str | None, limit: int, as_json: bool) -> int:
    """The runs of this home, newest first."""
    app = home()
    wanted = {_status(text) for text in statuses}
    found = _find(app, wanted, workflow, limit + 1 if limit else None)
    shown = found[:limit] if limit else found
    if as_json:
        say_json([_run_document(record, status) for record, status in shown])
        return 0
    if not shown:
        say_note("no such run" if wanted or workflow else "no runs yet")
        return 0
    rows = [
        (
            record.run_id,
            record.creation.workflow,
            Text(status.value, STATUS_STYLES[status]),
            f"{record.summary.succeeded:,}/{record.summary.steps:,}",
            moment(record.creation.created_at),
            _took(record, status),
        )
        for record, status in shown
    ]
    say_table(("ID", "WORKFLOW", "STATUS", "STEPS", "CREATED", "TOOK"), rows)
    if len(found) > len(shown):
        say_note(f"these are the newest {limit}; --limit 0 lists all")
    return 0


def _status(text: str) -> RunStatus:
    name = text.upper()
    if name not in RunStatus.__members__:
        known = ", ".join(RunStatus.__members__)
        raise BadParameter(
            f"{text!r} is no status{did_you_mean(name, RunStatus.__members__)}; there are {known}"
        )
    return RunStatus(name)


def _find(
    app: App, wanted: set[RunStatus], workflow: str | None, limit: int | None
) -> list[tuple[RunRecord, RunStatus]]:
    if not wanted:
        records = app.journal.list_runs(workflow=workflow, limit=limit)
        return [(record, app.owners.status_of(record)) for record in records]
    # A run that is stored as open may have lost the process that drove it, and is RESUMABLE then.
    stored = wanted | set(OPEN) if RunStatus.RESUMABLE in wanted else wanted
    is_sure = not stored & set(OPEN)
    records = app.journal.list_runs(
        statuses=stored, workflow=workflow, limit=limit if is_sure else None
    )
    found = [(record, app.owners.status_of(record)) for record in records]
    return [one for one in found if one[1] in wanted][:limit]


def _took_s(record: RunRecord, status: RunStatus) -> float | None:
    summary = record.summary
    if summary.started_at is None:
        return None
    if summary.ended_at is not None:
        return summary.ended_at - summary.started_at
    return time.time() - summary.started_at if status is RunStatus.RUNNING else None


def _took(record: RunRecord, status: RunStatus) -> str:
    seconds = _took_s(record, status)
    return "" if seconds is None else duration(seconds)


def _run_document(record: RunRecord, status: RunStatus) -> dict[str, Any]:
    summary, metadata = record.summary, dict(record.creation.metadata)
    took_s = _took_s(record, status)
    return {
        "id": record.run_id,
        "workflow": record.creation.workflow,
        "status": status.value,
        "steps": summary.steps,
        "succeeded": summary.succeeded,
        "created_at": iso(record.creation.created_at),
        "started_at": iso(summary.started_at),
        "ended_at": iso(summary.ended_at),
        "took_s": None if took_s is None else round(took_s, 6),
        "params": metadata.pop("params", {}),
        "metadata": metadata,
        "error": error_document(summary.error),
    }


# -- show ---------------------------------------------------------------------------------------


def show_run(run_id: str, *, as_json: bool) -> int:
    """What is known of the run, and its graph."""
    app = home()
    record_of(app, run_id)
    reader = RunReader(app.journal, run_id)
    events = reader.refresh()
    recorded = reader.recorded()
    status = app.owners.status_of(recorded.record)
    if as_json:
        document = _run_document(recorded.record, status)
        run = recorded.run
        made = {event.step: event for _, event in events if isinstance(event, StepSucceeded)}
        document |= {
            "steps": len(run.steps),
            "failed_step": None if run.failed_step is None else run.steps[run.failed_step].name,
            "reason": run.held,
            "warnings": run.warnings,
            "graph": [
                step_document(run, step, status, made.get(step.number)) for step in run.steps
            ],
        }
        say_json(document)
        return 0
    _say_summary(recorded, status)
    tree = Tree.of(recorded.run)
    if status not in OPEN:
        tree.stop(owners=True)
    say()
    paint = console()
    for line in draw(tree, time.time(), glyphs_for(sys.stdout)):
        paint.print(line, soft_wrap=True)
    _say_what_next(run_id, status)
    return 0


def show_timeline(run_id: str, *, as_json: bool) -> int:
    """When what of the run took place."""
    app = home()
    record_of(app, run_id)
    reader = RunReader(app.journal, run_id)
    events = reader.refresh()
    recorded = reader.recorded()
    run, status = recorded.run, app.owners.status_of(recorded.record)
    is_driven = has_owner(app, recorded.record)
    spans = spans_of(run, events, is_driven=is_driven)
    if as_json:
        say_json([span_document(run, span) for span in spans])
        return 0
    _say_summary(recorded, status)
    tree = Tree.of(run)
    if status not in OPEN:
        tree.stop(owners=True)
    begin, end = bounds(run, spans, time.time(), is_driven=is_driven)
    say()
    paint = console()
    glyphs, width = glyphs_for(sys.stdout), paint.width
    for line in draw_timeline(rows_of(tree, spans), begin, end, width=width, glyphs=glyphs):
        paint.print(line, soft_wrap=True)
    return 0


def span_document(run: Run, span: Span) -> dict[str, Any]:
    """A span of time for programs."""
    return {
        "step": run.steps[span.step].name,
        "attempt": span.attempt or None,
        "kind": span.kind.value,
        "started_at": iso(span.started_at),
        "ended_at": iso(span.ended_at),
        "outcome": span.outcome.value,
    }


def _say_summary(recorded: Recorded, status: RunStatus) -> None:
    record, run = recorded.record, recorded.run
    metadata = dict(record.creation.metadata)
    params = metadata.pop("params", {})
    succeeded, took = run.succeeded, _took(record, status)
    times = moment(record.creation.created_at)
    if run.started_at != run.submitted_at:
        times += f", resumed {moment(run.started_at)}"
    if took:
        times += f", {'runs since' if status is RunStatus.RUNNING else 'took'} {took}"
    lines: list[tuple[str, str | tuple[str, str]]] = [
        ("run", (record.run_id, "bold")),
        ("workflow", record.creation.workflow),
        ("status", (status.value, STATUS_STYLES[status])),
        ("steps", f"{succeeded:,} of {len(run.steps):,} successful"),
        ("created", times),
    ]
    if params:
        lines.append(("params", one_line(", ".join(f"{k}={v!r}" for k, v in params.items()), 300)))
    if metadata:
        lines.append(("metadata", one_line(json.dumps(metadata, ensure_ascii=False), 300)))
    if run.held is not None:
        lines.append(("held", (one_line(run.held, 500), "yellow")))
    if run.error is not None:
        step = "" if run.failed_step is None else f" (step {run.steps[run.failed_step].name!r})"
        text = f"{run.error.type.removeprefix('builtins.')}: {run.error.text}{step}"
        lines.append(("error", (one_line(text, 500), "red")))
    lines += [("warning", (one_line(text, 500), "yellow")) for text in run.warnings]
    for title, said in lines:
        text, style = (said, "") if isinstance(said, str) else said
        say((f"{title:<10}", "dim"), (one_line(text, 500), style))


def _say_what_next(run_id: str, status: RunStatus) -> None:
    if status is RunStatus.SUCCESSFUL:
        hint, what = ("output", run_id), "its result"
    elif status in (RunStatus.RESUMABLE, RunStatus.FAILED, RunStatus.CANCELED):
        hint, what = ("resume", run_id), "lets it go on"
    else:
        return
    say(to=sys.stderr)
    say(f"  {command('weft', 'runs', *hint)}", (f"   {what}", "dim"), to=sys.stderr)


def step_document(
    run: Run, step: StepState, status: RunStatus, made: StepSucceeded | None
) -> dict[str, Any]:
    """What is known of a step, for programs; `status` is that of its run."""
    scope = run.scopes[step.scope]
    shown = run.status_of(step)
    started_at, ended_at = step.started_at, step.ended_at
    took_s = None if started_at is None or ended_at is None else round(ended_at - started_at, 6)
    error = run.error_of(step.number)
    return {
        "name": step.name,
        "status": "READY" if shown == "RUNNING" and status not in OPEN else shown.value,
        "attempts": step.attempt,
        "started_at": iso(started_at),
        "ended_at": iso(ended_at),
        "took_s": took_s,
        "inputs": [run.steps[scope.first + n].name for n in dict.fromkeys(step.spec.upstream())],
        "returned_by": None if scope.owner is None else run.steps[scope.owner].name,
        "error": error_document(error),
        "preview": None if made is None else made.preview,
        "picture": None if made is None else made.picture,
    }


# -- output -------------------------------------------------------------------------------------


def print_output(run_id: str, *, step: str | None, as_json: bool) -> int:
    """The recorded value of the run or of one of its steps."""
    app = home()
    record_of(app, run_id)
    recorded = app.records.read(run_id)
    _check_has_value(app, recorded, step)
    loaded = load_result(app, run_id, step)
    if loaded.problem is not None:
        say_note(f"the value cannot be loaded here ({loaded.problem}); this is what it looked like")
    if as_json:
        document: dict[str, Any] = {"id": run_id, "step": step}
        if loaded.problem is None and is_json(loaded.value):
            document["value"] = loaded.value
        else:
            document["preview"] = loaded.preview or value_text(loaded.value, limit=2000)
        say_json(document)
        return 0
    text = plain(loaded.preview or "") if loaded.problem is not None else value_text(loaded.value)
    sys.stdout.write(text + ("" if text.endswith("\n") else "\n"))
    return 0


def _check_has_value(app: App, recorded: Recorded, name: str | None) -> None:
    run, run_id = recorded.run, recorded.record.run_id
    status = app.owners.status_of(recorded.record)
    if name is None:
        what, has_value, error = f"run {run_id!r}", run.finished is RunStatus.SUCCESSFUL, run.error
    else:
        step = step_of(run, run_id, name)
        what = f"step {name!r} of run {run_id!r}"
        has_value, error = run.value_of(step.number) is not None, run.error_of(step.number)
    if has_value:
        return
    if error is not None:
        kind = error.type.removeprefix("builtins.")
        raise WorkflowExecutionError(
            f"{what} has no value, it failed: {kind}: {one_line(error.text, 1000)}", run_id
        )
    if name is not None and status in OPEN:
        raise WorkflowNotResumableError(
            f"{what} has no value yet: it is {run.status_of(step_of(run, run_id, name))}", run_id
        )
    hint = f"; `{command('weft', 'runs', 'resume', run_id)}` lets it go on"
    raise WorkflowNotResumableError(
        f"{what} has no value: the run is {status}{'' if status in OPEN else hint}", run_id
    )


# -- delete -------------------------------------------------------------------------------------


def delete_run(run_id: str, *, yes: bool, as_json: bool) -> int:
    """Forget the run, once the person is sure."""
    app = home()
    record = record_of(app, run_id)
    if not yes:
        if not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
            raise BadParameter(
                f"deleting run {run_id!r} cannot be undone: say --yes to do it without being asked"
            )
        steps = count(record.summary.steps, "step")
        sys.stderr.write(
            plain(
                f"Delete run {run_id!r} ({app.owners.status_of(record)}, {steps}) for good? [y/N] "
            )
        )
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say_note("nothing was deleted")
            return 1
    app.records.delete(run_id)
    if as_json:
        say_json({"id": run_id, "deleted": True})
    else:
        say(f"run {plain(run_id)} is deleted", to=sys.stderr)
    return 0
