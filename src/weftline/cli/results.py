"""What a run or a step ended with, for people and for programs.

A value is the user's own, and may be of a class that is not to be had here: then what was noted
when it was made stands for it.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from weftline.app import App
from weftline.core.events import Event, StepSucceeded
from weftline.core.run import Run
from weftline.core.values import Error, Inline, ListOf, Object, Packed, unpack
from weftline.engine.active import Ended
from weftline.engine.recovery import RunReader


class Loaded(NamedTuple):
    """A value; with `problem`, why it could not be loaded, and then `preview` stands for it."""

    value: Any
    preview: str | None = None
    problem: str | None = None


def load_result(app: App, run_id: str, step: str | None = None) -> Loaded:
    """The recorded value of the run or of its step; there must be one."""
    try:
        if step is not None:
            return Loaded(app.results.wait_for(run_id, step, 0.0))
        summary = app.records.get_run(run_id).summary
        ended = Ended(summary.status, summary.value, summary.error, None, None)
        return Loaded(app.results.result_of(run_id, ended))
    except Exception as error:  # it is the user's own class, and may raise anything
        problem = f"{type(error).__name__}: {error}"
    reader = RunReader(app.journal, run_id)
    events = [event for _, event in reader.refresh()]
    made = success_of(reader.run, events, step)
    return Loaded(None, "(not known)" if made is None else preview_of(made), problem)


def success_of(run: Run, events: Sequence[Event], step: str | None) -> StepSucceeded | None:
    """The event in which the value of the run or of its step was made, if one event did: steps
    that return steps take theirs from those."""
    named = None if step is None else run.find_step(step)
    found: int | list[int] = run.scopes[0].output if named is None else named.number
    while not isinstance(found, list) and (opened := run.steps[found].opened) is not None:
        found = run.scopes[opened].output
    for event in reversed(events):
        if isinstance(event, StepSucceeded) and event.step == found:
            return event
    return None


def preview_of(made: StepSucceeded) -> str:
    """How the value looked when it was made, in one or several lines."""
    return made.preview or described(bytes(made.value))


def described(packed: Packed) -> str:
    """What can be said of a value without loading it."""
    value = unpack(packed)
    if isinstance(value, Inline):
        return bytes(value.data).decode() if value.codec == "json" else f"(a {value.codec} value)"
    if isinstance(value, Object):
        return f"(a {value.codec} value of {value.size:,} bytes)"
    return f"(a list of {len(value.values):,} values)" if isinstance(value, ListOf) else "(a value)"


def is_json(value: Any) -> bool:
    """Whether JSON brings the value back as it is."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def error_document(error: Error | None) -> dict[str, str] | None:
    """An error for programs."""
    if error is None:
        return None
    return {"type": error.type, "text": error.text, "traceback": error.traceback}
