"""Finds what `weft run FILE[:NAME]` shall run: loads the file, picks from it, and composes it.

The file is loaded under its own name, never as `__main__`, so that a main guard keeps its scripts
still. Its folder goes first on `sys.path`, as Python itself would have it. A file that is named
like a module of the standard library or an installed package is loaded all the same; it gets
another module name and its folder goes last, so that the real one stays what everybody imports.
"""

import inspect
import json
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

from typer import BadParameter

from weftline.authoring.step import Composition, StepFunction
from weftline.errors import InvalidWorkflow, did_you_mean

FIRST_CHOICES = ("main", "workflow")
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]")


class Target(NamedTuple):
    """What is to be run: a composition, or what is called to get one."""

    name: str
    thing: Any
    path: Path

    @property
    def title(self) -> str:
        return f"{self.name!r} of {self.path.name}"


def find_target(text: str) -> Target:
    """What `FILE[:NAME]` names; loads the file.

    Raises: BadParameter when there is no such file or name, InvalidWorkflow when the file cannot
    be loaded.
    """
    path, name = _split(text)
    return pick(load_file(path), name, path)


def _split(text: str) -> tuple[Path, str | None]:
    path, name = Path(text), None
    if not path.exists() and ":" in text:
        front, _, name = text.rpartition(":")
        path = Path(front)
    if not path.exists():
        raise BadParameter(f"there is no file {str(path)!r}")
    if path.is_dir():
        raise BadParameter(f"{str(path)!r} is a folder; name a Python file in it")
    if path.suffix != ".py":
        raise BadParameter(f"{str(path)!r} is not a Python file (*.py)")
    if name == "":
        raise BadParameter(f"no name follows the colon of {text!r}")
    return path, name


# -- loading ------------------------------------------------------------------------------------


def load_file(path: Path) -> ModuleType:
    """The file as a module of its own name. Raises: InvalidWorkflow, saying where it failed."""
    path = path.resolve()
    folder = str(path.parent)
    name, is_alias = _module_name(path)
    if is_alias:
        sys.path.append(folder)
    else:
        sys.path.insert(0, folder)
    spec = spec_from_file_location(name, path, loader=SourceFileLoader(name, str(path)))
    assert spec is not None
    module = module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        # Compiled from its text each time: a cached form may be older than a quick edit.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        if isinstance(error, KeyboardInterrupt):
            raise
        raise InvalidWorkflow(f"{path.name} cannot be loaded: {_told(error, path)}") from error
    return module


def _module_name(path: Path) -> tuple[str, bool]:
    """The name to load the file under, and whether it is another one than that of the file."""
    stem = path.stem.replace(".", "_")
    if _is_free(stem, path):
        return stem, False
    alias = f"{stem}_py"
    while not _is_free(alias, path):
        alias += "_"
    return alias, True


def _is_free(name: str, path: Path) -> bool:
    if name in sys.stdlib_module_names:
        return False
    loaded = sys.modules.get(name)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
        return origin is not None and Path(origin).resolve() == path
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return True
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return not any(_INSTALLED.search(place) for place in places)


def _told(error: BaseException, path: Path) -> str:
    """The error in one line, with the last line of the user's file that led to it."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        where = f" ({Path(error.filename or path).name}, line {error.lineno})"
        return f"{kind}: {error.msg}{where}"
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f.lineno for f in reversed(frames) if f.filename == str(path)), None)
    where = f" ({path.name}, line {line})" if line else ""
    text = str(error)
    return f"{kind}: {text}{where}" if text else f"{kind}{where}"


# -- picking ------------------------------------------------------------------------------------


def pick(module: ModuleType, name: str | None, path: Path) -> Target:
    """The thing to run: the one asked for, else `main`, else `workflow`, else the only
    composition, or without any, the only step.

    Raises: BadParameter, listing what there is.
    """
    if name is not None:
        return _named(module, name, path)
    for choice in FIRST_CHOICES:
        thing = vars(module).get(choice)
        if _can_run(thing):
            return Target(choice, thing, path)
    compositions, steps = _candidates(module)
    found = compositions or steps
    if len(found) == 1:
        return Target(found[0], vars(module)[found[0]], path)
    if not found:
        raise BadParameter(
            f"{path.name} has nothing to run: no function 'main' or 'workflow', no composition and"
            " no step"
        )
    what = "compositions" if compositions else "steps"
    raise BadParameter(
        f"{path.name} has several {what} and none is called 'main' or 'workflow': name the one to"
        f" run, as in {path}:{found[0]} (there are {', '.join(found)})"
    )


def _named(module: ModuleType, name: str, path: Path) -> Target:
    if name not in vars(module):
        compositions, steps = _candidates(module)
        functions = [key for key, thing in vars(module).items() if _is_own(thing, module)]
        known = list(dict.fromkeys([*compositions, *steps, *functions]))
        listed = f" (there are {', '.join(known)})" if known else ""
        hint = did_you_mean(name, known) or listed
        raise BadParameter(f"{path.name} has no {name!r}{hint}")
    thing = vars(module)[name]
    if not _can_run(thing):
        raise BadParameter(
            f"{name!r} of {path.name} is a {type(thing).__name__}: only a composition, or a"
            " function that returns one, can be run"
        )
    return Target(name, thing, path)


def _can_run(thing: object) -> bool:
    return isinstance(thing, Composition | StepFunction) or (
        callable(thing) and not isinstance(thing, type)
    )


def _is_own(thing: object, module: ModuleType) -> bool:
    return inspect.isfunction(thing) and thing.__module__ == module.__name__


def _candidates(module: ModuleType) -> tuple[list[str], list[str]]:
    """Names of the file's compositions, and of the steps written in it."""
    compositions: dict[int, str] = {}
    steps: dict[int, str] = {}
    for name, thing in vars(module).items():
        if isinstance(thing, Composition):
            compositions.setdefault(id(thing), name)
        elif isinstance(thing, StepFunction):
            if getattr(thing, "__module__", None) == module.__name__:
                steps.setdefault(id(thing), name)
    return list(compositions.values()), list(steps.values())


# -- parameters and composing -------------------------------------------------------------------


def parse_params(given: Sequence[str]) -> dict[str, Any]:
    """`k=v` texts as names and values: JSON where v is JSON, else the text itself.

    Raises: BadParameter, naming every text that is none.
    """
    params: dict[str, Any] = {}
    problems = []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            problems.append(f"--param {text!r} is not of the form name=value")
        elif name in params:
            problems.append(f"--param {name!r} is given twice")
        else:
            params[name] = _value(value)
    if problems:
        raise BadParameter("; ".join(problems))
    return params


def _value(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False)  # 1e999 is read as infinite
    except (ValueError, RecursionError):
        return text
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def compose(target: Target, params: dict[str, Any]) -> Composition[Any]:
    """The composition to run.

    Raises: BadParameter when the parameters do not fit, InvalidWorkflow when there is none.
    """
    thing = target.thing
    if isinstance(thing, Composition):
        if params:
            raise BadParameter(
                f"{target.title} is a composition and takes no --param: write a function that"
                " takes them and returns the composition"
            )
        return thing
    args, kwargs = _arguments(target, params)
    try:
        made = thing.step(*args, **kwargs) if isinstance(thing, StepFunction) else None
        if made is None:
            made = thing(*args, **kwargs)
    except Exception as error:
        told = _told(error, target.path.resolve())
        raise InvalidWorkflow(f"{target.title} failed: {told}") from error
    if isinstance(made, Composition):
        return made
    if inspect.iscoroutine(made):
        made.close()
        raise InvalidWorkflow(f"{target.title} is an async function: write it with plain def")
    raise InvalidWorkflow(
        f"{target.title} returned {_described(made)}: it must return a composition, as"
        " some_step.step(...) gives one, and leave running it to weft"
    )


def _described(thing: object) -> str:
    if thing is None:
        return "None"
    if isinstance(thing, StepFunction):
        return f"the step {thing.name!r} itself"
    return f"a value of type {type(thing).__name__}"


def _arguments(target: Target, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The parameters as the function takes them; all that does not fit is told at once."""
    try:
        signature = inspect.signature(target.thing)
    except (TypeError, ValueError):  # some builtins have none
        return [], params
    taken = {n: p for n, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL,)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    taken = {n: p for n, p in taken.items() if p.kind is not p.VAR_KEYWORD}
    problems = []
    if not takes_any:
        problems += [
            f"it takes no parameter {name!r}{did_you_mean(name, taken)}"
            for name in params
            if name not in taken
        ]
    problems += [
        f"it needs --param {name}=..."
        for name, parameter in taken.items()
        if parameter.default is parameter.empty and name not in params
    ]
    if problems:
        known = f" (it takes {', '.join(taken)})" if taken else " (it takes none)"
        raise BadParameter(f"{target.title}: {'; '.join(problems)}{known}")
    args: list[Any] = []
    kwargs = dict(params)
    for name, parameter in taken.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            args.append(kwargs.pop(name, parameter.default))
    return args, kwargs


def new_id(target: Target) -> str:
    """An id for a run that was given none: what it is, and 8 random hex digits."""
    path = target.path.resolve()
    choices = [target.name, path.stem, path.parent.name]
    name = next((one for one in choices if one not in FIRST_CHOICES), target.name)
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-.') or 'run'}-{uuid4().hex[:8]}"
