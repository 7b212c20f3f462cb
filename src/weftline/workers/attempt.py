"""Carrying out one attempt: load, call, and pack what came of it. Used wherever attempts run."""

import sys
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from types import CoroutineType
from typing import Any, NamedTuple

from msgspec.structs import replace

from weftline.code.loads import load_function
from weftline.codecs.arguments import load_arguments
from weftline.codecs.exceptions import encode_error
from weftline.codecs.references import ObjectRef, StepRef
from weftline.codecs.values import decode, encode
from weftline.core.actions import PythonCall, Wait, WaitKind
from weftline.core.graph import Graph, OuterInput, Step, encode_pages
from weftline.core.values import Error, Object, Packed
from weftline.errors import StorageFull
from weftline.ports.objects import ObjectStore
from weftline.wire import Call, Outcome, Raised, Returned, ReturnedSteps, Unstored, pack_error

_TEXT_LENGTH = 4096


class Current(NamedTuple):
    """The attempt that is being carried out. The key is the same for all attempts of a step."""

    run_id: str
    step: str
    attempt: int
    idempotency_key: str


_call: ContextVar[Call] = ContextVar("weftline-call")
# Threads that a step starts have a context of their own: there it goes by what the process does,
# where that is one attempt at a time.
_calls: dict[int, Call] = {}


def current() -> Current | None:
    """The attempt that the caller is part of; None outside of one."""
    call = _call.get(None)
    if call is None:
        call = _only_call()
        if call is None:
            return None
    return Current(call.run_id, call.step, call.number, f"{call.run_id}/{call.step}")


def _only_call() -> Call | None:
    """The only attempt of this process, for a thread that does not know whose it is."""
    # Attempts know their own, whichever thread they are in: the main thread is no part of one.
    from threading import current_thread, main_thread

    if len(_calls) != 1 or current_thread() is main_thread():
        return None
    try:
        return next(iter(_calls.values()))
    except (StopIteration, RuntimeError):  # it has just ended, or another one begun
        return None


def carry_out(
    function: Object,
    call: Call,
    started_at: float,
    objects: ObjectStore,
    *,
    interrupts: tuple[type[BaseException], ...] = (),
    has_company: bool = False,
) -> Outcome:
    """What comes of the call: whatever goes wrong is its failure, but for `interrupts`.

    `has_company` says that others are carried out at the same time in this process. `took_s` and
    `log` of the outcome are for the caller to fill in.
    """
    if not has_company:
        _calls[id(call)] = call
    try:
        # In a context of its own, so that no attempt finds what another one left there.
        return copy_context().run(_carry_out, function, call, started_at, objects)
    except interrupts:
        raise
    except BaseException as error:
        return _raised(error, call, started_at, objects)
    finally:
        _calls.pop(id(call), None)


def _carry_out(function: Object, call: Call, started_at: float, objects: ObjectStore) -> Outcome:
    _call.set(call)
    target, args, kwargs = _loaded(function, call, objects)
    actor = getattr(target, "__weftline_actor__", None)
    if actor is None:
        result = target(*args, **kwargs)
        if type(result) is CoroutineType:
            result = _awaited(result)
        return _packed(result, call, started_at, objects)
    pair = actor(_state(call, objects), args, kwargs)
    result, state = _awaited(pair) if type(pair) is CoroutineType else pair
    if type(result) is CoroutineType:
        result = _awaited(result)
    return _packed(result, call, started_at, objects, (state,))


async def listen(function: Object, call: Call, started_at: float, objects: ObjectStore) -> Outcome:
    """As `carry_out`, in the running loop and the current task's context, which must be its own.

    Being canceled counts as going wrong, too.
    """
    try:
        _call.set(call)
        target, args, kwargs = _loaded(function, call, objects)
        result = target(*args, **kwargs)
        del args, kwargs
        if type(result) is CoroutineType:
            result = await result
        return _packed(result, call, started_at, objects)
    except BaseException as error:
        return _raised(error, call, started_at, objects)


def _loaded(
    function: Object, call: Call, objects: ObjectStore
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    target = load_function(function, objects)
    inputs = [decode(packed, objects) for packed in call.inputs]
    return target, *load_arguments(call.arguments, inputs, objects)


def _state(call: Call, objects: ObjectStore) -> Any:
    return None if call.state is None else decode(call.state, objects)


def _packed(
    result: Any, call: Call, started_at: float, objects: ObjectStore, new: tuple[Any, ...] = ()
) -> Outcome:
    """What the function returned, as it is told; `new` has the actor's new state, if it is one's
    method. Raises: what the values do."""
    try:
        state, needs = _packed_state(new, call, objects)
        if isinstance(result, ObjectRef):  # it means its value, which is stored already
            found = tuple(result.objects) + needs
            return Returned(
                call.key, started_at, 0.0, None, result.packed, None, found, None, state
            )
        graph_of = getattr(type(result), "__weftline_graph__", None)
        if graph_of is not None:
            graph, names = graph_of(result, objects, call.run_id)
        elif isinstance(result, StepRef) and result.run_id == call.run_id:
            graph, names = _value_of(result), ()
        else:
            return _packed_value(result, call, started_at, objects, state, needs)
        name, pages = encode_pages(graph.steps)
        found, stays = (*names, *needs), _stays(graph)
        return ReturnedSteps(
            call.key, started_at, 0.0, None, name, pages, graph.output, found, state, stays
        )
    except StorageFull as error:
        return Unstored(call.key, started_at, 0.0, None, error.strerror or str(error))


def _value_of(ref: StepRef) -> Graph:
    """A graph whose value is that of a step which the run has already."""
    action = Wait(WaitKind.VALUE)
    return Graph(
        steps=[Step(name="value", action=action, inputs=(OuterInput(ref.number),))], output=0
    )


def _packed_value(
    result: Any,
    call: Call,
    started_at: float,
    objects: ObjectStore,
    state: Packed | None,
    needs: tuple[str, ...],
) -> Returned:
    label = f"the result of step {call.step!r}"
    encoded = encode(result, objects, label, durable=not call.is_volatile)
    return Returned(
        call.key,
        started_at,
        0.0,
        None,
        encoded.packed,
        encoded.preview,
        encoded.objects + needs,
        encoded.picture,
        state,
        encoded.is_volatile,
    )


def _packed_state(
    new: tuple[Any, ...], call: Call, objects: ObjectStore
) -> tuple[Packed | None, tuple[str, ...]]:
    if not new:
        return None, ()
    encoded = encode(new[0], objects, f"the state that step {call.step!r} leaves")
    return encoded.packed, encoded.objects


def _stays(graph: Graph) -> bool:
    """Whether this process is to carry out the output step of what was returned, too."""
    if isinstance(graph.output, list):
        return False
    step = graph.steps[graph.output]
    is_call = isinstance(step.action, PythonCall) and not step.action.listens
    return step.policy.inplace and is_call and not step.inputs and not step.needs


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # 60 ms that most children never need

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # Inline, and called from within a loop, as in every notebook: that one cannot be waited for.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, asyncio.run, coroutine).result()


def _raised(error: BaseException, call: Call, started_at: float, objects: ObjectStore) -> Raised:
    told, names = _told(error, objects)
    retryable = call.retry_on is None or _is_one_of(error, call.retry_on, objects)
    return Raised(call.key, started_at, 0.0, None, pack_error(told), retryable, names)


def _told(error: BaseException, objects: ObjectStore) -> tuple[Error, tuple[str, ...]]:
    """The error as it is recorded, and the objects it needs; also when it cannot be stored."""
    try:
        told, names = encode_error(error, objects, skip_frames_of=_own_files())
    except Exception as problem:
        kind = type(error)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        try:
            said = str(error)[:_TEXT_LENGTH]
        except Exception:
            said = ""
        text = f"{said} (the exception could not be stored: {problem})"
        return Error(f"{module}{kind.__qualname__}", text), ()
    if isinstance(error, Exception):
        return told, names
    # SystemExit, KeyboardInterrupt: raised again in a driver, they would end it.
    return replace(told, blob=None), ()


def _own_files() -> tuple[str, ...]:
    """Files whose frames say nothing to whoever wrote the step."""
    names = (__name__, "weftline.authoring.actor", "asyncio.runners", "asyncio.base_events")
    return tuple(str(sys.modules[name].__file__) for name in names if name in sys.modules)


def _is_one_of(error: BaseException, packed: bytes, objects: ObjectStore) -> bool:
    """Whether `error` is of the stored classes; where they cannot be loaded, it is of none."""
    try:
        return isinstance(error, decode(packed, objects))
    except Exception:
        return False
