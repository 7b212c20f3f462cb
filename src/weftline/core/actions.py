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
    classes.
    """

    function: Object
    arguments: bytes | Object
    code: str = ""
    is_plain: bool = False
    retry_on: bytes | None = None


class WaitKind(StrEnum):
    """What ends a wait."""

    TIMER = "timer"
    EVENT = "event"


class Wait(Struct, frozen=True, tag="wait", omit_defaults=True):
    """Wait without a worker: for a number of seconds, or for a named event from outside."""

    kind: WaitKind
    seconds: float | None = None
    name: str | None = None


Action = PythonCall | Wait
