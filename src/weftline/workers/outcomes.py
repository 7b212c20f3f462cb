"""Attempts, and what becomes of them, between the words of an executor and those of the wire."""

from weftline.ports.executor import Attempt, Extended, Failed, Report, Starved, Succeeded, TimedOut
from weftline.wire import Call, Expired, Outcome, Raised, Returned, Unstored, unpack_error


def call_of(attempt: Attempt, timeout_s: float | None = None) -> Call:
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
        attempt.state,
        attempt.is_volatile,
        timeout_s,
    )


def report_of(outcome: Outcome, worker: str, *, may_stay: bool = False) -> Report:
    """The outcome as the engine is told it. `may_stay` says that its process can be kept."""
    if isinstance(outcome, Returned):
        return Succeeded(
            key=outcome.key,
            started_at=outcome.started_at,
            worker=worker,
            log=outcome.log,
            value=outcome.value,
            preview=outcome.preview,
            objects=outcome.objects,
            picture=outcome.picture,
            state=outcome.state,
            is_volatile=outcome.is_volatile,
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
    if isinstance(outcome, Expired):
        return TimedOut(
            key=outcome.key,
            started_at=outcome.started_at,
            worker=worker,
            log=outcome.log,
            after_s=outcome.after_s,
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
        state=outcome.state,
        stays=may_stay and outcome.stays,
    )
