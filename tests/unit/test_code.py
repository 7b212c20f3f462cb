"""Functions and classes that travel by value: within a process, between processes, after edits."""

import abc
import binascii
import enum
import fnmatch
import functools
import importlib
import io
import json
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import types
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.code import definitions, functions, loads, rebuild
from weftline.code.fingerprint import fingerprint
from weftline.code.functions import FunctionCode, dump_function
from weftline.code.loads import load_function
from weftline.codecs.arguments import load_arguments
from weftline.codecs.values import decode, encode
from weftline.errors import NotPicklable, ObjectNotFound, OtherPython


@pytest.fixture
def objects() -> MemoryObjectStore:
    return MemoryObjectStore()


class Folder:
    """A folder of a user's scripts and modules, with an object store beside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = LocalObjectStore(path / "objects")

    def write(self, name: str, source: str) -> None:
        (self.path / name).write_text(textwrap.dedent(source))

    def run(self, name: str, source: str | None = None, **given: Any) -> Any:
        """What the script prints last, read as JSON; it finds `objects` and `given` by name."""
        if source is not None:
            self.write(name, PRELUDE + textwrap.dedent(source))
        command = [sys.executable, str(self.path / name), json.dumps(given)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.path)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        return json.loads(lines[-1]) if lines else None


PRELUDE = """\
import json, sys
from pathlib import Path
from weftline.adapters.objects.local import LocalObjectStore
from weftline.code.fingerprint import fingerprint
from weftline.code.functions import FunctionCode, dump_function
from weftline.code.loads import load_function
from weftline.codecs.values import decode, encode
from weftline.core.values import Object
objects = LocalObjectStore(Path("objects"))
given = json.loads(sys.argv[1])
def tell(value):
    print(json.dumps(value))
def stored(function):
    return list(dump_function(function, objects).value.__reduce__()[1])
def loaded(name):
    return load_function(Object(*given[name]), objects)
"""

# A process that has nothing of the user's: what it knows came by value.
CHILD = """
function = loaded("function")
arguments = decode(given["arguments"].encode(), objects)
result = function(*arguments)
tell(encode(result, objects).packed.decode())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Makes, or edits and reloads, a module of a user in this process."""
    made: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(name: str, source: str) -> Any:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        if name in sys.modules:
            return importlib.reload(sys.modules[name])
        made.append(name)
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


def forget_all() -> None:
    """As if this were another process: what was loaded and dumped is forgotten."""
    loads._loaded.clear()
    functions._dumped.clear()
    rebuild.known_classes.clear()
    rebuild.known_definitions.clear()


def again(function: Callable[..., Any], objects: MemoryObjectStore) -> Any:
    stored = dump_function(function, objects)
    loads._loaded.clear()
    return load_function(stored.value, objects)


# -- functions ----------------------------------------------------------------------------------

RATE = 3


def helper(x: int) -> int:
    return x * RATE


def double_helped(x: int, *, extra: int = 1) -> int:
    """Uses a helper and a constant."""
    return helper(x) * 2 + extra


def test_a_function_of_a_users_module_travels_with_what_it_uses(
    objects: MemoryObjectStore,
) -> None:
    stored = dump_function(double_helped, objects)
    assert objects.exists(stored.value.hash)
    assert stored.warning is None
    loaded = load_function(stored.value, objects)
    assert loaded is not double_helped
    assert loaded(5) == 31
    assert loaded(5, extra=0) == 30
    assert loaded.__doc__ == double_helped.__doc__


def test_a_function_of_an_installed_package_travels_by_name(objects: MemoryObjectStore) -> None:
    assert again(json.dumps, objects) is json.dumps
    assert again(len, objects) is len
    assert again(dump_function, objects) is dump_function
    assert dump_function(json.dumps, objects).value.size < 60


def test_partials_methods_closures_and_callable_objects_travel(objects: MemoryObjectStore) -> None:
    def adder(n: int) -> Callable[[int], int]:
        return lambda x: x + n

    class Scaler:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def __call__(self, x: int) -> int:
            return x * self.factor

        @classmethod
        def of(cls, x: int) -> "Scaler":
            return cls(x)

    assert again(functools.partial(double_helped, extra=4), objects)(1) == 10
    assert again(adder(4), objects)(3) == 7
    assert again(Scaler(4), objects)(3) == 12
    assert again(Scaler(4).__call__, objects)(3) == 12
    assert again(Scaler.of, objects)(5)(3) == 15
    assert again("a-b".split, objects)("-") == ["a", "b"]
    assert again(Scaler, objects)(2)(2) == 4


def test_functions_that_keep_their_results_travel(objects: MemoryObjectStore) -> None:
    @functools.lru_cache(maxsize=7)
    def kept(x: int) -> list[int]:
        return [helper(x)]

    def use(x: int) -> Any:
        return kept(x), kept(x), kept.cache_info().maxsize

    first, second, size = again(use, objects)(2)
    assert first == [6]
    assert first is second
    assert size == 7
    assert again(kept, objects)(2) == [6]
    assert again(re.compile, objects) is re.compile
    compiled: Any = vars(fnmatch)["_compile_pattern"]  # an `lru_cache` of an installed module
    assert again(compiled, objects) is compiled


def test_a_recursive_function_travels(objects: MemoryObjectStore) -> None:
    def fact(n: int) -> int:
        return 1 if n < 2 else n * fact(n - 1)

    assert again(fact, objects)(5) == 120
    assert dump_function(fact, objects) is dump_function(fact, objects)


def test_a_loaded_function_is_kept_but_a_callable_with_a_state_is_not(
    objects: MemoryObjectStore,
) -> None:
    class Counter:
        count = 0

        def __call__(self) -> int:
            self.count += 1
            return self.count

    function = dump_function(helper, objects).value
    assert load_function(function, objects) is load_function(function, objects)
    counter = dump_function(Counter(), objects).value
    assert load_function(counter, objects)() == 1
    assert load_function(counter, objects)() == 1


def test_large_captured_arrays_are_stored_beside_the_pickle(objects: MemoryObjectStore) -> None:
    numpy = pytest.importorskip("numpy")
    table = numpy.arange(100_000)

    def look_up(x: int) -> Any:
        return table[x]

    stored = dump_function(look_up, objects)
    assert stored.value.codec == "pickle5"
    assert load_function(stored.value, objects)(7) == 7


def test_a_function_is_dumped_once_as_long_as_nothing_changes(
    objects: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dump_function(double_helped, objects)

    def fail(*_: object) -> None:
        raise AssertionError("dumped again")

    monkeypatch.setattr(functions, "dump_by_value", fail)
    assert dump_function(double_helped, objects) is first


def test_a_function_is_stored_in_every_store(objects: MemoryObjectStore) -> None:
    other = MemoryObjectStore()
    name = dump_function(double_helped, objects).value.hash
    assert dump_function(double_helped, other).value.hash == name
    assert other.exists(name)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a global": lambda m: setattr(m, "RATE", 4),
    "a global of a helper": lambda m: setattr(m, "OFFSET", 5),
    "a helper": lambda m: setattr(m, "helper", lambda x: x + 100),
    "the code of a helper": lambda m: setattr(m.helper, "__code__", (lambda x: x + 7).__code__),
    "what a list holds": lambda m: m.WEIGHTS.append(1),
    "what an object holds": lambda m: setattr(m.CONFIG, "x", 2),
    "a default": lambda m: setattr(m.f, "__defaults__", (9,)),
    "a default by name": lambda m: m.f.__kwdefaults__.__setitem__("step", 3),
    "what a default holds": lambda m: m.f.__kwdefaults__["seen"].append(8),
    "a closure": lambda m: m.set_bound(6),
    "an attribute": lambda m: setattr(m.f, "scale", 11),
    "a name that did not exist": lambda m: setattr(m, "later", lambda: 13),
    "a global of a module": lambda m: setattr(m.tools, "STEP", 17),
    "a function of a module": lambda m: setattr(m.tools, "step", lambda: 19),
}
WATCHED = """
import tools
RATE, OFFSET, WEIGHTS = 3, 0, [1]
class Config: x = 1
CONFIG = Config()
def helper(x): return x + OFFSET
def bind():
    bound = 0
    def get(): return bound
    def set(value):
        nonlocal bound
        bound = value
    return get, set
get_bound, set_bound = bind()
def f(x=2, *, seen=[], step=1):
    total = step + helper(x) * RATE + sum(WEIGHTS) + CONFIG.x + len(seen)
    total += get_bound() + tools.step()
    try:
        total += later()
    except NameError:
        pass
    return total + f.scale
f.scale = 0
"""


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_anything_captured_is_noticed(
    change: str, objects: MemoryObjectStore, modules: Callable[[str, str], Any]
) -> None:
    modules("tools", "STEP = 0\ndef step(): return STEP")
    module = modules("watched", WATCHED)
    before = dump_function(module.f, objects)
    assert dump_function(module.f, objects) == before
    expected = module.f()
    CHANGES[change](module)
    assert module.f() != expected
    after = dump_function(module.f, objects)
    assert after.value.hash != before.value.hash
    assert load_function(after.value, objects)() == module.f()
    assert load_function(before.value, objects)() == expected


def test_a_function_that_is_gone_is_not_kept_alive(objects: MemoryObjectStore) -> None:
    import gc
    from weakref import ref

    def make() -> Any:
        big = [1, 2, 3]

        def f(n: int) -> Any:
            return f(n - 1) if n else big

        return f

    function = make()
    dump_function(function, objects)
    weak = ref(function)
    del function
    gc.collect()
    assert weak() is None


# -- what cannot be pickled ---------------------------------------------------------------------

LOCKED = """
import threading
lock = threading.Lock()
def locked(x):
    with lock:
        return x + 1
class Guarded:
    def get(self):
        with lock:
            return 5
"""


def test_a_function_with_a_lock_goes_by_reference_with_a_warning(
    objects: MemoryObjectStore, modules: Callable[[str, str], Any]
) -> None:
    module = modules("locked_tools", LOCKED)
    stored = dump_function(module.locked, objects)
    assert load_function(stored.value, objects) is module.locked
    assert stored.warning is not None
    for part in ("'locked'", "'locked_tools'", "'lock'", "_thread.lock"):
        assert part in stored.warning


def test_a_method_with_a_lock_goes_by_reference_with_its_class(
    objects: MemoryObjectStore, modules: Callable[[str, str], Any]
) -> None:
    module = modules("locked_tools", LOCKED)
    assert again(module.Guarded.get, objects) is module.Guarded.get
    assert again(module.Guarded, objects) is module.Guarded
    assert again(module.Guarded().get, objects)() == 5
    assert again(functools.partial(module.locked, 1), objects)() == 2


def test_deep_and_large_globals_do_not_hinder(objects: MemoryObjectStore) -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    large = {number: str(number) for number in range(50_000)}

    def use() -> Any:
        return deep, large

    assert again(use, objects)() == (deep, large)


def test_only_the_helper_with_the_lock_goes_by_reference(
    objects: MemoryObjectStore, modules: Callable[[str, str], Any]
) -> None:
    module = modules("locked_tools", LOCKED)
    locked, guarded = module.locked, module.Guarded

    def outer(x: int) -> Any:
        return locked(x) * guarded().get()

    stored = dump_function(outer, objects)
    assert stored.warning is not None
    assert "'Guarded'" in stored.warning
    loaded = load_function(stored.value, objects)
    assert loaded is not outer
    assert loaded(1) == 10
    assert dump_function(outer, objects) == stored


def test_a_module_goes_by_value_and_one_with_a_lock_by_reference(
    objects: MemoryObjectStore, modules: Callable[[str, str], Any]
) -> None:
    free = modules(
        "free_tools", "import free_tools as me\ndef f(x): return me.g(x)\ndef g(x): return x"
    )
    module = modules("locked_tools", LOCKED)
    space: dict[str, Any] = {"free": free, "module": module, "__name__": "somewhere"}
    exec("def outer(x): return free.f(x) + module.locked(x), free, module", space)
    del sys.modules["free_tools"]
    stored = dump_function(space["outer"], objects)
    exec("def outer(x): return free, module", space)
    sys.modules["free_tools"] = free
    stored = dump_function(space["outer"], objects)
    loaded_free, loaded_module = load_function(stored.value, objects)(1)
    assert isinstance(loaded_free, types.ModuleType)
    assert loaded_free is not free
    assert loaded_free.f(3) == 3
    assert loaded_module is module
    assert stored.warning is not None
    assert "module 'locked_tools'" in stored.warning


def test_what_can_neither_be_pickled_nor_imported_is_named(objects: MemoryObjectStore) -> None:
    lock = threading.Lock()
    space: dict[str, Any] = {"conn": lock, "__name__": "__main__"}
    exec("def query(): return conn", space)
    exec("def outer(): return query()", space)
    with pytest.raises(NotPicklable, match=r"function 'query'.*global 'conn'.*_thread.lock"):
        dump_function(space["query"], objects)
    with pytest.raises(NotPicklable, match="'outer' cannot be stored: function 'query' needs"):
        dump_function(space["outer"], objects)

    def closed() -> Any:
        return lock

    with pytest.raises(NotPicklable, match="closure variable 'lock'"):
        dump_function(closed, objects)
    with pytest.raises(NotPicklable, match="argument 1"):
        dump_function(functools.partial(print, lock), objects)


# -- fingerprints -------------------------------------------------------------------------------

MEANT = """
import math, meant_tools
RATE = 0.5
NAMES = {"a", "b", "c"}
class Model:
    kind = "linear"
    def fit(self, x): return x * RATE
def helper(x, scale=2): return x * scale
def f(x, *, n=1):
    '''Says something.'''
    inner = lambda y: y in {"one", "two", "three"}
    return Model().fit(helper(x)) + math.floor(x) + meant_tools.tool(x) + len(NAMES), inner
"""
EDITS = {
    "a constant of the code": ("x * scale", "x * scale * 2"),
    "a default": ("scale=2", "scale=3"),
    "a default by name": ("n=1", "n=2"),
    "a name": ("math.floor", "math.ceil"),
    "a global": ("RATE = 0.5", "RATE = 0.6"),
    "a global set": ('"b", "c"', '"b", "d"'),
    "a nested function": ('"two"', '"too"'),
    "a method": ("return x * RATE", "return x + RATE"),
    "an attribute of a class": ('"linear"', '"cubic"'),
    "an argument": ("helper(x, scale", "helper(x, y=1, scale"),
}
SAME = {
    "a docstring": ("Says something.", "Says more."),
    "a comment": ("class Model:", "# a comment\n\nclass Model:"),
    "something unused": ("RATE = 0.5", "RATE = 0.5\nOTHER = 1"),
}
TOOLS = "def tool(x): return x\ndef unused(): return 1\n"


@pytest.mark.parametrize("edit", [*EDITS, *SAME, "a function of a module", "an unused function"])
def test_the_fingerprint_follows_the_meaning_of_the_source(
    edit: str, objects: MemoryObjectStore, modules: Callable[[str, str], Any]
) -> None:
    modules("meant_tools", TOOLS)
    module = modules("meant", MEANT)
    before = dump_function(module.f, objects).fingerprint
    assert len(before) == 16
    if edit == "a function of a module":
        modules("meant_tools", TOOLS.replace("return x", "return x + 1"))
    elif edit == "an unused function":
        modules("meant_tools", TOOLS.replace("return 1", "return 2"))
    else:
        old, new = (EDITS | SAME)[edit]
        assert old in MEANT
        module = modules("meant", MEANT.replace(old, new))
    is_same = edit in SAME or edit == "an unused function"
    assert (dump_function(module.f, objects).fingerprint == before) is is_same


def test_the_fingerprint_is_equal_in_other_processes_and_of_what_was_loaded(
    folder: Folder,
) -> None:
    folder.write("meant_tools.py", TOOLS)
    script = MEANT + "tell([dump_function(f, objects).fingerprint, stored(f)])\n"
    first, function = folder.run("one.py", script)
    second, _ = folder.run("two.py", script)
    loaded = folder.run("child.py", "tell(fingerprint(loaded('function')))", function=function)
    assert first == second == loaded


# -- classes ------------------------------------------------------------------------------------

CLASSES = """
import abc, dataclasses, enum, functools, json, typing
import msgspec
T = typing.TypeVar("T")

@dataclasses.dataclass
class Point:
    x: int
    y: int = 2
    tags: list = dataclasses.field(default_factory=list)
    def sum(self): return self.x + self.y

@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    near: "Slotted | None" = None

class Color(enum.Enum):
    RED = 1
    BLUE = "b"
    @property
    def title(self): return self.name.title()

class Flag(enum.IntFlag):
    A = 1
    B = 2

class Pair(typing.NamedTuple):
    left: int
    right: str = "r"
    def both(self): return (self.left, self.right)

class Oops(ValueError):
    def __init__(self, code, why):
        super().__init__(code, why)
        self.code = code

class Record(msgspec.Struct, frozen=True, rename="camel"):
    first_name: str
    numbers: list[int] = []
    age: int = 3
    def __post_init__(self):
        if self.age < 0: raise ValueError("age")
    def older(self): return self.age + 1

class Keyed(Record, kw_only=True, frozen=True):
    extra: int = 0

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
    def twice(self): return 2 * self.area()

class Square(Shape):
    __slots__ = ("side",)
    def __init__(self, side):
        super().__init__()
        self.side = side
    def area(self): return self.side ** 2

class Box(typing.Generic[T]):
    def __init__(self, item): self.item = item
    @functools.cached_property
    def shown(self): return f"<{self.item}>"
    @staticmethod
    def of(item): return Box(item)
    class Lid:
        def __eq__(self, other): return type(other) is type(self)

class Left:
    def other(self): return Right()
class Right:
    def other(self): return Left()

values = {
    "dataclass": Point(1, tags=["t"]), "enum": Color.BLUE, "flag": Flag.A | Flag.B,
    "named tuple": Pair(1), "error": Oops(1, "w"), "struct": Record("n", [1]),
    "keyed struct": Keyed(first_name="n", extra=4), "abstract": Square(3), "generic": Box(4),
    "slotted": Slotted(1, Slotted(2)), "nested": Box.Lid(), "mutual": Left(),
}
checks = {
    "dataclass": lambda v: [repr(v), v.sum(), type(v)(1) == type(v)(1)],
    "enum": lambda v: [repr(v), v.title, v is type(v).BLUE, v is type(v)("b"), len(type(v))],
    "flag": lambda v: [repr(v), int(v), v & type(v).A == 1],
    "named tuple": lambda v: [repr(v), v.both(), v == (1, "r"), list(v._fields)],
    "error": lambda v: [repr(v), v.code, isinstance(v, ValueError)],
    "struct": lambda v: [repr(v), v.older(), json.dumps(msgspec.to_builtins(v)), v == v],
    "keyed struct": lambda v: [repr(v), v.extra, v.older(), msgspec.json.encode(v).decode()],
    "abstract": lambda v: [v.twice(), v.side, hasattr(v, "__dict__")],
    "generic": lambda v: [v.shown, type(v).of(5).shown, type(v).__qualname__],
    "slotted": lambda v: [repr(v), v == type(v)(1, type(v)(2)), hash(v) == hash(v)],
    "nested": lambda v: [type(v).__qualname__, v == type(v)()],
    "mutual": lambda v: [type(v.other()).__name__, type(v.other().other()) is type(v)],
}
"""
KINDS = [
    *("dataclass", "enum", "flag", "named tuple", "error", "struct", "keyed struct"),
    *("abstract", "generic", "nested", "mutual", "slotted"),
]


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a driver, a child and then the driver again say of values of each kind."""
    folder = Folder(tmp_path_factory.mktemp("classes"))
    driver = CLASSES + textwrap.dedent(
        """
        def same(key, value): return value
        def check(key, value): return checks[key](value)
        def same_class(key, value): return type(value) is type(values[key])
        if "back" in given:
            told = {}
            for key, packed in given["back"].items():
                value = decode(packed.encode(), objects)
                told[key] = [type(value) is type(values[key]), checks[key](value)]
            tell(told)
        else:
            tell({
                "functions": {f.__name__: stored(f) for f in (same, check, same_class)},
                "values": {k: encode(v, objects).packed.decode() for k, v in values.items()},
                "checks": {k: checks[k](v) for k, v in values.items()},
            })
        """
    )
    child = """
    told = {}
    for key, packed in given["values"].items():
        try:
            value = decode(packed.encode(), objects)
            told[key] = {
                "back": encode(loaded("same")(key, value), objects).packed.decode(),
                "check": loaded("check")(key, value),
                "same_class": loaded("same_class")(key, value),
            }
        except Exception as error:
            told[key] = {"error": repr(error)}
    tell(told)
    """
    first = folder.run("driver.py", driver)
    there = folder.run("child.py", child, values=first["values"], **first["functions"])
    backs = {key: said["back"] for key, said in there.items() if "back" in said}
    return {
        "first": first,
        "child": there,
        "back": folder.run("driver.py", None, back=backs),
        "early": folder.run("driver.py", None, back=first["values"]),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_a_users_class_works_in_a_child_and_comes_back_as_the_drivers(
    kind: str, travelled: dict[str, Any]
) -> None:
    expected = travelled["first"]["checks"][kind]
    child = travelled["child"][kind]
    assert "error" not in child, child
    assert child["check"] == expected
    assert child["same_class"] is True  # of the value, and of the one the function refers to
    assert travelled["back"][kind] == [True, expected]
    assert travelled["early"][kind] == [True, expected]


def test_the_same_source_has_the_same_definitions_in_every_process(folder: Folder) -> None:
    script = CLASSES + "tell({k: encode(v, objects).objects for k, v in values.items()})\n"
    assert folder.run("driver.py", script) == folder.run("driver.py", None)


def test_values_of_an_earlier_process_fit_functions_of_a_later_one(folder: Folder) -> None:
    """A child that knows a class by the definition of one process meets it again by another's."""
    script = CLASSES + textwrap.dedent(
        """
        def fits(value): return isinstance(value, Point)
        tell({"value": encode(Point(1), objects).packed.decode(), "function": stored(fits)})
        """
    )
    one = folder.run("one.py", script)
    # The same class, on other lines of a file with more in it.
    two = folder.run("one.py", "\n\n# edited\ndef more(): pass\n" + script)
    child = "tell(loaded('function')(decode(given['value'].encode(), objects)))"
    assert folder.run("child.py", child, value=one["value"], function=two["function"]) is True
    edited = folder.run("one.py", script.replace("self.x + self.y", "self.x - self.y"))
    assert folder.run("child.py", child, value=one["value"], function=edited["function"]) is False


def test_a_class_of_a_user_module_is_the_drivers_own_also_after_an_edit(folder: Folder) -> None:
    folder.write("shapes.py", "class Shape:\n    def __init__(self, n): self.n = n\n")
    driver = """
    import shapes
    def grow(shape): return shapes.Shape(shape.n + 1), shape
    if "function" not in given:
        arguments = encode((shapes.Shape(1),), objects).packed.decode()
        tell({"function": stored(grow), "arguments": arguments})
    else:
        made, passed = decode(given["result"].encode(), objects)
        tell([type(made) is type(passed) is shapes.Shape, made.n, getattr(made, "edited", None)])
    """
    started = folder.run("driver.py", driver)
    # The child runs what was stored: the module may be edited, or gone.
    folder.write("shapes.py", "raise RuntimeError('not what was stored')")
    result = folder.run("child.py", CHILD, **started)
    folder.write("shapes.py", "class Shape:\n    edited = True\n")
    assert folder.run("driver.py", None, result=result, **started) == [True, 2, True]


def test_a_class_made_in_a_function_is_one_class_in_another_process(folder: Folder) -> None:
    driver = """
    def make():
        class Inner:
            def __init__(self, n): self.n = n
        return Inner
    Made = make()
    assert type(decode(encode(Made(1), objects).packed, objects)) is Made
    def use(value): return [type(value) is Made, isinstance(Made(1), type(value)), value.n]
    tell({"function": stored(use), "arguments": encode((Made(1),), objects).packed.decode()})
    """
    started = folder.run("driver.py", driver)
    for order in ("function, arguments", "arguments, function"):
        child = f"""
        parts = {{}}
        for part in {order.split(", ")!r}:
            if part == "function":
                parts[part] = loaded(part)
            else:
                parts[part] = decode(given[part].encode(), objects)
        tell(parts["function"](*parts["arguments"]))
        """
        assert folder.run("child.py", child, **started) == [True, True, 1]


NAMED = """
import functools, sys, types, typing
import msgspec
T = typing.TypeVar("T")
class Oops(ValueError):
    def __init__(self, code, why):
        super().__init__(code, why)
class Record(msgspec.Struct):
    x: int = 1
class Box(typing.Generic[T]):
    @functools.cached_property
    def whole(self): return 1
    @functools.lru_cache
    def part(self): return 2
made = types.ModuleType("made")
lock = sys.stdout
def by_value(): return Record, Box, made
def wrapped(): return lock
def decorate(function):
    @functools.wraps(function)
    def wrapper(): return function()
    return wrapper
wrapped = decorate(wrapped)
"""


def test_what_stored_pickles_name_never_moves(
    objects: MemoryObjectStore, modules: Callable[[str, str], Any]
) -> None:
    named: set[str] = set()

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.startswith("weftline."):
                named.add(f"{module}.{name}")
            return super().find_class(module, name)

    user = modules("named_for_ever", NAMED)
    blobs = [dump_function(user.by_value, objects), dump_function(user.wrapped, objects)]
    values = encode((user.Box(), user.Record(), user.Oops(1, "x")), objects)
    packed = json.loads(values.packed)[2]
    contents = [bytes(objects.read(blob.value.hash)) for blob in blobs]
    contents += [bytes(objects.read(name)) for name in values.objects]
    for content in [*contents, binascii.a2b_base64(packed)]:
        Reader(io.BytesIO(content)).load()
    assert named == {
        f"weftline.code.rebuild.{name}"
        for name in (
            *("build_cached_property", "build_class", "build_code", "build_error"),
            *(
                "build_lru_cache",
                "build_module",
                "build_struct",
                "build_typevar",
                "fill_class",
                "fill_module",
            ),
            *("import_wrapped", "restore_class"),
        )
    }


def test_code_of_another_python_is_an_error_and_never_run(
    objects: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_elsewhere() -> int:
        return 42

    with monkeypatch.context() as patch:
        patch.setattr(definitions, "PYTHON", "3.99")
        code = dump_function(made_elsewhere, objects).value
    with pytest.raises(OtherPython, match=r"recorded by Python 3\.99.* use a Python 3\.99"):
        load_function(code, objects)


def test_many_threads_get_one_class(objects: MemoryObjectStore) -> None:
    class Inner:
        def __init__(self, n: int) -> None:
            self.n = n

    packed = encode([Inner(1), {"other": Inner}], objects).packed
    name = encode(Inner, objects).objects[0]
    expected = len(objects.read(name))
    assert expected > 0
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: decode(packed, objects), range(50)))
    assert {type(value[0]) for value in values} == {Inner}


def test_the_main_module_of_a_process_of_ours_has_no_class_of_a_user(
    objects: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Child:
        pass

    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    Child.__module__, Child.__qualname__ = "__main__", "Child"
    main.__dict__["Child"] = Child
    packed = encode(Child(), objects).packed
    rebound = main.__dict__["Child"] = type("Child", (), {})
    assert type(decode(packed, objects)) is rebound
    main.__spec__ = importlib.machinery.ModuleSpec("weftline.workers.child", None)
    assert type(decode(packed, objects)) is Child


def test_a_definition_is_stored_once_and_again_before_it_could_be_collected(
    objects: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Inner:
        pass

    puts: list[bytes] = []
    put = objects.put

    def counted(content: bytes) -> str:
        puts.append(content)
        return put(content)

    monkeypatch.setattr(objects, "put", counted)
    now = 1_000_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    names = {encode(Inner(), objects).objects for _ in range(5)}
    dump_function(helper, objects)
    dump_function(helper, objects)
    assert len(names) == 1
    assert len(puts) == 2
    now += 5 * 3600
    encode(Inner(), objects)
    dump_function(helper, objects)
    assert len(puts) == 4
    encode(Inner(), MemoryObjectStore())
    assert len(puts) == 4


def test_a_definition_that_is_gone_is_told(folder: Folder) -> None:
    driver = """
    class Gone: pass
    encoded = encode(Gone(), objects)
    for name in encoded.objects: objects.delete(name)
    tell(encoded.packed.decode())
    """
    packed = folder.run("driver.py", driver)
    with pytest.raises(ObjectNotFound):
        decode(packed.encode(), folder.objects)


def test_a_class_that_cannot_be_pickled_goes_by_reference_if_it_can(
    objects: MemoryObjectStore, modules: Callable[[str, str], Any]
) -> None:
    module = modules("locked_tools", LOCKED)
    encoded = encode(module.Guarded(), objects)
    assert encoded.objects == ()
    assert type(decode(encoded.packed, objects)) is module.Guarded

    lock = threading.Lock()

    class Stuck:
        held = lock

    with pytest.raises(
        NotPicklable, match=r"class '.*Stuck' cannot be stored: its attribute 'held'"
    ):
        encode([Stuck()], objects)


def test_a_class_and_a_function_of_one_blob_refer_to_each_other(
    objects: MemoryObjectStore,
) -> None:
    class Node:
        def child(self) -> Any:
            return make()

    def make() -> Any:
        return Node()

    stored = dump_function(make, objects)
    assert type(load_function(stored.value, objects)().child()) is Node


def test_type_variables_and_abstract_and_generic_classes_travel(objects: MemoryObjectStore) -> None:
    item = typing.TypeVar("item")

    class Holder(typing.Generic[item], abc.ABC):
        @abc.abstractmethod
        def get(self) -> item: ...

    class Kind(enum.StrEnum):
        A = "a"

    values = [Holder, Holder[int], Kind.A, Kind, item]
    assert decode(encode(values, objects).packed, objects) == values


def test_a_function_within_a_value_refers_to_the_drivers_class(objects: MemoryObjectStore) -> None:
    class Inner:
        pass

    def make() -> Inner:
        return Inner()

    value = {"make": make}
    encoded = encode(value, objects)
    assert len(encoded.objects) == 1
    assert type(decode(encoded.packed, objects)["make"]()) is Inner


def test_a_value_of_an_installed_class_refers_to_no_object(objects: MemoryObjectStore) -> None:
    encoded = encode({1: Path("x"), 2: pickle.PickleBuffer, 3: FunctionCode}, objects)
    assert encoded.objects == ()


def test_functions_as_arguments_of_a_call_travel(objects: MemoryObjectStore) -> None:
    from weftline.codecs.arguments import capture_arguments

    captured, found = capture_arguments((helper, 2), {}, objects, lambda _: False)
    assert found == []
    (function, number), _ = load_arguments(captured.arguments, (), objects)
    assert function(number) == 6


def test_the_fingerprint_of_other_callables_follows_what_they_call() -> None:
    assert fingerprint(functools.partial(helper, 1)) != fingerprint(functools.partial(helper, 2))
    assert fingerprint(helper) != fingerprint(double_helped)
    assert fingerprint(json.dumps) != fingerprint(json.loads)
