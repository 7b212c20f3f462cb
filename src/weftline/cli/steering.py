"""`weft runs cancel|pause|continue|signal`: sends news to runs, and tells what came of it."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from typer import BadParameter

from weftline.api.runs import signal
from weftline.app import App, home
from weftline.cli.look import STATUS_STYLES
from weftline.cli.runs import record_of
from weftline.cli.terminal import command, plain, say, say_error, say_json, say_note
from weftline.core.events import RunStatus
from weftline.core.run import Run
from weftline.engine.recovery import read_run
from weftline.errors import (
    WeftlineError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowRunningError,
)
from weftline.ports.journal import InboxKind

PATIENCE_S = 10.0
"""How long to wait until whoever drives a run has taken something in."""

_LOOK_S = 0.005


def cancel_runs(run_ids: Sequence[str], *, as_json: bool) -> int:
    """End the runs; the exit status."""
    return _steer(run_ids, _cancel, as_json=as_json)


def pause_runs(run_ids: Sequence[str], *, as_json: bool) -> int:
    """Let no further step of the runs start; the exit status."""
    return _steer(run_ids, _pause, as_json=as_json)


def continue_runs(run_ids: Sequence[str], *, as_json: bool) -> int:
    """Let steps of the paused runs start again; the exit status."""
    return _steer(run_ids, _continue, as_json=as_json)


def send_signal(
    run_id: str,
    name: str,
    *,
    json_payload: str | None,
    text: str | None,
    key: str | None,
    as_json: bool,
) -> int:
    """Send a signal to the run; the exit status."""
    if json_payload is not None and text is not None:
        raise BadParameter("--payload and --json-payload exclude each other: give one of them")
    payload: Any = text
    if json_payload is not None:
        try:
            payload = json.loads(json_payload)
        except ValueError as error:
            raise BadParameter(f"--json-payload is no JSON: {error}") from None
    record_of(home(), run_id)
    counts = signal(run_id, name, payload, idempotency_key=key)
    if as_json:
        say_json({"id": run_id, "signal": name, "sent": counts})
    elif counts:
        say(f"signal {plain(repr(name))} is sent to run {plain(run_id)}", to=sys.stderr)
    else:
        say_note(f"a signal with the key {key!r} was sent to run {run_id!r} before: nothing to do")
    return 0


# -- several runs -------------------------------------------------------------------------------


def _steer(run_ids: Sequence[str], act: Callable[[App, str], str], *, as_json: bool) -> int:
    """Act on each of the runs, if all are there, and tell what came of it."""
    app, wanted = home(), list(dict.fromkeys(run_ids))
    problems = dict[str, str]()
    for run_id in wanted:
        try:
            record_of(app, run_id)
        except WorkflowNotFoundError as error:
            problems[run_id] = str(error)
    are_known = not problems
    for run_id in wanted if are_known else ():
        try:
            told = act(app, run_id)
        except WeftlineError as error:
            problems[run_id] = str(error)
            continue
        if not as_json:
            _say(app, run_id, told)
    if as_json:
        say_json([_document(app, run_id, problems.get(run_id)) for run_id in wanted])
    for problem in problems.values():
        say_error(problem)
    if not are_known and len(wanted) > len(problems):
        say_note("nothing was done with the other runs either")
    return 1 if problems else 0


def _say(app: App, run_id: str, told: str) -> None:
    status = app.owners.status_of(app.records.get_run(run_id))
    end = f": {told}" if told else ""
    say(f"run {plain(run_id)} is ", (status.value, STATUS_STYLES[status]), end, to=sys.stderr)


def _document(app: App, run_id: str, problem: str | None) -> dict[str, Any]:
    record = app.journal.find_run(run_id)
    status = None if record is None else app.owners.status_of(record).value
    return {"id": run_id, "status": status, "problem": problem}


# -- one run ------------------------------------------------------------------------------------


def _cancel(app: App, run_id: str) -> str:
    app.steering.cancel(run_id, PATIENCE_S)
    status = app.owners.status_of(app.records.get_run(run_id))
    if status is RunStatus.SUCCESSFUL:
        text = f"run {run_id!r} is SUCCESSFUL: there is nothing left to cancel"
        raise WorkflowNotResumableError(text, run_id)
    if status is not RunStatus.CANCELED:
        raise WorkflowRunningError(_not_taken_in(run_id), run_id)
    return f"it goes on only if it is resumed: {command('weft', 'runs', 'resume', run_id)}"


def _pause(app: App, run_id: str) -> str:
    _read_open(app, run_id, "pause")
    app.steering.pause(run_id)
    run = _taken_in(app, run_id, InboxKind.PAUSE)
    if not run.is_paused:  # it was faster
        raise WorkflowNotResumableError(_has_ended(run, "pause"), run_id)
    return f"no step of it starts until {command('weft', 'runs', 'continue', run_id)}"


def _continue(app: App, run_id: str) -> str:
    if not _read_open(app, run_id, "continue").is_paused:
        return "it was not paused"
    app.steering.unpause(run_id)
    _taken_in(app, run_id, InboxKind.CONTINUE)
    if app.owners.status_of(app.records.get_run(run_id)) is RunStatus.RESUMABLE:
        return f"it is paused no more; it goes on with {command('weft', 'runs', 'resume', run_id)}"
    return "its steps start again"


def _read_open(app: App, run_id: str, verb: str) -> Run:
    run = read_run(app.journal, run_id, to_drive=True).run
    if not run.is_open:
        raise WorkflowNotResumableError(_has_ended(run, verb), run_id)
    return run


def _taken_in(app: App, run_id: str, kind: InboxKind) -> Run:
    """The run, once whoever drives it has taken in all news of this kind.

    Raises: WorkflowRunningError when nobody does.
    """
    deadline = time.monotonic() + PATIENCE_S
    while any(each.kind == kind for each in app.journal.list_inbox(run_id)):
        if time.monotonic() > deadline:
            raise WorkflowRunningError(_not_taken_in(run_id), run_id)
        time.sleep(_LOOK_S)
    return read_run(app.journal, run_id, to_drive=True).run


def _has_ended(run: Run, verb: str) -> str:
    return f"run {run.run_id!r} is {run.status}: there is nothing to {verb}"


def _not_taken_in(run_id: str) -> str:
    return (
        f"run {run_id!r} was told so, but whoever drives it has not taken it in after"
        f" {PATIENCE_S:g} s; it does when it can: `weft status` shows who drives what"
    )
