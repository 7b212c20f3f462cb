"""Attempts, and what becomes of them, between the words of an executor and those of the wire."""

from weftline.ports import Attempt, Extended, Failed, Report, Starved, Succeeded
from weftline.wire import Call, Outcome, Raised, Returned, Unstored, unpack_error


def call_of(attempt: Attempt) -> Call:
    """The attempt as a child is told it, but for its function."""
    call = attempt.call
    return Call(
        attempt.key,
        attempt.run_id,
        attempt.step,
        attempt.number,
        call.arguments,
        call.retry_on,
        attempt.inputs,
    )


def report_of(outcome: Outcome, worker: str) -> Report:
    """The outcome as the engine is told it."""
    if isinstance(outcome, Returned):
        return Succeeded(
            key=outcome.key,
            started_at=outcome.started_at,
            worker=worker,
            log=outcome.log,
            value=outcome.value,
            preview=outcome.preview,
            objects=outcome.objects,
        )
    if isinstance(outcome, Raised):
        return Failed(
            key=outcome.key,
            started_at=outcome.started_at,
            worker=worker,
            log=outcome.log,
            error=unpack_error(outcome.error),
            retryable=outcome.retryable,
            objects=outcome.objects,
        )
    if isinstance(outcome, Unstored):
        return Starved(
            key=outcome.key,
            started_at=outcome.started_at,
            worker=worker,
            log=outcome.log,
            reason=outcome.text,
        )
    return Extended(
        key=outcome.key,
        started_at=outcome.started_at,
        worker=worker,
        log=outcome.log,
        graph=outcome.graph,
        pages=outcome.pages,
        output=outcome.output,
        objects=outcome.objects,
    )
