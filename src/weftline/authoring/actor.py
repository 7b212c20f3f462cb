"""Virtual actors: classes whose state is kept, and whose methods are steps.

A writer method is a step that gets the actor's last state and gives a new one. A read-only method
sees the last state and changes nothing. Source: Ray Workflow 1.12.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from weftline.authoring.options import Options
from weftline.authoring.step import Composition, StepFunction
from weftline.errors import InvalidOption

READONLY = "__weftline_readonly__"
RESERVED = ("actor_id", "ready")


class ActorMethod(StepFunction[Composition[Any]]):
    """A writer method as a step."""

    composition = Composition


def check_class(cls: Any) -> None:
    """Raises: ValueError, TypeError for a class that cannot be a virtual actor."""
    if not isinstance(cls, type):
        raise InvalidOption(f"a virtual actor is made of a class, not of {cls!r}")
    gets = _is_own(cls, "__getstate__")
    if gets != _is_own(cls, "__setstate__"):
        has, lacks = ("__getstate__", "__setstate__") if gets else ("__setstate__", "__getstate__")
        raise InvalidOption(
            f"virtual actor {cls.__qualname__} defines {has} and not {lacks}: define both or none"
        )
    if not gets and (slots := _slots_of(cls)):
        raise InvalidOption(
            f"virtual actor {cls.__qualname__} has __slots__ ({', '.join(slots)}), which are no"
            " part of its __dict__: define __getstate__ and __setstate__"
        )
    for name in RESERVED:
        if hasattr(cls, name):
            raise InvalidOption(
                f"virtual actor {cls.__qualname__} defines {name!r}, which means something else on"
                " every handle: give it another name"
            )
    for name, method in methods_of(cls):
        if inspect.iscoroutinefunction(method):
            raise TypeError(
                f"{cls.__qualname__}.{name} is a coroutine function: methods of a virtual actor are"
                " plain functions"
            )


def has_own_state(cls: type) -> bool:
    """Whether the class says itself what its state is."""
    return _is_own(cls, "__getstate__")


def methods_of(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and function of everything that can be called on an actor, `__init__` too."""
    for name, member in inspect.getmembers(cls, inspect.isfunction):
        is_static = isinstance(inspect.getattr_static(cls, name), staticmethod)
        if (not name.startswith("__") or name == "__init__") and not is_static:
            yield name, member


def is_readonly(method: Callable[..., Any]) -> bool:
    """Whether the method only looks at the state."""
    return getattr(method, READONLY, False) is True


def bind(cls: type, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises: TypeError when the arguments do not fit the method."""
    try:
        inspect.signature(getattr(cls, name)).bind(None, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{cls.__qualname__}.{name}: {error}") from None


def compose(
    cls: type, name: str, options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Composition[Any]:
    """One call of a writer method that has not happened yet."""
    bind(cls, name, args, kwargs)
    return ActorMethod(function_of(cls, name), options).step(*args, **kwargs)


def options_of(name: str) -> Options:
    """The options of a method that was given none: its steps are called like itself."""
    return Options(name=name, is_writer=True)


@cache
def function_of(cls: type, name: str) -> Callable[..., Any]:
    """What is stored of a writer method; always the same for one class and name."""

    def carry_out(state: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return call_method(cls, name, state, args, kwargs)

    def method(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("a method of a virtual actor is carried out with its state")

    method.__module__, method.__qualname__ = cls.__module__, f"{cls.__qualname__}.{name}"
    method.__dict__.update(__weftline_actor__=carry_out, __weftline_class__=cls)
    return method


# -- carrying a method out ----------------------------------------------------------------------


def call_method(
    cls: type, method: str, state: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    """What the method of an actor with this state returns, and the actor's state afterwards.

    Stored functions name this one: it must keep its name, its place and its arguments for ever.

    Raises: TypeError when the state cannot be kept; whatever the method raises.
    """
    instance = make_instance(cls, method, state)
    result = getattr(cls, method)(instance, *args, **kwargs)
    return result, _state_of(cls, instance)


def make_instance(cls: type, method: str, state: Any) -> Any:
    """An instance with this state; for `__init__` one without any."""
    derived: Any = derived_class(cls)
    instance = derived.__new__(derived)
    if method != "__init__":
        if has_own_state(cls):
            instance.__setstate__(state)
        else:
            instance.__dict__.update(state)
    return instance


def _state_of(cls: type, instance: Any) -> Any:
    if has_own_state(cls):
        return instance.__getstate__()
    try:
        return json.loads(json.dumps(instance.__dict__))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"the state of the virtual actor {cls.__qualname__} is no JSON ({error}): define"
            " __getstate__ and __setstate__"
        ) from error


@cache
def derived_class(cls: type) -> type:
    """The class with methods that can also be composed: `self.method.step(...)`."""
    members: dict[str, Any] = {
        name: _Method(cls, name) for name, _ in methods_of(cls) if name != "__init__"
    }
    members |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), members)


class _Method:
    """A method of an actor, found through an instance."""

    def __init__(self, cls: type, name: str) -> None:
        self._cls, self._name = cls, name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return getattr(self._cls, self._name)
        return BoundMethod(self._cls, self._name, instance, options_of(self._name))


class BoundMethod:
    """A method within the actor itself: called directly it is a plain method; composed it is a
    step, which the method that runs may return."""

    def __init__(self, cls: type, name: str, instance: Any, options: Options) -> None:
        self._cls, self._name, self._options = cls, name, options
        self._call = partial(getattr(cls, name), instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Composition[Any]:
        """A composition of one call. Raises: TypeError when the arguments do not fit."""
        if is_readonly(getattr(self._cls, self._name)):
            raise TypeError(
                f"{self._cls.__qualname__}.{self._name} is read-only: call it, it is no step"
            )
        return compose(self._cls, self._name, self._options, args, kwargs)

    def options(self, **options: Any) -> "BoundMethod":
        """The same with these options. Raises: InvalidOption."""
        found = BoundMethod(self._cls, self._name, None, self._options.merged(options))
        found._call = self._call
        return found


def _slots_of(cls: type) -> list[str]:
    """The attributes of instances that their `__dict__` does not hold."""
    found: list[str] = []
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else slots
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _is_own(cls: type, name: str) -> bool:
    """Whether a class of the user defines it; every object has some of these names."""
    return getattr(cls, name, None) is not getattr(object, name, None)
