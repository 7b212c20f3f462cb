"""The house of docs/architecture.md, kept: who may import whom, and in which form.

Every form of import counts: also inside functions and `TYPE_CHECKING` blocks, relative ones,
`from weftline import x`, and `import_module` or `__import__` with a text. The rules are checked on
the real tree, and each rule on small trees that break it.
"""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pytest

SOURCE = Path(__file__).parents[1] / "src"

# A file imports only from lower floors and from its own part. A part is the first piece of a
# file's path below `weftline`; in `adapters` it is the first two, so that the adapters of one port
# do not know those of another.
FLOOR = {
    "errors": 0,
    "version": 0,
    "core": 1,
    "code": 2,
    "codecs": 2,
    "control": 2,
    "config": 2,
    "filelocks": 2,
    "folders": 2,
    "ports": 2,
    "wire": 2,
    "adapters": 3,
    "authoring": 3,
    "engine": 3,
    "workers": 3,
    "app": 4,
    "driving": 4,
    "controller": 4,
    "link": 4,
    "upkeep": 4,
    "api": 5,
    "server": 5,
    "__init__": 6,
    "cli": 6,
    "mypy_plugin": 6,
    "workflow": 6,
}

# The only imports between two parts of one floor: (who, whom).
NEIGHBOURS = {
    ("codecs", "code"),
    ("codecs", "ports"),
    ("code", "ports"),
    ("control", "wire"),
    ("app", "driving"),
    ("app", "link"),
    ("controller", "app"),
    ("controller", "driving"),
    ("__init__", "workflow"),
}

# `core` is plain values and rules: time, ids and contents arrive as arguments.
OUTSIDE_CORE = {
    *("asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "sched", "threading"),
    *("_thread", "ctypes", "fcntl", "importlib", "mmap", "signal", "subprocess"),
    *("fileinput", "glob", "io", "os", "pathlib", "posix", "shutil", "tempfile", "codecs"),
    *("ftplib", "http", "select", "selectors", "smtplib", "socket", "socketserver", "ssl"),
    *("urllib.request", "dbm", "sqlite3", "pickle", "shelve", "marshal", "copyreg"),
    *("getpass", "locale", "platform", "logging", "warnings", "random", "secrets", "uuid"),
    *("time",),
}
OUTSIDE_CORE_NAMES = {
    *("datetime.datetime.now", "datetime.datetime.today", "datetime.datetime.utcnow"),
    *("datetime.date.today", "sys.argv", "sys.stderr", "sys.stdin", "sys.stdout"),
}
OUTSIDE_CORE_CALLS = {"open", "print", "input", "breakpoint", "eval", "exec"}

# Neither the engine nor the server ever loads a value of a user, also not through what it imports.
NEVER_UNPICKLE = ("engine", "server")
UNPICKLES = {
    *("weftline.code", "weftline.codecs"),
    *("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
}

# Functions that import the module named by their first argument, with their arguments in order.
IMPORTERS = {
    "import_module": ("name", "package"),
    "__import__": ("name", "globals", "locals", "fromlist", "level"),
    "run_module": ("mod_name",),
    "resolve_name": ("name",),
}
OUTSIDE = "<outside>"  # a relative import that climbs out of the package

SAYS_NOTHING = {"util", "utils", "common", "helper", "helpers", "base", "misc"}

Form = Literal["from", "star", "relative", "import", "called", "computed"]


@dataclass(frozen=True)
class Import:
    """One thing that a line imports.

    `module` is the module it is or comes from and `whole` its full name, both without leading
    dots: `from .run import fold` in `core` has weftline.core.run and weftline.core.run.fold.
    """

    line: int
    module: str
    whole: str
    form: Form


class File:
    """One file of the package, by its path from the folder that holds the package."""

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path.relative_to(root)
        self.tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(self.path))
        self.is_package = path.stem == "__init__"
        names = self.path.with_suffix("").parts
        self.module = ".".join(names[:-1] if self.is_package else names)
        self.package = ".".join(names[:-1])

    def at(self, line: int, problem: str) -> str:
        return f"{self.path}:{line}: {problem}"

    @cached_property
    def aliases(self) -> dict[str, str]:
        """What each imported name stands for, in full: `dt` is `datetime.datetime`."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.split(".")[0]
                    found[alias.asname or whole] = whole
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return found

    def name_of(self, node: ast.expr) -> str:
        """The full name that an expression like `dt.now` stands for, or no text."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self.name_of(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        return ""


class House:
    """All files of the package below one folder, and what each of them imports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = [File(root, path) for path in sorted((root / "weftline").rglob("*.py"))]
        self.by_module = {file.module: file for file in self.files}
        self.imports = {file.module: list(self._imports(file)) for file in self.files}

    def _imports(self, file: File) -> Iterator[Import]:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(node.lineno, alias.name, alias.name, "import")
            elif isinstance(node, ast.ImportFrom):
                source = resolve("." * node.level + (node.module or ""), file.package)
                for alias in node.names:
                    whole = f"{source}.{alias.name}"
                    module = whole if self._is_module(whole) else source
                    form: Form = (
                        "relative" if node.level else "star" if alias.name == "*" else "from"
                    )
                    yield Import(node.lineno, module, whole, form)
            elif isinstance(node, ast.Call):
                yield from called_import(file, node)

    def _is_module(self, name: str) -> bool:
        top, _, part = name.partition(".")
        return name in self.by_module or (top == "weftline" and part in FLOOR)


def resolve(module: str, package: str) -> str:
    """The full name of a module that is written, perhaps with leading dots, inside `package`."""
    name = module.lstrip(".")
    level = len(module) - len(name)
    if level == 0:
        return name
    above = package.split(".")
    if level > len(above):
        return OUTSIDE
    above = above[: len(above) - level + 1]
    return ".".join([*above, name] if name else above)


def called_import(file: File, call: ast.Call) -> Iterator[Import]:
    """The module that a call like `import_module("weftline.core.run")` imports."""
    function = file.name_of(call.func).split(".")[-1]
    if function not in IMPORTERS:
        return
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    given |= dict(zip(IMPORTERS[function], call.args, strict=False))
    name = given.get(IMPORTERS[function][0])
    module = text_of(name)
    if module is not None:
        level = given.get("level")
        if isinstance(level, ast.Constant) and isinstance(level.value, int):
            module = "." * level.value + module
        package = text_of(given.get("package")) or file.package
        module = resolve(module.partition(":")[0], package)
        yield Import(call.lineno, module, module, "called")
    elif name and any((text_of(part) or "").startswith("weftline") for part in ast.walk(name)):
        yield Import(call.lineno, "weftline", "weftline", "computed")


def text_of(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def is_ours(module: str) -> bool:
    return module.split(".")[0] in ("weftline", OUTSIDE)


def part_of(module: str) -> str:
    """`core` for weftline.core.run, `adapters.journal` for weftline.adapters.journal.sqlite."""
    names = module.split(".")[1:] or ["__init__"]
    return ".".join(names[:2]) if names[0] == "adapters" else names[0]


def floor_of(module: str) -> int | None:
    return FLOOR.get(part_of(module).split(".")[0])


def is_under(module: str, roots: Iterable[str]) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


# -- the rules: each yields the problems it finds in a house ------------------------------------

Rule = Callable[[House], Iterator[str]]


def every_part_has_a_floor(house: House) -> Iterator[str]:
    for file in house.files:
        if floor_of(file.module) is None:
            yield (
                f"{file.path}: {part_of(file.module)!r} has no floor; give it one in FLOOR "
                "(tests/test_architecture.py) and in docs/architecture.md"
            )


def every_import_points_down(house: House) -> Iterator[str]:
    for file in house.files:
        here, floor = part_of(file.module), floor_of(file.module)
        for each in house.imports[file.module]:
            if not is_ours(each.module) or each.form == "computed":
                continue
            if each.module == OUTSIDE:
                yield file.at(each.line, "a relative import leaves the package")
                continue
            there, its_floor = part_of(each.module), floor_of(each.module)
            if here == there or (here, there) in NEIGHBOURS or floor is None:
                continue
            if its_floor is None:
                yield file.at(each.line, f"{there!r} has no floor; give it one in FLOOR")
            elif its_floor >= floor:
                yield file.at(
                    each.line, f"{here} (floor {floor}) imports {there} (floor {its_floor})"
                )


def imports_have_one_form(house: House) -> Iterator[str]:
    for file in house.files:
        for each in house.imports[file.module]:
            if not is_ours(each.module):
                continue
            found = house.by_module.get(each.module)
            # The public surface hands out whole modules, and may import them when first asked.
            if file.module == "weftline" and found and each.form in ("from", "called"):
                continue
            takes_a_name = each.form == "from" and each.whole != each.module
            if not takes_a_name or found is None or found.is_package:
                yield file.at(
                    each.line, f"{each.whole} is not `from weftline.part.file import Name`"
                )


def core_is_plain(house: House) -> Iterator[str]:
    for file in house.files:
        if part_of(file.module) != "core":
            continue
        for each in house.imports[file.module]:
            top = each.module.split(".")[0]
            if is_ours(each.module):
                continue
            if top not in sys.stdlib_module_names and top != "msgspec":
                yield file.at(each.line, f"core imports {top}; it has only the standard library")
            elif is_under(each.whole, OUTSIDE_CORE):
                yield file.at(each.line, f"core imports {each.whole}, which reaches outside")
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Attribute) and file.name_of(node) in OUTSIDE_CORE_NAMES:
                yield file.at(node.lineno, f"core reaches outside: {file.name_of(node)}")
            elif isinstance(node, ast.Call) and file.name_of(node.func) in OUTSIDE_CORE_CALLS:
                yield file.at(node.lineno, f"core reaches outside: {file.name_of(node.func)}()")


def engine_and_server_never_unpickle(house: House) -> Iterator[str]:
    for part in NEVER_UNPICKLE:
        reached = {f.module: f.module for f in house.files if part_of(f.module) == part}
        waiting = list(reached)
        while waiting:
            module = waiting.pop()
            for each in house.imports[module]:
                if is_under(each.module, UNPICKLES):
                    yield house.by_module[module].at(
                        each.line, f"{each.module} is reached by {part}: {reached[module]}"
                    )
                elif each.module in house.by_module and each.module not in reached:
                    reached[each.module] = f"{reached[module]} -> {each.module}"
                    waiting.append(each.module)


def every_name_says_something(house: House) -> Iterator[str]:
    for path in sorted(house.root.rglob("*")):
        if path.stem.strip("_") in SAYS_NOTHING:
            yield (
                f"{path.relative_to(house.root)}: the name says nothing; a helper lives beside its "
                "one caller, a shared idea gets its own name"
            )


def a_folder_says_what_it_is_for(house: House) -> Iterator[str]:
    for file in house.files:
        if file.package not in house.by_module:
            yield f"{file.path}: its folder has no __init__.py that says what it is for"
        if file.is_package and file.module != "weftline":
            body = file.tree.body
            if len(body) != 1 or ast.get_docstring(file.tree) is None:
                yield f"{file.path}: holds something other than one docstring"


RULES: list[Rule] = [
    every_part_has_a_floor,
    every_import_points_down,
    imports_have_one_form,
    core_is_plain,
    engine_and_server_never_unpickle,
    every_name_says_something,
    a_folder_says_what_it_is_for,
]


@pytest.fixture(scope="module")
def real() -> House:
    return House(SOURCE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule: Rule, real: House) -> None:
    assert list(rule(real)) == []


def test_the_real_house_is_seen(real: House) -> None:
    assert {"weftline", "weftline.errors", "weftline.core.run"} <= set(real.by_module)
    modules = {each.module for each in real.imports["weftline.core.run"]}
    assert "weftline.core.events" in modules


# -- the rules themselves, on small trees -------------------------------------------------------


def build(folder: Path, files: dict[str, str]) -> House:
    """A package of these files, with an `__init__.py` in every folder that is not given one."""
    for name, text in files.items():
        path = folder / "weftline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for part in [folder / "weftline", *(folder / "weftline").rglob("*")]:
        if part.is_dir() and not (part / "__init__.py").exists():
            (part / "__init__.py").write_text('"""What this folder is for."""\n')
    return House(folder)


GOOD = {
    "__init__.py": "from weftline import workflow as workflow\n",
    "errors.py": "class WeftlineError(Exception): ...\n",
    "core/events.py": "import math\nfrom msgspec import Struct\n",
    "core/run.py": (
        "from datetime import datetime, timedelta\n"
        "from weftline.core.events import Event\n"
        "from weftline.errors import WeftlineError\n"
        "def late(run, at: datetime): return run.now() - at > timedelta(0) and run.open()\n"
    ),
    "ports.py": "from weftline.core.events import Event\n",
    "code/functions.py": "import cloudpickle\nfrom weftline.ports import ObjectStore\n",
    "codecs/values.py": (
        "from weftline.code.functions import load\nfrom weftline.ports import ObjectStore\n"
    ),
    "wire.py": "import msgspec\n",
    "engine/loop.py": "from weftline.core.run import Run\nfrom weftline.wire import Frame\n",
    "workers/child.py": (
        "import importlib\nimport pickle\nfrom weftline.codecs.values import decode\n"
        "def load(name): return importlib.import_module(name), importlib.import_module('numpy')\n"
    ),
    "adapters/journal/sql.py": "from weftline.ports import Journal\n",
    "adapters/journal/sqlite.py": "from weftline.adapters.journal.sql import COMMIT\n",
    "app.py": (
        "from weftline.adapters.journal.sqlite import SqliteJournal\n"
        "from weftline.engine.loop import Engine\n"
    ),
    "workflow.py": "from weftline.app import open_home\n",
    "cli/main.py": "from weftline.app import open_home\nimport rich\n",
}


def test_a_good_house_has_no_problems(tmp_path: Path) -> None:
    house = build(tmp_path, GOOD)
    assert [problem for rule in RULES for problem in rule(house)] == []


UP = [
    "from weftline.engine.loop import Engine",
    "from weftline.engine import loop",
    "from weftline.engine import *",
    "from weftline import engine",
    "from weftline import Workflow",
    "import weftline",
    "import weftline.engine.loop",
    "import os, weftline.engine.loop as loop",
    "from ..engine.loop import Engine",
    "from ..engine import loop",
    "from .. import engine",
    "def f():\n    from weftline.engine.loop import Engine",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from weftline.app import App",
    "try:\n    import weftline.app\nexcept ImportError:\n    pass",
    "import importlib\nimportlib.import_module('weftline.engine.loop')",
    "import importlib as i\ni.import_module(name='weftline.engine.loop')",
    "from importlib import import_module as load\nload('weftline.engine')",
    "import importlib\nimportlib.import_module('..engine.loop', __package__)",
    "import importlib\nimportlib.import_module('.loop', package='weftline.engine')",
    "__import__('weftline.engine.loop')",
    "__import__('engine.loop', globals(), locals(), ['Engine'], 2)",
    "import builtins\nbuiltins.__import__('weftline.app')",
    "import runpy\nrunpy.run_module('weftline.workers.child')",
    "import pkgutil\npkgutil.resolve_name('weftline.engine.loop:Engine')",
]


@pytest.mark.parametrize("text", UP)
def test_every_form_of_an_import_upwards_is_seen(text: str, tmp_path: Path) -> None:
    house = build(tmp_path, GOOD | {"core/graph.py": text})
    problems = list(every_import_points_down(house))
    assert len(problems) == 1
    assert problems[0].startswith("weftline/core/graph.py:")


ACROSS = [
    ("engine/loop.py", "from weftline.workers.child import main", "imports workers"),
    ("workers/child.py", "from weftline.engine.loop import Engine", "imports engine"),
    ("engine/loop.py", "from weftline.adapters.journal.sql import COMMIT", "imports adapters.j"),
    ("adapters/journal/sql.py", "from weftline.adapters.objects.local import Store", ".objects"),
    ("adapters/objects/local.py", "from weftline.adapters.journal.sql import COMMIT", ".journal"),
    ("adapters/objects/local.py", "from ..journal.sql import COMMIT", "imports adapters.journal"),
    ("ports.py", "from weftline.code.functions import load", "imports code"),
    ("wire.py", "from weftline.ports import Journal", "imports ports"),
    ("errors.py", "from weftline.version import __version__", "imports version"),
    ("cli/main.py", "from weftline.workflow import run", "imports workflow"),
    ("core/run.py", "from weftline.mystery import answer", "'mystery' has no floor"),
    ("core/run.py", "from ....weftline import engine", "leaves the package"),
]


@pytest.mark.parametrize(("name", "text", "says"), ACROSS)
def test_parts_of_one_floor_do_not_know_each_other(
    name: str, text: str, says: str, tmp_path: Path
) -> None:
    problems = list(every_import_points_down(build(tmp_path, GOOD | {name: text})))
    assert len(problems) == 1
    assert says in problems[0]


@pytest.mark.parametrize("name", ["mystery.py", "mystery/inner.py", "__main__.py"])
def test_a_new_part_must_be_given_a_floor(name: str, tmp_path: Path) -> None:
    problems = list(every_part_has_a_floor(build(tmp_path, GOOD | {name: ""})))
    assert problems
    assert "has no floor; give it one in FLOOR" in problems[0]


FORMS = [
    "import weftline.core.run",
    "import weftline.core.run as run",
    "from weftline.core import run",
    "from weftline import core",
    "from weftline.core.run import *",
    "from weftline.core.missing import Name",
    "from .commits import Commit",
    "from . import commits",
    "from importlib import import_module\nimport_module('weftline.core.run')",
    "from importlib import import_module\nimport_module(f'weftline.core.{name}')",
    "from importlib import import_module\nimport_module('weftline.' + name)",
]


@pytest.mark.parametrize("text", FORMS)
def test_an_import_in_another_form_is_a_problem(text: str, tmp_path: Path) -> None:
    house = build(tmp_path, GOOD | {"engine/loop.py": text, "engine/commits.py": ""})
    assert len(list(imports_have_one_form(house))) == 1


def test_the_public_surface_may_import_whole_modules_late(tmp_path: Path) -> None:
    late = (
        "from importlib import import_module\n"
        "def __getattr__(name): return import_module('weftline.workflow')\n"
    )
    assert list(imports_have_one_form(build(tmp_path, GOOD | {"__init__.py": late}))) == []


NOT_PLAIN = [
    "import os",
    "import os.path",
    "from os import environ",
    "import time",
    "from pathlib import Path",
    "from urllib import request",
    "import urllib.request",
    "def f():\n    import logging",
    "import numpy",
    "from pydantic import BaseModel",
    "from datetime import datetime\nat = datetime.now()",
    "from datetime import datetime as dt\nclock = dt.utcnow",
    "import datetime\ntoday = datetime.date.today()",
    "import sys\nsys.stdout.write('')",
    "open('file')",
    "print('here')",
]


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_core_that_reaches_outside_is_a_problem(text: str, tmp_path: Path) -> None:
    assert list(core_is_plain(build(tmp_path, GOOD))) == []
    assert len(list(core_is_plain(build(tmp_path, GOOD | {"core/run.py": text})))) == 1


UNPICKLING = [
    {"engine/loop.py": "import pickle"},
    {"engine/loop.py": "from cloudpickle import loads"},
    {"engine/loop.py": "def f():\n    from weftline.codecs.values import decode"},
    {"engine/loop.py": "from weftline.code.functions import load"},
    {"server/routes.py": "from weftline import codecs"},
    {
        "engine/loop.py": "from weftline.engine.inner import x",
        "engine/inner.py": "from weftline.wire import y",
        "wire.py": "import pickle",
    },
]


@pytest.mark.parametrize("files", UNPICKLING)
def test_an_engine_that_could_unpickle_is_a_problem(files: dict[str, str], tmp_path: Path) -> None:
    problems = list(engine_and_server_never_unpickle(build(tmp_path, GOOD | files)))
    assert len(problems) == 1
    assert "is reached by" in problems[0]


@pytest.mark.parametrize("name", ["engine/utils.py", "engine/_helpers.py", "common/x.py"])
def test_a_name_that_says_nothing_is_a_problem(name: str, tmp_path: Path) -> None:
    assert len(list(every_name_says_something(build(tmp_path, {name: ""})))) == 1


@pytest.mark.parametrize("text", ["", "import os", '"""A docstring."""\nx = 1', "x = 1"])
def test_a_folder_that_says_more_or_less_than_its_docstring_is_a_problem(
    text: str, tmp_path: Path
) -> None:
    house = build(tmp_path, {"engine/__init__.py": text})
    assert len(list(a_folder_says_what_it_is_for(house))) == 1


def test_a_folder_without_a_docstring_file_is_a_problem(tmp_path: Path) -> None:
    build(tmp_path, GOOD)
    (tmp_path / "weftline" / "wire" / "inner").mkdir(parents=True)
    (tmp_path / "weftline" / "wire" / "inner" / "frames.py").write_text("")
    problems = list(a_folder_says_what_it_is_for(House(tmp_path)))
    assert len(problems) == 1
    assert "no __init__.py" in problems[0]
