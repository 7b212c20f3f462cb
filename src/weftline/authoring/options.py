"""The options of a step: what may be asked for, checked the moment it is written."""

import json
import sys
from collections.abc import Mapping
from typing import Any, TypedDict

import msgspec
from msgspec import Struct

from weftline.core.policy import Placement, Policy
from weftline.errors import InvalidOption, did_you_mean


class StepOptions(TypedDict, total=False):
    """The options of `workflow.step` and `.options`.

    `max_retries` counts all tries. Times are in seconds. `memory` is the most, in bytes, that the
    processes of the step may have resident together, their interpreters included; a step that
    takes more is ended, and has failed. `metadata`, `resources` and `env_vars` given later are
    merged key by key into those given earlier.
    Source: Ray Workflow; `timeout_s` and the `retry_` options are Weftline's own.
    """

    name: str
    max_retries: int
    catch_exceptions: bool
    metadata: dict[str, Any]
    num_cpus: float
    num_gpus: float
    resources: dict[str, float]
    memory: float
    runtime_env: dict[str, Any]
    num_returns: int
    timeout_s: float | None
    retry_delay_s: float
    retry_backoff: float
    retry_jitter: float
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | None
    checkpoint: bool | None
    allow_inplace: bool


KNOWN = tuple(StepOptions.__annotations__)

OF_RAY = {
    "accelerator_type": "declare a resource instead and ask for it with resources={...}",
    "concurrency_groups": "it belongs to Ray actors",
    "lifetime": "it belongs to Ray actors",
    "max_calls": "children stay warm; there is no such limit",
    "max_concurrency": "it belongs to Ray actors",
    "object_store_memory": "there is no shared object store memory",
    "placement_group": "there are no placement groups",
    "placement_group_bundle_index": "there are no placement groups",
    "placement_group_capture_child_tasks": "there are no placement groups",
    "retry_exceptions": "use retry_on=(SomeError, ...)",
    "scheduling_strategy": "ask for resources instead",
}


class Options(Struct, frozen=True, kw_only=True):
    """Checked options, in the form in which a graph holds them."""

    name: str | None = None
    policy: Policy = Policy()
    placement: Placement = Placement()
    metadata: dict[str, Any] | None = None
    retry_on: tuple[type[BaseException], ...] = ()
    listens: bool = False
    is_writer: bool = False

    def merged(self, given: Mapping[str, Any]) -> "Options":
        """These options with the given ones laid over them.

        Raises: InvalidOption, naming every option that is unknown or has an unusable value.
        """
        found = problems_of(given)
        if found:
            raise InvalidOption("; ".join(found))
        policy, placement = self.policy, self.placement
        resources, env_vars = dict(placement.resources), dict(placement.env_vars)
        resources.update(_plain(given.get("resources") or {}))
        env_vars.update(_plain((given.get("runtime_env") or {}).get("env_vars", {})))
        metadata = (self.metadata or {}) | plain_metadata(given.get("metadata") or {})
        timeout_s = given.get("timeout_s", policy.timeout_s)
        retry_on = self.retry_on
        if "retry_on" in given:
            classes = given["retry_on"]
            retry_on = (classes,) if isinstance(classes, type) else tuple(classes or ())
        return Options(
            name=_plain_text(given.get("name", self.name)),
            policy=Policy(
                tries=int(given.get("max_retries", policy.tries)),
                retry_delay_s=float(given.get("retry_delay_s", policy.retry_delay_s)),
                retry_backoff=float(given.get("retry_backoff", policy.retry_backoff)),
                retry_jitter=float(given.get("retry_jitter", policy.retry_jitter)),
                retry_selected=bool(retry_on),
                timeout_s=None if timeout_s is None else float(timeout_s),
                catch=given.get("catch_exceptions", policy.catch),
                checkpoint=given.get("checkpoint", policy.checkpoint),
                inplace=given.get("allow_inplace", policy.inplace),
            ),
            placement=Placement(
                num_cpus=float(given.get("num_cpus", placement.num_cpus)),
                num_gpus=float(given.get("num_gpus", placement.num_gpus)),
                resources=tuple(sorted((k, float(v)) for k, v in resources.items() if v)),
                env_vars=tuple(sorted(env_vars.items())),
                memory=int(given.get("memory", placement.memory)),
            ),
            metadata=metadata or None,
            retry_on=retry_on,
            listens=self.listens,
            is_writer=self.is_writer,
        )


def problems_of(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options, one line each."""
    found: list[str] = []
    for name, value in given.items():
        if name in OF_RAY:
            found.append(f"option {name!r} of Ray is not supported: {OF_RAY[name]}")
        elif name not in KNOWN:
            found.append(f"unknown step option {name!r}{did_you_mean(name, KNOWN)}")
        elif problem := _problem(name, value):
            found.append(f"option {name}={value!r} {problem}")
    return found


def _problem(name: str, value: Any) -> str | None:
    match name:
        case "name":
            return None if is_text(value) and value else "must be a non-empty string"
        case "max_retries":
            is_count = isinstance(value, int) and not isinstance(value, bool)
            is_count = is_count and 1 <= value < 2**63
            return None if is_count else "must be a whole number, at least 1: it counts all tries"
        case "num_returns":
            return None if value == 1 else "must be 1: a step has one result (it may be a tuple)"
        case "catch_exceptions" | "allow_inplace":
            return None if isinstance(value, bool) else "must be True or False"
        case "checkpoint":
            is_choice = value is None or isinstance(value, bool)
            return None if is_choice else "must be True, False, or None (as the step around it)"
        case "metadata":
            return problem_of_metadata(value)
        case "timeout_s":
            is_time = value is None or (_is_number(value) and value > 0)
            return None if is_time else "must be a positive number of seconds, or None"
        case "num_cpus" | "num_gpus" | "retry_delay_s" | "retry_jitter":
            return None if _is_number(value) else "must be a number, at least 0"
        case "retry_backoff":
            return None if _is_number(value) and value >= 1 else "must be a number, at least 1"
        case "memory":
            is_size = _is_number(value) and 1 <= value < 2**63
            return None if is_size else "must be a number of bytes, at least 1"
        case "resources":
            is_map = isinstance(value, dict) and all(
                is_text(key) and _is_number(amount) for key, amount in value.items()
            )
            return None if is_map else "must be a dict of names and numbers, at least 0"
        case "runtime_env":
            return _problem_of_runtime_env(value)
        case "retry_on":
            classes = value if isinstance(value, tuple | list) else (value,)
            are_errors = value is None or all(
                isinstance(one, type) and issubclass(one, BaseException) for one in classes
            )
            return None if are_errors else "must be an exception class or a tuple of them"
    raise AssertionError(name)


def _problem_of_runtime_env(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must be a dict"
    unknown = sorted(str(key) for key in value if key != "env_vars")
    if unknown:
        names = ", ".join(repr(key) for key in unknown)
        return f"has {names}, which is not supported: only 'env_vars' is"
    env_vars = value.get("env_vars", {})
    is_map = isinstance(env_vars, dict) and all(
        is_text(k) and is_text(v) and k and "=" not in k and "\0" not in k + v
        for k, v in env_vars.items()
    )
    return None if is_map else "must have a dict of strings as 'env_vars'"


def problem_of_metadata(value: Any) -> str | None:
    """Why `value` cannot be the metadata of a step or run, or None."""
    if not isinstance(value, dict):
        return "must be a dict"
    try:
        # What Python calls JSON is more than what is stored: no lone surrogates, no huge numbers.
        msgspec.msgpack.encode(plain_metadata(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return f"must hold only what JSON can hold: {error}"
    return None


def plain_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """The metadata as it comes back from JSON: keys are texts, tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    return plain


def _plain(texts: Mapping[str, Any]) -> dict[Any, Any]:
    return {_plain_text(key): _plain_text(value) for key, value in texts.items()}


def _plain_text(value: Any) -> Any:
    """A string as such, also of a subclass like StrEnum; anything else as it is."""
    return str.__str__(value) if isinstance(value, str) else value


def is_text(value: Any) -> bool:
    """Whether it is a string that can be stored: one without lone surrogates."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and 0 <= value <= sys.float_info.max
