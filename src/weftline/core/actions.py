"""What a step does. Front-ends differ in how people write it, never in what it is."""

from enum import StrEnum

from msgspec import Struct

from weftline.core.values import Object


class PythonCall(Struct, frozen=True, tag="python", omit_defaults=True, gc=False):
    """Call a Python function.

    `function` names the stored function. `arguments` is one pickled (args, kwargs) with numbered
    holes, itself or as an object; hole n takes the step's input n. `code` is the fingerprint of
    the function's code, equal in every process as long as the source is. `is_plain` says that
    equal arguments always give equal bytes. `retry_on` is a packed value: a tuple of exception
    classes. With `listens` the function gives a coroutine that waits for something outside: it is
    awaited beside thousands of others, and occupies nothing.
    """

    function: Object
    arguments: bytes | Object
    code: str = ""
    is_plain: bool = False
    retry_on: bytes | None = None
    listens: bool = False
    is_writer: bool = False
    """A method of a virtual actor: gets the actor's last state and gives a new one. Of one run,
    one is carried out at a time."""


class WaitKind(StrEnum):
    """What ends a wait."""

    TIMER = "timer"
    SIGNAL = "signal"
    STEPS = "steps"
    VALUE = "value"


class Wait(Struct, frozen=True, tag="wait", omit_defaults=True):
    """Wait without a worker.

    TIMER: for `seconds`. SIGNAL: for a signal called `name` from outside; after `seconds`, if
    given, it fails. STEPS: until `count` of its inputs have ended, or `seconds` have passed; its
    value is a `Split`. VALUE: for its one input, whose value is its own.
    """

    kind: WaitKind
    seconds: float | None = None
    name: str | None = None
    count: int = 1


Action = PythonCall | Wait
