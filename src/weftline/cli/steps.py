"""`weft runs show RUN STEP`: what is known of one step."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.text import Text

from weftline.app import App, home
from weftline.cli.logs import Attempt, AttemptEvent, attempts_of, log_folder, log_sizes
from weftline.cli.results import preview_of, success_of
from weftline.cli.runs import OPEN, has_owner, record_of, span_document, step_document, step_of
from weftline.cli.spans import Outcome, Span, SpanKind, spans_of
from weftline.cli.terminal import (
    byte_count,
    command,
    count,
    duration,
    lines_of,
    moment,
    one_line,
    plain,
    say,
    say_json,
    say_note,
    say_table,
)
from weftline.cli.waits import asks_text, placement_document, wait_document, wait_text
from weftline.core.events import Event, RunStatus, StepFailed, StepLost, StepSucceeded
from weftline.core.run import Run
from weftline.core.state import StepState, StepStatus
from weftline.core.waiting import Waiting, waits_of
from weftline.engine.recovery import RunReader
from weftline.errors import StepNotFoundError, StorageError

SHOWN_LINES = 40
"""So many lines of a preview or a traceback are shown; `--json` has all."""

SHOWN_TRIES = 20

_STYLES = {
    StepStatus.SUCCESSFUL: "green",
    StepStatus.RUNNING: "cyan",
    StepStatus.FAILED: "bold red",
}
_OUTCOME_STYLES = {
    Outcome.FAILED: "red",
    Outcome.TIMED_OUT: "red",
    Outcome.LOST: "yellow",
    Outcome.INTERRUPTED: "yellow",
    Outcome.RUNNING: "cyan",
}


class Shown(NamedTuple):
    """All that is shown of a step. `reasons` say what went wrong and `workers` where, by attempt;
    `made` is the event that brought its value."""

    run: Run
    step: StepState
    status: RunStatus
    spans: list[Span]
    reasons: dict[int, str]
    workers: dict[int, str]
    logs: list[Attempt]
    waits: list[Waiting]
    made: StepSucceeded | None


def show_step(run_id: str, name: str, *, picture: str | None, as_json: bool) -> int:
    """What is known of the step of this name; with `picture` its picture goes into that file."""
    app = home()
    record_of(app, run_id)
    reader = RunReader(app.journal, run_id)
    events = reader.refresh()
    record, run, _ = reader.recorded()
    step, status = step_of(run, run_id, name), app.owners.status_of(record)
    shown = _gather(run, step, status, events, is_driven=has_owner(app, record))
    size = None if picture is None else _write_picture(app, run_id, shown, Path(picture))
    printed = log_sizes(shown.logs, log_folder(app))
    if as_json:
        say_json(_document(run_id, shown, printed))
        return 0
    _say_step(run_id, shown, printed)
    if size is not None:
        say_note(f"the picture is in {picture} ({byte_count(size)})")
    return 0


def _gather(
    run: Run,
    step: StepState,
    status: RunStatus,
    events: Sequence[tuple[float, Event]],
    *,
    is_driven: bool,
) -> Shown:
    reasons, workers = dict[int, str](), dict[int, str]()
    for _, event in events:
        if not isinstance(event, AttemptEvent) or event.step != step.number:
            continue
        workers[event.attempt] = event.worker or workers.get(event.attempt, "")
        if isinstance(event, StepFailed):
            kind = event.error.type.removeprefix("builtins.")
            reasons[event.attempt] = f"{kind}: {event.error.text}"
        elif isinstance(event, StepLost):
            reasons[event.attempt] = event.reason
    has_value = run.value_of(step.number) is not None
    all_spans = spans_of(run, events, is_driven=is_driven)
    waits = waits_of(run, time.time(), status)
    return Shown(
        run=run,
        step=step,
        status=status,
        spans=[span for span in all_spans if span.step == step.number],
        reasons=reasons,
        workers=workers,
        logs=[one for one in attempts_of(run, events) if one.step == step.name],
        waits=[each for each in waits if step.name in each.steps],
        made=success_of(run, [event for _, event in events], step.name) if has_value else None,
    )


def _write_picture(app: App, run_id: str, shown: Shown, path: Path) -> int:
    """Write the picture of the step's value; how many bytes.

    Raises: StepNotFoundError when the step has none, StorageError when it cannot be written.
    """
    name = shown.step.name
    if shown.made is None or shown.made.picture is None:
        raise StepNotFoundError(
            f"step {name!r} of run {run_id!r} has no picture: only figures and images have one",
            run_id,
        )
    content = app.objects.read(shown.made.picture)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"the picture cannot be written to {path}: {error.strerror}; name another file"
        ) from error
    return len(content)


# -- for people ---------------------------------------------------------------------------------


def _say_step(run_id: str, shown: Shown, printed: tuple[int, int]) -> None:
    run, step = shown.run, shown.step
    status = _status_of(shown)
    lines: list[tuple[str, str, str]] = [
        ("step", f"{step.name} (of run {run_id})", "bold"),
        ("status", status, _STYLES.get(status, "")),
    ]
    lines += [("waits for", wait_text(each, time.time()), "yellow") for each in shown.waits]
    error = run.error_of(step.number)
    if error is not None:
        kind = error.type.removeprefix("builtins.")
        lines.append(("error", f"{kind}: {error.text}", "red"))
    if inputs := _inputs_of(shown):
        more = f" and {len(inputs) - 20:,} more" if len(inputs) > 20 else ""
        lines.append(("inputs", ", ".join(one_line(each, 60) for each in inputs[:20]) + more, ""))
    if step.opened is not None:
        lines.append(("returned", count(run.scopes[step.opened].count, "step"), ""))
    lines.append(("occupies", asks_text(step.spec.placement), ""))
    if any(printed):
        hint = command("weft", "runs", "logs", run_id, "--step", step.name)
        sizes = f"{byte_count(printed[0])} on stdout, {byte_count(printed[1])} on stderr"
        lines.append(("printed", f"{sizes}; {hint} shows it", ""))
    if shown.made is not None and shown.made.picture is not None:
        hint = command("weft", "runs", "show", run_id, step.name, "--picture", "FILE.png")
        lines.append(("picture", f"{hint} writes it", ""))
    for title, text, style in lines:
        say((f"{title:<10}", "dim"), (one_line(text, 1000), style))
    _say_tries(shown)
    if shown.made is not None:
        _say_block("value", preview_of(shown.made))
    if error is not None and error.traceback:
        _say_block("traceback", error.traceback)


def _say_tries(shown: Shown) -> None:
    rows = []
    for span in shown.spans[-SHOWN_TRIES:]:
        is_attempt = span.attempt and span.kind is not SpanKind.RETRY_DELAY
        what = f"try {span.attempt}" if is_attempt else span.kind.value.replace("-", " ")
        took = (time.time() if span.ended_at is None else span.ended_at) - span.started_at
        reason = one_line(shown.reasons.get(span.attempt, ""), 200) if is_attempt else ""
        worker = shown.workers.get(span.attempt, "") if is_attempt else ""
        outcome = Text(span.outcome.value, _OUTCOME_STYLES.get(span.outcome, ""))
        rows.append((what, moment(span.started_at), duration(took), outcome, worker, reason))
    if not rows:
        return
    say()
    say_table(("WHAT", "BEGAN", "TOOK", "OUTCOME", "WORKER", "WHY"), rows)
    if len(shown.spans) > SHOWN_TRIES:
        say_note(f"these are the last {SHOWN_TRIES} of {len(shown.spans):,}; --json has all")


def _say_block(title: str, text: str) -> None:
    lines = lines_of(text)
    say()
    say((title, "dim"))
    for line in lines[:SHOWN_LINES]:
        say("  " + line)
    if len(lines) > SHOWN_LINES:
        say((f"  ... {len(lines) - SHOWN_LINES:,} more lines", "dim"))


def _status_of(shown: Shown) -> StepStatus:
    """The step's status; what ran when the run was left is to be started again."""
    status = shown.run.status_of(shown.step)
    is_left = status is StepStatus.RUNNING and shown.status not in OPEN
    return StepStatus.READY if is_left else status


def _inputs_of(shown: Shown) -> list[str]:
    """Names of the steps that it reads or comes after."""
    run, step = shown.run, shown.step
    first = run.scopes[step.scope].first
    numbers = [*(first + n for n in step.spec.upstream()), *run.outer_of(step.spec)]
    return [run.steps[n].name for n in dict.fromkeys(numbers)]


# -- for programs -------------------------------------------------------------------------------


def _document(run_id: str, shown: Shown, printed: tuple[int, int]) -> dict[str, Any]:
    step, made = shown.step, shown.made
    document = step_document(shown.run, step, shown.status, made)
    tries = []
    for span in shown.spans:
        each = span_document(shown.run, span)
        del each["step"]
        if span.attempt and span.kind is not SpanKind.RETRY_DELAY:
            each["worker"] = shown.workers.get(span.attempt) or None
            each["reason"] = shown.reasons.get(span.attempt)
        tries.append(each)
    return document | {
        "run": run_id,
        "status": _status_of(shown).value,
        "inputs": _inputs_of(shown),
        "placement": placement_document(step.spec.placement),
        "metadata": step.spec.metadata or {},
        "spans": tries,
        "waits": [wait_document(each) for each in shown.waits],
        "returned": 0 if step.opened is None else shown.run.scopes[step.opened].count,
        "printed_bytes": {"out": printed[0], "err": printed[1]},
        "preview": None if made is None else plain(preview_of(made)),
    }
