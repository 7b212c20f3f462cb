"""Steps written in Python: functions, and lazy compositions of their calls.

Building a composition costs next to nothing: arguments are captured, and the graph made, when the
composition is first run.
"""

import re
from collections.abc import Callable
from types import FunctionType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from weftline.authoring.options import Options, plain_metadata
from weftline.code.functions import dump_function
from weftline.codecs.arguments import capture_arguments, current_capture
from weftline.codecs.rebuild import ObjectRef, StepRef
from weftline.codecs.values import encode
from weftline.core.actions import PythonCall, Wait
from weftline.core.graph import GivenInput, Graph, Input, OuterInput, Step
from weftline.core.values import Object
from weftline.core.workflow import Workflow
from weftline.errors import InvalidOption, InvalidWorkflow, NotPicklable
from weftline.ports.objects import ObjectStore

T = TypeVar("T")
C = TypeVar("C", bound="Composition[Any]")

CO_VARARGS, CO_VARKEYWORDS = 0x04, 0x08


class Composition(Generic[T]):
    """One call of a step that has not happened yet; Ray calls it `Workflow[T]`.

    It may be an argument of any number of other steps, at any depth of their arguments; within a
    run it is one step, executed once.
    """

    __slots__ = ("__weakref__", "_args", "_function", "_kwargs")

    def __init__(
        self,
        function: "StepFunction[Any] | Waiting",
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._function, self._args, self._kwargs = function, args, kwargs

    @property
    def _name(self) -> str:
        return self._function.name

    def __repr__(self) -> str:
        return f"<workflow step {self._name!r}, not run yet>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        capture = current_capture()
        if capture is None:
            raise NotPicklable(
                f"the composition of step {self._name!r} cannot be pickled or returned inside a"
                " container: pass it to another step, or return it alone from one"
            )
        return capture.hole_of(self, self)

    def __weftline_graph__(
        self, objects: ObjectStore, run_id: str | None = None
    ) -> tuple[Graph, tuple[str, ...]]:
        """The graph that ends in this step, and the objects it needs (the step protocol).

        `run_id` is the run that the graph will be part of, if there is one already.
        """
        lowered = lower(self, objects, run_id=run_id)
        return lowered.graph, lowered.objects


class StepFunction(Generic[C]):
    """A function as a step: call `.step(...)` to compose it, `.options(...)` for a variant.

    A subclass says with `composition` what composing gives.
    """

    composition: type[C]

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        if not callable(function):
            raise InvalidOption(
                f"a step is made of a callable, not of {function!r}; options are given by name,"
                " as in @workflow.step(max_retries=3)"
            )
        self._function, self._options = function, options
        self._name = options.name or default_name(function)
        self._arity = _simple_arity(function)
        for attribute in ("__doc__", "__module__", "__qualname__", "__name__"):
            if isinstance(value := getattr(function, attribute, None), str):
                setattr(self, attribute, value)
        self.__wrapped__ = function

    @property
    def name(self) -> str:
        """The name that its steps ask for."""
        return self._name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"step {self._name!r} cannot be called directly: compose it with .step(...), then"
            " .run() the composition"
        )

    def step(self, *args: Any, **kwargs: Any) -> C:
        """A composition of one call. Raises: TypeError when the arguments do not fit."""
        arity = self._arity
        if arity is None or kwargs or not arity[0] <= len(args) <= arity[1]:
            self._bind(args, kwargs)
        return self.composition(self, args, kwargs)

    def options(self, **options: Any) -> Self:
        """The same step with these options laid over its own. Raises: InvalidOption."""
        return type(self)(self._function, self._options.merged(options))

    def __repr__(self) -> str:
        return f"<step {self._name!r}>"

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import inspect

        try:
            signature = inspect.signature(self._function)
        except ValueError:  # builtins without one: the call itself will tell
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"step {self._name!r}: {error}") from None


class Waiting(NamedTuple):
    """What a composition does instead of calling a function: wait, for the steps that are its
    arguments or for something else. `name` is the name that its step asks for."""

    name: str
    action: Wait


class Lowered(NamedTuple):
    """A composition as a graph; `objects` are what the graph needs to be run."""

    graph: Graph
    objects: tuple[str, ...]
    warnings: tuple[str, ...]


def lower(output: Composition[Any], objects: ObjectStore, *, run_id: str | None = None) -> Lowered:
    """The graph that ends in `output`: its steps breadth-first from there, which is the order in
    which they get their names.

    Functions and large arguments are stored on the way. Only with the `run_id` of the run that
    the graph will be part of may it have references to steps, and those of that run alone.
    Raises: NotPicklable, InvalidWorkflow for a reference to a step of another run.
    """
    return _Lowering(objects, run_id).lower(output)


class _Lowering:
    """A graph that is being made: compositions get their numbers when they are first met."""

    def __init__(self, objects: ObjectStore, run_id: str | None) -> None:
        self._objects, self._run_id = objects, run_id
        self._order: list[Composition[Any]] = []
        self._position: dict[int, int] = {}
        self._functions: dict[int, _Stored] = {}
        self._held: dict[str, None] = {}
        self._warnings: dict[str, None] = {}

    def lower(self, output: Composition[Any]) -> Lowered:
        self._place(output)
        steps: list[Step] = []
        for composition in self._order:  # grows while it is walked
            function = composition._function
            if isinstance(function, Waiting):
                steps.append(self._wait(composition, function))
            else:
                steps.append(self._call(composition, function))
        return Lowered(Graph(steps=steps, output=0), tuple(self._held), tuple(self._warnings))

    def _wait(self, composition: Composition[Any], waiting: Waiting) -> Step:
        inputs = tuple([self._input(source, composition) for source in composition._args])
        return Step(name=waiting.name, action=waiting.action, inputs=inputs)

    def _call(self, composition: Composition[Any], function: StepFunction[Any]) -> Step:
        stored = self._functions.get(id(function)) or self._store(function)
        captured, found = capture_arguments(
            composition._args,
            composition._kwargs,
            self._objects,
            is_composition,
            label=function.name,
        )
        if captured.objects:
            self._held.update(dict.fromkeys(captured.objects))
        options = function._options
        return Step(
            name=function.name,
            action=PythonCall(
                stored.function,
                captured.arguments,
                stored.fingerprint,
                captured.plain,
                stored.retry_on,
                options.listens,
                options.is_writer,
            ),
            inputs=tuple([self._input(entry, composition) for entry in found]),
            placement=options.placement,
            policy=options.policy,
            metadata=options.metadata,
        )

    def _store(self, function: StepFunction[Any]) -> "_Stored":
        stored = self._functions[id(function)] = _store(function, self._objects)
        self._held.update(dict.fromkeys(stored.objects))
        if stored.warning:
            self._warnings[stored.warning] = None
        return stored

    def _input(self, entry: object, reader: Composition[Any]) -> Input:
        if isinstance(entry, Composition):
            return self._place(entry)
        if isinstance(entry, ObjectRef):
            self._held.update(dict.fromkeys(entry.objects))
            return GivenInput(entry.packed)
        if isinstance(entry, StepRef):
            if entry.run_id != self._run_id:
                raise _foreign(entry, reader._name, self._run_id)
            return OuterInput(entry.number)
        assert isinstance(entry, list)
        return [self._place(one) for one in entry]

    def _place(self, composition: Composition[Any]) -> int:
        """Its number in the graph."""
        at = self._position.get(id(composition))
        if at is None:
            at = self._position[id(composition)] = len(self._order)
            self._order.append(composition)
        return at


def to_workflow(
    output: Composition[Any], objects: ObjectStore, metadata: dict[str, Any] | None
) -> tuple[Workflow, tuple[str, ...], tuple[str, ...]]:
    """The composition as a core workflow, the objects it needs, and what to warn of."""
    lowered = lower(output, objects)
    workflow = Workflow(
        name=output._name, graph=lowered.graph, metadata=plain_metadata(metadata or {})
    )
    return workflow, lowered.objects, lowered.warnings


class _Stored(NamedTuple):
    """A step function as the graph names it."""

    function: Object
    fingerprint: str
    retry_on: bytes | None
    objects: tuple[str, ...]
    warning: str | None


def _store(function: StepFunction[Any], objects: ObjectStore) -> _Stored:
    code = dump_function(function._function, objects)
    held: tuple[str, ...] = (code.value.hash, *code.objects)
    retry_on = None
    if function._options.retry_on:
        encoded = encode(function._options.retry_on, objects)
        retry_on = encoded.packed
        held += encoded.objects
    return _Stored(code.value, code.fingerprint, retry_on, held, code.warning)


def _foreign(ref: StepRef, name: str, run_id: str | None) -> InvalidWorkflow:
    place = "there is no run yet" if run_id is None else f"this is run {run_id!r}"
    return InvalidWorkflow(
        f"step {name!r} is given {ref!r}, but {place}: what workflow.wait left can be passed on"
        " only by steps of its own run; pass its value instead"
    )


def is_composition(thing: object) -> bool:
    """Whether `thing` is a step that has not been run."""
    return isinstance(thing, Composition)


def default_name(function: Callable[..., Any]) -> str:
    """`<module>.<qualname>`, without what a name cannot hold.

    Source: Ray Workflow 1.12, `slugify` and the names of callables that have none.
    """
    module = getattr(function, "__module__", None) or "__anonymous_module__"
    qualname = getattr(function, "__qualname__", None) or "__anonymous_func__"
    kept = re.sub(r"[^\w\s.-]", "", f"{module}.{qualname}").strip()
    return re.sub(r"[-\s]+", "-", kept)


def _simple_arity(function: Callable[..., Any]) -> tuple[int, int] | None:
    """How many positional arguments a plain function takes at least and at most; None when only
    its signature can tell."""
    code = getattr(function, "__code__", None)
    if (
        type(function) is not FunctionType
        or code is None
        or code.co_flags & (CO_VARARGS | CO_VARKEYWORDS)
        or code.co_kwonlyargcount
        or hasattr(function, "__wrapped__")
        or hasattr(function, "__signature__")
    ):
        return None
    most = code.co_argcount
    return most - len(function.__defaults__ or ()), most
