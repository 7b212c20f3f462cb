"""Virtual actors: objects that live in the home, called by their id from anywhere."""

import threading
import uuid
from collections.abc import Callable
from typing import Any, Generic, ParamSpec

from msgspec.structs import replace

from weftline.api.checks import checked_id
from weftline.api.handles import RunHandle
from weftline.app import App, home
from weftline.authoring.actor import (
    READONLY,
    bind,
    check_class,
    compose,
    is_readonly,
    make_instance,
    methods_of,
    options_of,
)
from weftline.authoring.options import Options
from weftline.authoring.step import Composition, default_name, lower, to_workflow
from weftline.code.loads import load_function
from weftline.codecs.values import decode
from weftline.core.actions import PythonCall
from weftline.core.graph import encode_pages
from weftline.driving.planned import Planned
from weftline.errors import (
    InvalidWorkflow,
    VirtualActorNotInitializedError,
    WorkflowNotResumableError,
    WorkflowRunningError,
)

P = ParamSpec("P")


class _Decorator:
    """`@workflow.virtual_actor` for a class, `@workflow.virtual_actor.readonly` for a method."""

    def __call__(self, cls: Callable[P, object]) -> "ActorClass[P]":
        """Make a virtual actor of a class: `get_or_create` makes and finds its instances.

        The state is what `__getstate__` gives and `__setstate__` takes, or the instance's
        `__dict__` as JSON. Source: Ray Workflow 1.12.
        Raises: ValueError for what is no class, and for one that defines only one of the two.
        """
        check_class(cls)
        return ActorClass(cls)

    @staticmethod
    def readonly(method: Callable[..., Any]) -> Callable[..., Any]:
        """Mark a method that only looks at the state: it sees the last one, is carried out by
        whoever calls it, at any time, and is not recorded."""
        setattr(method, READONLY, True)
        return method


virtual_actor = _Decorator()


class ActorClass(Generic[P]):
    """A class as a virtual actor, whose `__init__` takes the parameters `P`."""

    def __init__(self, cls: Callable[P, object]) -> None:
        assert isinstance(cls, type)
        self._cls = cls
        self.__doc__, self.__name__ = cls.__doc__, cls.__name__
        self.__module__, self.__qualname__ = cls.__module__, cls.__qualname__
        self.__wrapped__ = cls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"virtual actor {self._cls.__qualname__} cannot be made directly: use"
            " .get_or_create(actor_id, ...)"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(self._cls, name):
            raise AttributeError(f"virtual actor {self._cls.__qualname__} has no {name!r}")
        if name not in dict(methods_of(self._cls)):
            return getattr(self._cls, name)

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise TypeError(
                f"{self._cls.__qualname__}.{name} cannot be called directly: call it on an actor,"
                f" as in get_or_create(...).{name}.run(...)"
            )

        return refuse

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by its attributes: the class may name this very object in its methods, and while it
        # is loaded there is nothing yet that `__getattr__` could ask.
        return ActorClass, (self._cls,)

    def __repr__(self) -> str:
        return f"<virtual actor class {self._cls.__qualname__!r}>"

    def get_or_create(self, actor_id: str, /, *args: P.args, **kwargs: P.kwargs) -> "VirtualActor":
        """The actor of this id. If there is none its `__init__` is started with the arguments;
        when this returns that is recorded, and `ready()` tells when it has ended.

        Raises: TypeError when the arguments do not fit; ValueError when the id is that of a run
            that is no actor.
        """
        actor_id = checked_id(actor_id)
        app = home()
        if app.journal.find_run(actor_id) is None:
            options = options_of("__init__")
            init = compose(self._cls, "__init__", options, args, kwargs)
            try:
                _start(app, actor_id, self._cls, init)
            except WorkflowRunningError:
                pass  # somebody else has just made it
        return get_actor(actor_id)


def get_actor(actor_id: str) -> "VirtualActor":
    """The actor of this id.

    Raises: WorkflowNotFoundError; ValueError when the id is that of a run that is no actor.
    """
    actor_id = checked_id(actor_id)
    app = home()
    submitted = app.records.first_graph(actor_id)
    action = submitted.steps[0].action
    cls = None
    if isinstance(action, PythonCall) and action.is_writer:
        cls = getattr(load_function(action.function, app.objects), "__weftline_class__", None)
    if cls is None:
        raise WorkflowNotResumableError(f"run {actor_id!r} is no virtual actor", actor_id)
    return VirtualActor(actor_id, cls)


class VirtualActor:
    """A handle on an actor: `handle.method.run(...)` and `handle.method.run_async(...)`."""

    def __init__(self, actor_id: str, cls: type) -> None:
        self._actor_id, self._cls = actor_id, cls

    @property
    def actor_id(self) -> str:
        """The id it is found by, which is that of its run."""
        return self._actor_id

    def ready(self) -> RunHandle[Any]:
        """A handle that is done when the actor's `__init__` has ended."""
        return RunHandle(self._actor_id, "__init__")

    def __getattr__(self, name: str) -> "ActorMethod":
        method = None if name.startswith("__") else dict(methods_of(self._cls)).get(name)
        if method is None:
            raise AttributeError(f"virtual actor {self._cls.__qualname__} has no method {name!r}")
        if is_readonly(method):
            return ReadonlyMethod(self._actor_id, self._cls, name, options_of(name))
        return ActorMethod(self._actor_id, self._cls, name, options_of(name))

    def __reduce__(self) -> Any:
        raise TypeError(
            f"the handle on actor {self._actor_id!r} cannot be passed on: pass its actor_id, and"
            " use workflow.get_actor there"
        )

    def __repr__(self) -> str:
        return f"<virtual actor {self._cls.__qualname__} {self._actor_id!r}>"


class ActorMethod:
    """A writer method of one actor: calls are carried out one after the other, in order."""

    def __init__(self, actor_id: str, cls: type, name: str, options: Options) -> None:
        self._actor_id, self._cls, self._name, self._options = actor_id, cls, name, options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self._cls.__qualname__}.{self._name} cannot be called directly: use .run(...) or"
            " .run_async(...)"
        )

    def options(self, **options: Any) -> "ActorMethod":
        """The same method with these options of steps. Raises: InvalidOption."""
        merged = self._options.merged(options)
        return type(self)(self._actor_id, self._cls, self._name, merged)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, and return what it returns, or what the steps do that it returns.

        Raises: what the method raises; TypeError when the arguments do not fit.
        """
        return self.run_async(*args, **kwargs).result()

    def run_async(self, *args: Any, **kwargs: Any) -> RunHandle[Any]:
        """Call it; when this returns the call is recorded, and is carried out in its turn."""
        composition = compose(self._cls, self._name, self._options, args, kwargs)
        app = home()
        lowered = lower(composition, app.objects)
        _, pages = encode_pages(lowered.graph.steps)
        if len(pages) != 1:
            raise InvalidWorkflow(
                f"a call of {self._cls.__qualname__}.{self._name} with more than 1,000 steps as"
                " arguments: let a workflow make its argument"
            )
        call = uuid.uuid4().hex
        handle: RunHandle[Any] = RunHandle(self._actor_id, call)
        listener = handle.followed().settle
        app.steering.call_actor(self._actor_id, pages[0], call, lowered.objects, listener)
        return handle


class ReadonlyMethod(ActorMethod):
    """A method that only looks at the last state: carried out here and now, and not recorded."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What it returns.

        Raises: VirtualActorNotInitializedError before `__init__` has ended; TypeError when it
            returns steps.
        """
        bind(self._cls, self._name, args, kwargs)
        app = home()
        state = app.records.actor_state(self._actor_id)
        if state is None:
            raise VirtualActorNotInitializedError(
                f"the __init__ of actor {self._actor_id!r} has not ended; its ready() waits for it",
                self._actor_id,
            )
        instance = make_instance(self._cls, self._name, decode(state, app.objects))
        result = getattr(instance, self._name)(*args, **kwargs)
        if isinstance(result, Composition):
            raise TypeError(
                f"{self._cls.__qualname__}.{self._name} is read-only and returned steps; only"
                " methods that are not may"
            )
        return result

    def run_async(self, *args: Any, **kwargs: Any) -> RunHandle[Any]:
        """Carry it out on a thread of its own."""
        handle = _Here(self._actor_id, self._name).followed()

        def main() -> None:
            try:
                handle.set_result(self.run(*args, **kwargs))
            except BaseException as error:
                handle.set_exception(error)

        threading.Thread(target=main, name=f"weftline-{self._name}", daemon=True).start()
        return handle


class _Here(RunHandle[Any]):
    """A call that is carried out in this process."""

    def result(self, timeout: float | None = None) -> Any:
        return super(RunHandle, self).result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super(RunHandle, self).exception(timeout)

    def cancel(self) -> bool:
        return False


def _start(app: App, actor_id: str, cls: type, init: Composition[Any]) -> None:
    written, objects, warned = to_workflow(init, app.objects, None)
    named = replace(written, name=default_name(cls))
    planned = Planned(actor_id, named, lambda ended: None, objects, warned, is_actor=True)
    refused = app.detached.start([planned])[0]
    if refused is not None:
        raise refused
