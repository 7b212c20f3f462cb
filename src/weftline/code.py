"""Code by value: functions and classes as bytes that another process, or a later one, can use.

Code of `__main__`, of notebooks and of every module outside site-packages and the standard library
travels by value, so that a resume runs what was stored. Installed packages, and Weftline itself,
travel by reference. A class carries its module and name: a process that has that class uses its
own, so that `isinstance` and `except` work in drivers.
"""

import hashlib
import os
import pickle
import re
import struct
import sys
import threading
import time
import types
import typing
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache, cached_property, lru_cache, partial
from importlib import import_module
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary, ref

from weftline.core.values import INLINE_LIMIT, Object
from weftline.errors import NewerHome, NotPicklable, StorageError
from weftline.ports import ObjectStore, ObjectWriter


class FunctionCode(NamedTuple):
    """A stored function. `fingerprint` is equal in every process as long as the source is."""

    value: Object
    fingerprint: str
    warning: str | None


class _Context(threading.local):
    objects: ObjectStore | None = None
    values: Any = ()
    capture: Any = None


context = _Context()
"""What the pickle that this thread reads or writes may refer to."""

_MISSING = object()
_MAIN = ("__main__", "__mp_main__")
_LOADED_FUNCTIONS = 512
_STORED_NAMES = 10_000
_REFRESH_S = 3600.0  # garbage collection spares what was stored within 24 h


# -- functions ----------------------------------------------------------------------------------


def dump_function(function: Callable[..., Any], objects: ObjectStore) -> FunctionCode:
    """`function` as an object in the store; cheap as long as nothing it captured has changed.

    Partials, bound methods, classes and callable objects work too, but only plain functions are
    remembered.

    Raises: NotPicklable, naming the function and what it captured.
    """
    known = _dumped.get(function) if isinstance(function, types.FunctionType) else None
    if (
        known is not None
        and known.watch.is_unchanged()
        and _is_fresh(known.code.value.hash, objects)
    ):
        return known.code
    spool = Spool(objects)
    by_value = _dump_by_value(function, spool)
    size = spool.size
    content = spool.finish()
    name = content if isinstance(content, str) else objects.put(content)
    _note_stored(name, objects)
    value = Object(name, by_value.codec, size)
    code = FunctionCode(value, fingerprint(function), by_value.warning)
    if isinstance(function, types.FunctionType):
        _dumped[function] = _Dumped(code, _Watch(function, by_value.by_reference))
    return code


def load_function(value: Object, objects: ObjectStore) -> Callable[..., Any]:
    """The function that `dump_function` stored; plain functions and classes are kept by hash."""
    with _building:
        function: Callable[..., Any] | None = _loaded.get(value.hash)
        if function is not None:
            _loaded.move_to_end(value.hash)
            return function
        function = load_pickle(value.codec, objects.read(value.hash), objects)
        # Anything else may have a state of its own, which no other attempt should see.
        if isinstance(function, types.FunctionType | types.BuiltinFunctionType | type):
            _loaded[value.hash] = function
            if len(_loaded) > _LOADED_FUNCTIONS:
                _loaded.popitem(last=False)
    return function


class _Dumped(NamedTuple):
    code: FunctionCode
    watch: "_Watch"


_dumped: WeakKeyDictionary[Any, _Dumped] = WeakKeyDictionary()
_loaded: OrderedDict[str, Any] = OrderedDict()
# Held while a class may exist half-built, so that no other thread finds it in that state.
_building = threading.RLock()

_stored: WeakKeyDictionary[ObjectStore, dict[str, float]] = WeakKeyDictionary()


def _is_fresh(name: str, objects: ObjectStore) -> bool:
    """Whether this process stored the object so recently that it cannot have been collected."""
    names = _stored.get(objects)
    stored_at = None if names is None else names.get(name)
    return stored_at is not None and time.monotonic() - stored_at < _REFRESH_S


def _note_stored(name: str, objects: ObjectStore) -> None:
    names = _stored.get(objects)
    if names is None:
        names = _stored.setdefault(objects, {})
    names.pop(name, None)
    names[name] = time.monotonic()
    if len(names) > _STORED_NAMES:
        names.pop(next(iter(names)), None)


# -- by value or by reference -------------------------------------------------------------------

_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
_STANDARD_LIBRARY = os.path.join(os.path.dirname(os.path.realpath(os.__file__)), "")
_origins: dict[str, tuple[int, bool]] = {}


def travels_by_value(module_name: str) -> bool:
    """Whether the code of this module is stored itself rather than its name."""
    module = sys.modules.get(module_name)
    known = _origins.get(module_name)
    if known is not None and known[0] == id(module):
        return known[1]
    verdict = _is_user_module(module_name, module)
    _origins[module_name] = (id(module), verdict)
    return verdict


def _is_user_module(name: str, module: types.ModuleType | None) -> bool:
    if name in _MAIN:
        return True
    top = name.partition(".")[0]
    if top in ("weftline", "cloudpickle"):
        return False
    if module is None:  # made on the fly, or its code came by value into this process
        if top != name and top in sys.modules:
            return travels_by_value(top)
        return top not in sys.stdlib_module_names
    path = getattr(module, "__file__", None)
    if path is None:
        folders = list(getattr(module, "__path__", ()))  # a namespace package
        if not folders:
            origin = getattr(getattr(module, "__spec__", None), "origin", None)
            return origin not in ("built-in", "frozen")
        path = os.path.join(folders[0], "")
    if path.endswith((".so", ".pyd")) or _INSTALLED.search(path):
        return False
    return not os.path.realpath(path).startswith(_STANDARD_LIBRARY)


def _found(module_name: str, qualname: str) -> Any:
    """What a loaded module has under this name; None when there is nothing."""
    thing: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        thing = getattr(thing, part, None)
    return thing


def _is_installed(thing: Any) -> bool:
    """Whether a function or class belongs to an installed package and is found there by name."""
    module_name = getattr(thing, "__module__", None)
    if not isinstance(module_name, str):
        return False
    return not travels_by_value(module_name) and _found(module_name, thing.__qualname__) is thing


def _is_wrapper(found: Any, thing: Any) -> bool:
    """Whether `found` is what a decorator, like `workflow.step`, made of the function `thing`."""
    return isinstance(thing, types.FunctionType) and getattr(found, "__wrapped__", None) is thing


def import_wrapped(module_name: str, qualname: str) -> Any:
    """The function inside a decorated one, which is what its module has under its name."""
    import_module(module_name)
    return _found(module_name, qualname).__wrapped__


def _is_importable(thing: Any) -> bool:
    """Whether another process can get this function, class or module by importing it."""
    if isinstance(thing, types.ModuleType):
        name = thing.__name__
        found: Any = sys.modules.get(name)
    else:
        name = getattr(thing, "__module__", None) or ""
        found = _found(name, getattr(thing, "__qualname__", ""))
    if (found is not thing and not _is_wrapper(found, thing)) or name in _MAIN:
        return False
    return getattr(sys.modules.get(name), "__spec__", None) is not None


# -- pickles ------------------------------------------------------------------------------------

_ALIGNMENT = 64
_TRAILER = struct.Struct("<QI4s")  # bytes of the pickle, number of buffers, mark
_MARK = b"wfp5"


class Spool:
    """Content on its way to the store: in memory while it is small, then written as it comes."""

    closed = False  # a file as Arrow and polars want it

    def __init__(self, objects: ObjectStore, limit: int = INLINE_LIMIT) -> None:
        self.objects = objects
        self.size = 0
        self._limit = limit
        self._parts: list[bytes] = []
        self._writer: ObjectWriter | None = None

    def write(self, part: bytes | bytearray | memoryview) -> int:
        count = len(part) if type(part) is bytes else memoryview(part).nbytes
        self.size += count
        if self._writer is None:
            if self.size <= self._limit:
                self._parts.append(bytes(part))
                return count
            self._writer = self.objects.writer()
            for earlier in self._parts:
                self._writer.write(earlier)
            self._parts.clear()
        self._writer.write(part)
        return count

    def flush(self) -> None:
        pass

    def finish(self) -> bytes | str:
        """The content itself when it is small, else the name of the object it has become."""
        if self._writer is not None:
            return self._writer.commit()
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def clear(self) -> None:
        """Forget what was written, to begin anew or to give up."""
        if self._writer is not None:
            self._writer.abort()
        self._writer, self.size = None, 0
        self._parts.clear()


def dump_value(value: Any, spool: Spool, label: str) -> tuple[str, tuple[str, ...]]:
    """Write a pickle of `value` in which classes by value are references to objects.

    Returns: the codec (`pickle`, or `pickle5` when large buffers lie beside the pickle), and the
        names of the objects with the definitions of classes.
    Raises: NotPicklable, saying where inside `label` the trouble lies.
    """
    buffers = _Buffers()
    pickler = _ValuePickler(spool, 5, buffer_callback=buffers)
    pickler.objects = spool.objects
    try:
        pickler.dump(value)
    except (StorageError, MemoryError):
        spool.clear()
        raise
    except Exception as error:
        spool.clear()
        # A user's module may hold what cannot be pickled, and yet be there to be imported.
        buffers.clear()
        pickler = _ValuePickler(spool, 5, buffer_callback=buffers)
        pickler.objects, pickler.prefers_reference = spool.objects, True
        try:
            pickler.dump(value)
        except (StorageError, MemoryError):
            spool.clear()
            raise
        except Exception:
            spool.clear()
            raise _not_picklable(value, label, spool.objects, error) from error
    if not buffers:
        return "pickle", pickler.definitions
    _write_buffers(buffers, spool)
    return "pickle5", pickler.definitions


def load_pickle(codec: str, content: bytes | bytearray | memoryview, objects: ObjectStore) -> Any:
    """The value of codec `pickle` or `pickle5`; large buffers stay where `content` is."""
    buffers: list[memoryview] | None = None
    if codec == "pickle5":
        content, buffers = _read_buffers(memoryview(content))
    elif codec != "pickle":
        raise NewerHome(f"this Weftline does not know the codec {codec!r}; upgrade it")
    before = context.objects
    context.objects = objects
    try:
        return pickle.loads(content, buffers=buffers)
    finally:
        context.objects = before


class _Buffers(list[memoryview]):
    """The large buffers of a pickle; smaller ones stay within it."""

    limit = INLINE_LIMIT

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        content = buffer.raw()
        if content.nbytes <= self.limit:
            return True
        self.append(content)
        return False


def _write_buffers(buffers: list[memoryview], spool: Spool) -> None:
    # The sizes come last, so that the pickle need not be kept until the buffers are known.
    pickle_size = spool.size
    for buffer in buffers:
        spool.write(bytes(-spool.size % _ALIGNMENT))
        spool.write(buffer)
    sizes = struct.pack(f"<{len(buffers)}Q", *(buffer.nbytes for buffer in buffers))
    spool.write(sizes + _TRAILER.pack(pickle_size, len(buffers), _MARK))


def _read_buffers(content: memoryview) -> tuple[memoryview, list[memoryview]]:
    pickle_size, count, mark = _TRAILER.unpack_from(content, len(content) - _TRAILER.size)
    if mark != _MARK:
        raise NewerHome("this Weftline does not know this form of codec 'pickle5'; upgrade it")
    sizes = struct.unpack_from(f"<{count}Q", content, len(content) - _TRAILER.size - 8 * count)
    buffers = []
    end = pickle_size
    for size in sizes:
        start = end + -end % _ALIGNMENT
        end = start + size
        buffers.append(content[start:end])
    return content[:pickle_size], buffers


@cache
def _cloudpickle() -> Any:
    from cloudpickle import cloudpickle  # 44 ms that many processes never need

    return cloudpickle


_LRU_CACHE = type(lru_cache(len))
_CODE_KINDS = frozenset(
    {types.FunctionType, types.ModuleType, types.MethodType, typing.TypeVar}
    | {cached_property, _LRU_CACHE}
)
# Not files and memoryviews, which cloudpickle makes into something else.
_CLOUDPICKLE_KINDS = frozenset(
    {classmethod, staticmethod, property, types.CellType}
    | {types.CodeType, types.GetSetDescriptorType, types.MappingProxyType}
    | {type({}.keys()), type({}.values()), type({}.items())}
    | {type(OrderedDict().keys()), type(OrderedDict().values()), type(OrderedDict().items())}
)


class _DefinitionPickler(pickle.Pickler):
    """Writes functions, classes and modules by value into the pickle itself."""

    by_reference: frozenset[int] = frozenset()  # by `id`: what of the user's code goes by name
    prefers_reference = False

    @cached_property
    def globals_ref(self) -> dict[int, dict[str, Any]]:
        return {}  # cloudpickle keeps here the globals that functions of one pickle share

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if issubclass(kind, type):
            return NotImplemented if self._goes_by_name(thing) else self._reduce_class(thing)
        if kind in _CODE_KINDS:
            return self._reduce_code(kind, thing)
        reduce = _cloudpickle().Pickler._dispatch_table.get(kind)
        return NotImplemented if reduce is None else reduce(thing)

    def _goes_by_name(self, thing: Any) -> bool:
        return (
            _is_installed(thing)
            or id(thing) in self.by_reference
            or (self.prefers_reference and _is_importable(thing))
        )

    def _reduce_class(self, cls: type) -> Any:
        if cls.__module__ == "builtins":  # NoneType, function and others without a name there
            return _cloudpickle()._class_reduce(cls)
        return _reduce_class(cls)

    def _reduce_code(self, kind: type, thing: Any) -> Any:
        if kind is types.FunctionType:
            if not self._goes_by_name(thing):
                return _cloudpickle().Pickler._dynamic_function_reduce(self, thing)
            if _is_wrapper(_found(thing.__module__, thing.__qualname__), thing):
                return import_wrapped, (thing.__module__, thing.__qualname__)
            return NotImplemented
        if kind is types.ModuleType:
            return self._reduce_module(thing)
        if kind is types.MethodType:
            return _cloudpickle()._method_reduce(thing)
        if kind is typing.TypeVar:
            if not travels_by_value(thing.__module__ or ""):
                return NotImplemented
            return _reduce_typevar(thing)
        if kind is cached_property:
            return build_cached_property, (thing.func, thing.attrname)
        if self._goes_by_name(thing):
            return NotImplemented
        return build_lru_cache, (thing.__wrapped__, thing.cache_parameters())

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if (
            not travels_by_value(name)
            or id(module) in self.by_reference
            or (self.prefers_reference and _is_importable(module))
        ):
            return _cloudpickle().subimport, (name,)
        return build_module, (name,), _module_state(module), None, None, fill_module

    def _function_getnewargs(self, function: types.FunctionType) -> Any:
        return _cloudpickle().Pickler._function_getnewargs(self, function)


class _ValuePickler(_DefinitionPickler):
    """Writes classes by value as references to objects that hold their definitions."""

    objects: ObjectStore
    definitions: tuple[str, ...] = ()

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if issubclass(kind, type) or kind in _CODE_KINDS or kind in _CLOUDPICKLE_KINDS:
            if kind is types.MethodType and _is_by_name(thing):
                return NotImplemented
            return super().reducer_override(thing)
        if isinstance(thing, BaseException):
            return _reduce_error(thing)
        return NotImplemented

    def _reduce_class(self, cls: type) -> Any:
        if cls.__module__ == "builtins":
            return super()._reduce_class(cls)
        name = _store_definition(cls, self.objects)
        if name is None:
            return NotImplemented
        if name not in self.definitions:
            self.definitions += (name,)
        return restore_class, (cls.__module__, cls.__qualname__, name)


def _is_by_name(method: types.MethodType) -> bool:
    """Whether a bound method is what its object has by its name, as it nearly always is."""
    found = getattr(method.__self__, method.__func__.__name__, None)
    return getattr(found, "__func__", None) is method.__func__


def _reduce_error(error: BaseException) -> Any:
    """An exception without its `__init__`, which rarely takes what is in `args`."""
    kind = type(error)
    if (
        isinstance(kind.__init__, types.FunctionType)
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ in (BaseException.__reduce__, OSError.__reduce__)
    ):
        reduced: Any = error.__reduce__()
        return build_error, (kind, reduced[1]), *reduced[2:]
    return NotImplemented


def build_error(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception with these `args`. Written into pickles."""
    error = kind.__new__(kind, *args)
    # What an exception of Python's own keeps beside `args`, its own `__init__` sets.
    inits = (vars(cls).get("__init__") for cls in kind.__mro__)
    init = next(init for init in inits if init and not isinstance(init, types.FunctionType))
    init(error, *args)
    return error


# -- classes ------------------------------------------------------------------------------------

_BY_REFERENCE = ("", b"")
# The name and content of the object that defines a class.
_definitions: WeakKeyDictionary[type, tuple[str, bytes]] = WeakKeyDictionary()
_restored: WeakValueDictionary[str, type] = WeakValueDictionary()
_unfilled: WeakSet[type] = WeakSet()


def _store_definition(cls: type, objects: ObjectStore) -> str | None:
    known = _definitions.get(cls)
    if known is None:
        known = _definitions[cls] = _dump_class(cls, objects)
        if known is not _BY_REFERENCE:
            _restored[known[0]] = cls
    name, content = known
    if known is _BY_REFERENCE:
        return None
    if not _is_fresh(name, objects):
        objects.put(content)
        _note_stored(name, objects)
    return name


def _dump_class(cls: type, objects: ObjectStore) -> tuple[str, bytes]:
    spool = Spool(objects, limit=sys.maxsize)
    if id(cls) in _dump_by_value(cls, spool, buffers_from=sys.maxsize).by_reference:
        return _BY_REFERENCE
    content = spool.finish()
    assert isinstance(content, bytes)
    return hashlib.sha256(content).hexdigest(), content


def restore_class(module: str, qualname: str, name: str) -> type:
    """The class of a value: this process's own, else the one that the object `name` defines.

    Written into pickles.
    """
    cls = _own_class(module, qualname) or _restored.get(name)
    if cls is None:
        objects = context.objects
        if objects is None:
            raise NotPicklable(f"class {module}.{qualname} is stored; read it with its store")
        with _building:
            content = bytes(objects.read(name))
            cls = load_pickle("pickle", content, objects)
            assert isinstance(cls, type)
            _restored[name] = cls
            _definitions.setdefault(cls, (name, content))
    return cls


def build_class(module: str, qualname: str, make: Callable[..., type], arguments: Any) -> type:
    """The class of this name that the process has, else an empty one to be filled by `fill_class`.

    Written into pickles.
    """
    # The identifier is what makes two definitions of one class the same class.
    tracker_id = arguments[-2]
    known = _own_class(module, qualname)
    if known is None:
        known = _cloudpickle()._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if known is not None:
        return known
    cls = make(*arguments)
    cls.__qualname__ = qualname
    _unfilled.add(cls)
    return cls


def fill_class(cls: type, state: Any) -> None:
    """Give a class its attributes, unless it has them already. Written into pickles."""
    if cls in _unfilled:
        _cloudpickle()._class_setstate(cls, state)
        _unfilled.discard(cls)


def build_struct(
    metaclass: Any,
    name: str,
    bases: Any,
    namespace: dict[str, Any],
    fields: dict[str, dict[str, Any]],
    options: dict[str, Any],
    tracker_id: str,
    extra: None,
) -> type:
    """A msgspec Struct with its fields; the rest follows by `fill_class`. Written into pickles."""
    import msgspec

    for field, settings in fields.items():
        namespace[field] = msgspec.field(**settings)
    if namespace.pop("__post_init__", False):
        # Looked up once, when the class is made; the real one comes later.
        namespace["__post_init__"] = lambda self: type(self).__post_init__(self)
    cls = metaclass(name, bases, namespace, **options)
    found: type = _cloudpickle()._lookup_class_or_track(tracker_id, cls)
    return found


def build_typevar(module: str, name: str, arguments: Any) -> Any:
    """The type variable of this name that the process has, else a new one. Written into pickles."""
    own = _found(module, name)
    return own if type(own) is typing.TypeVar else _cloudpickle()._make_typevar(*arguments)


def build_cached_property(function: Callable[..., Any], name: str | None) -> Any:
    """A `cached_property` (Python 3.11's has a lock in it). Written into pickles."""
    made = cached_property(function)
    if name is not None:
        made.attrname = name
    return made


def build_lru_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function that keeps its results; none yet. Written into pickles."""
    return lru_cache(**parameters)(function)


def build_module(name: str) -> types.ModuleType:
    """An empty module, to be filled by `fill_module`. Written into pickles."""
    return types.ModuleType(name)


def fill_module(module: types.ModuleType, state: dict[str, Any]) -> None:
    """Give a module its content. Written into pickles."""
    module.__dict__.update(state)
    module.__dict__["__builtins__"] = __builtins__


def _module_state(module: types.ModuleType) -> dict[str, Any]:
    left_out = ("__builtins__", "__loader__", "__spec__", "__cached__")
    return {name: value for name, value in vars(module).items() if name not in left_out}


def _own_class(module: str, qualname: str) -> type | None:
    if "<locals>" in qualname:
        return None
    if module == "__main__":
        # A process that Weftline starts has a `__main__` that is none of the user's.
        spec = getattr(sys.modules.get(module), "__spec__", None)
        if spec is not None and spec.name.startswith("weftline"):
            return None
    found = _found(module, qualname)
    return found if isinstance(found, type) else None


def _reduce_class(cls: type) -> Any:
    if "<locals>" not in cls.__qualname__:
        _identify(cls, (cls.__qualname__, cls))
    if hasattr(cls, "__struct_config__"):
        make, arguments, state = _struct_parts(cls)
    else:
        make, arguments, state, *_ = _cloudpickle()._dynamic_class_reduce(cls)
    start = (cls.__module__, cls.__qualname__, make, arguments)
    return build_class, start, state, None, None, fill_class


def _reduce_typevar(thing: Any) -> Any:
    is_named = _found(thing.__module__, thing.__name__) is thing
    if is_named:
        limits = map(_annotation, (thing.__bound__, *thing.__constraints__))
        _identify(thing, (thing.__name__, thing.__covariant__, thing.__contravariant__, *limits))
    arguments = _cloudpickle()._decompose_typevar(thing)
    return build_typevar, (thing.__module__ if is_named else "", thing.__name__, arguments)


def _identify(thing: Any, meant: tuple[Any, ...]) -> None:
    """Make the identifier of a class, or type variable, equal in every process that has it."""
    cloudpickle = _cloudpickle()
    by_class = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
    if thing in by_class:
        return
    meaning = _Meaning(is_strict=True)
    meaning.add((thing.__module__, *meant))
    if meaning.is_complete:
        tracker_id = meaning.hexdigest()[:32]
        with cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
            by_class[thing] = tracker_id
            cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[tracker_id] = thing


_STRUCT_OPTIONS = (
    *("frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults"),
    *("forbid_unknown_fields", "weakref", "dict", "cache_hash", "tag_field", "tag"),
)


def _struct_parts(cls: Any) -> tuple[Any, Any, Any]:
    """How to build a msgspec Struct: it needs its fields at once, not afterwards."""
    import inspect

    from msgspec import NODEFAULT

    annotations = dict(vars(cls).get("__annotations__", {}))
    names = cls.__struct_fields__
    defaults = dict(zip(reversed(names), reversed(cls.__struct_defaults__), strict=False))
    encoded = dict(zip(names, cls.__struct_encode_fields__, strict=True))
    fields: dict[str, dict[str, Any]] = {}
    for name in annotations:
        settings: dict[str, Any] = {}
        default = defaults.get(name, NODEFAULT)
        if hasattr(default, "factory"):
            settings["default_factory"] = default.factory
        elif default is not NODEFAULT:
            settings["default"] = default
        if encoded.get(name, name) != name:
            settings["name"] = encoded[name]
        if settings:
            fields[name] = settings
    config = cls.__struct_config__
    options = {name: getattr(config, name) for name in _STRUCT_OPTIONS if hasattr(config, name)}
    parameters = inspect.signature(cls).parameters
    own = [parameters[name] for name in annotations if name in parameters]
    options["kw_only"] = bool(own) and all(each.kind is each.KEYWORD_ONLY for each in own)
    namespace = {
        "__module__": cls.__module__,
        "__annotations__": annotations,
        "__post_init__": "__post_init__" in vars(cls),
    }
    state, slots = _cloudpickle()._class_getstate(cls)
    for name in ("__annotations__", "__slots__", "__module__", "__match_args__", *encoded):
        state.pop(name, None)
    tracker_id = _cloudpickle()._get_or_create_tracker_id(cls)
    arguments = (
        type(cls),
        cls.__name__,
        cls.__bases__,
        namespace,
        fields,
        options,
        tracker_id,
        None,
    )
    return build_struct, arguments, (state, slots)


# -- what code captures -------------------------------------------------------------------------


def _captured(thing: Any) -> Iterator[tuple[str, Any, Any]]:
    """What a function, class or module needs beside its own code: (kind, key, value)."""
    if isinstance(thing, types.FunctionType):
        code, namespace = thing.__code__, thing.__globals__
        for name in _cloudpickle()._extract_code_globals(code):
            yield "global", name, namespace.get(name, _MISSING)
        for index, name in enumerate(code.co_freevars):
            yield "closure variable", name, _cell_content(thing, index)
        positional = code.co_varnames[: code.co_argcount]
        defaults = thing.__defaults__ or ()
        if defaults:
            for name, value in zip(positional[-len(defaults) :], defaults, strict=True):
                yield "default", name, value
        for name, value in (thing.__kwdefaults__ or {}).items():
            yield "default", name, value
        for name, value in vars(thing).items():
            yield "attribute", name, value
    elif isinstance(thing, type):
        for base in thing.__bases__:
            yield "base", base.__name__, base
        for name, value in vars(thing).items():
            if not isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType):
                yield "attribute", name, value
    elif isinstance(thing, types.ModuleType):
        for name, value in _module_state(thing).items():
            yield "global", name, value


def _cell_content(function: types.FunctionType, index: int) -> Any:
    try:
        return (function.__closure__ or ())[index].cell_contents
    except ValueError:  # not assigned yet
        return _MISSING


def _code_within(value: Any) -> list[Any] | None:
    """The functions, classes and modules that a captured value is made of; None for data."""
    kind = type(value)  # not `isinstance`, which asks a proxy for what it stands for
    if issubclass(kind, types.FunctionType | type | types.ModuleType):
        return [value]
    if issubclass(kind, classmethod | staticmethod):
        return [value.__func__]
    if issubclass(kind, property):
        return [part for part in (value.fget, value.fset, value.fdel) if part is not None]
    if issubclass(kind, cached_property):
        return [value.func]
    if issubclass(kind, _LRU_CACHE):
        return [value.__wrapped__]
    wrapped = _wrapped(value)
    return None if wrapped is None else [wrapped]


def _wrapped(value: Any) -> Any:
    """The function inside a step or another wrapper of Weftline's own, which never changes."""
    module = getattr(type(value), "__module__", None)
    if isinstance(module, str) and module.startswith("weftline."):
        return getattr(value, "__wrapped__", None)
    return None


def _is_constant(value: Any) -> bool:
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(_is_constant, value))
    return kind in _CONSTANT_KINDS or value is _MISSING


_CONSTANT_KINDS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})


# -- code by value, and what stands in its way --------------------------------------------------


class _ByValue(NamedTuple):
    codec: str
    by_reference: frozenset[int]
    warning: str | None


def _dump_by_value(thing: Any, spool: Spool, buffers_from: int = INLINE_LIMIT) -> _ByValue:
    """Write a pickle that holds the code of `thing` itself.

    A function, class or module with something in it that cannot be pickled goes by reference,
    with a warning, if it can be imported.

    Raises: NotPicklable.
    """
    by_reference: dict[int, Any] = {}
    warnings: dict[str, None] = {}
    capture, context.capture = context.capture, None
    try:
        while True:
            buffers = _Buffers()
            buffers.limit = buffers_from
            pickler = _DefinitionPickler(spool, 5, buffer_callback=buffers)
            pickler.by_reference = frozenset(by_reference)
            try:
                pickler.dump(thing)
                break
            except (StorageError, MemoryError):
                spool.clear()
                raise
            except Exception as error:
                spool.clear()
                obstacles = list(_obstacles(thing, pickler.by_reference))
                if not obstacles:
                    raise _not_picklable(thing, _name(thing), spool.objects, error) from error
                for obstacle in obstacles:
                    if obstacle.way_out is None:
                        raise NotPicklable(obstacle.message(thing)) from obstacle.error
                    for way_out in _with_its_class(obstacle.way_out):
                        by_reference[id(way_out)] = way_out
                    warnings[obstacle.warning()] = None
    finally:
        context.capture = capture
    if buffers:
        _write_buffers(buffers, spool)
    codec = "pickle5" if buffers else "pickle"
    return _ByValue(codec, frozenset(by_reference), "; ".join(warnings) or None)


class _Obstacle(NamedTuple):
    """Something captured that cannot be pickled, and what could go by reference instead."""

    owner: Any
    kind: str
    key: str
    error: Exception
    way_out: Any

    def message(self, top: Any) -> str:
        whose = "its" if self.owner is top else f"{_name(self.owner)} needs the"
        return (
            f"{_name(top)} cannot be stored: {whose} {self.kind} {self.key!r} cannot be pickled "
            f"({_reason(self.error)}); make it where it is used, or move the function to a module "
            "that can be imported"
        )

    def warning(self) -> str:
        what = _with_its_class(self.way_out)[-1]
        module = getattr(what, "__module__", None)
        where = "" if module is None else f" of module {module!r}"
        return (
            f"{_name(what)}{where} goes by reference, since the {self.kind} {self.key!r} "
            f"cannot be pickled ({_reason(self.error)}): a resume runs the module as it is then"
        )


def _obstacles(top: Any, by_reference: frozenset[int]) -> Iterator[_Obstacle]:
    """Each captured thing that cannot be pickled, found by trying them one by one."""
    waiting: list[tuple[Any, tuple[Any, ...]]] = []
    if isinstance(top, partial):
        waiting.append((top.func, ()))
    elif isinstance(top, types.MethodType):
        waiting.append((top.__func__, ()))
    else:
        waiting.extend((part, ()) for part in _code_within(top) or ())
    seen = set(by_reference)
    while waiting:
        owner, above = waiting.pop()
        if id(owner) in seen or _goes_by_name_anyway(owner):
            continue
        seen.add(id(owner))
        chain = (*above, owner)
        for kind, key, value in _captured(owner):
            parts = _code_within(value)
            if parts is not None:
                waiting.extend((part, chain) for part in parts)
                continue
            error = None if _is_constant(value) else _pickling_error(value, by_reference)
            if error is not None:
                way_out = next(filter(_is_importable, reversed(chain)), None)
                yield _Obstacle(owner, kind, key, error, way_out)


def _with_its_class(thing: Any) -> tuple[Any, ...]:
    """What goes by reference together: a method only with the class that has it."""
    if not isinstance(thing, types.FunctionType) or "." not in thing.__qualname__:
        return (thing,)
    return thing, _found(thing.__module__, thing.__qualname__.rpartition(".")[0])


def _goes_by_name_anyway(thing: Any) -> bool:
    if isinstance(thing, types.ModuleType):
        return not travels_by_value(thing.__name__)
    if isinstance(thing, types.FunctionType | type):
        return _is_installed(thing)
    return True


def _pickling_error(value: Any, by_reference: frozenset[int]) -> Exception | None:
    pickler = _DefinitionPickler(_Nowhere(), 5)
    pickler.by_reference = by_reference
    try:
        pickler.dump(value)
    except Exception as error:
        return error
    return None


class _Nowhere:
    def write(self, part: Any) -> int:
        return len(part)


def _name(thing: Any) -> str:
    if isinstance(thing, types.ModuleType):
        return f"module {thing.__name__!r}"
    if isinstance(thing, type):
        return f"class {thing.__qualname__!r}"
    if isinstance(thing, types.FunctionType | types.MethodType):
        return f"function {thing.__qualname__!r}"
    return f"the {type(thing).__qualname__} object"


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, TypeError | pickle.PicklingError | NotPicklable) and text:
        return text
    return f"{type(error).__name__}: {text}"


def _not_picklable(value: Any, label: str, objects: ObjectStore, error: Exception) -> NotPicklable:
    """The error that says where inside `value` the trouble lies, by trying its parts."""
    path = label
    for _ in range(20):
        for step, part in _parts(value):
            pickler = _ValuePickler(_Nowhere(), 5, buffer_callback=_Buffers())
            pickler.objects = objects
            try:
                pickler.dump(part)
            except Exception as deeper:
                path, value, error = path + step, part, deeper
                break
        else:
            break
    return NotPicklable(f"{path}: {_reason(error)}; leave it out, or make it where it is used")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if issubclass(kind, dict):
        for key, item in value.items():
            yield f"[{_short(key)}]", item
            if type(key) is not str:
                yield f" (key {_short(key)})", key
    elif issubclass(kind, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif issubclass(kind, set | frozenset):
        for item in value:
            yield f" (element {_short(item)})", item
    elif kind is types.FunctionType:
        for word, key, item in _captured(value):
            if not _is_constant(item):
                yield f" ({word} {key!r})", item
    elif issubclass(kind, partial):
        yield ".func", value.func
        yield from ((f" (argument {index + 1})", item) for index, item in enumerate(value.args))
        yield from ((f" (argument {key!r})", item) for key, item in value.keywords.items())
    elif not issubclass(kind, type | types.ModuleType):
        yield from ((f".{name}", item) for name, item in _attributes(value).items())


def _attributes(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            item = getattr(value, name, _MISSING)
            if item is not _MISSING and name not in ("__dict__", "__weakref__"):
                found[name] = item
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        found |= attributes
    return found


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except Exception:
        text = type(key).__name__
    return text if len(text) <= 40 else text[:37] + "..."


# -- has it changed? ----------------------------------------------------------------------------


class _Watch:
    """Tells whether anything that a stored function had captured has changed since.

    Functions, classes and modules are compared by identity, and held weakly: the watch lives as
    long as the function, which must not live as long as the watch.
    """

    def __init__(self, function: types.FunctionType, by_reference: frozenset[int]) -> None:
        self._plain: list[tuple[Any, ...]] = []
        self._other: list[tuple[Any, ...]] = []
        self._by_reference = by_reference
        waiting: list[Any] = [function]
        seen = set(by_reference)
        while waiting:
            owner = waiting.pop()
            if id(owner) in seen or isinstance(owner, type) or _goes_by_name_anyway(owner):
                continue
            seen.add(id(owner))
            expected: list[tuple[str, str, Any, Any]] = []
            for kind, key, value in _captured(owner):
                parts = _code_within(value)
                if _is_constant(value):
                    expected.append((kind, key, value, None))
                elif parts is not None and (weak := _weak(value)) is not None:
                    expected.append((kind, key, weak, ref))
                    waiting.extend(parts)
                else:
                    expected.append((kind, key, _digest(value, by_reference), bytes))
            shape = _shape(owner)
            # Nearly every function captures globals alone, and defaults that cannot change.
            if shape == (*shape[:2], None) and all(
                how is not bytes if kind == "global" else how is None and kind == "default"
                for kind, _, _, how in expected
            ):
                globals_ = [each for each in expected if each[0] == "global"]
                constants = [(key, what) for _, key, what, how in globals_ if how is None]
                code = [(key, what) for _, key, what, how in globals_ if how is ref]
                self._plain.append((ref(owner), *shape[:2], constants, code))
            else:
                self._other.append((ref(owner), shape, expected))

    def is_unchanged(self) -> bool:
        for owner, code, defaults, constants, weak in self._plain:
            function = owner()
            if (
                function is None
                or function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__
                or function.__dict__
            ):
                return False
            namespace = function.__globals__
            for name, value in constants:
                if namespace.get(name, _MISSING) is not value:
                    return False
            for name, expected in weak:
                value = expected()
                if value is None or namespace.get(name) is not value:
                    return False
        return all(self._is_same(*other) for other in self._other)

    def _is_same(
        self, weak: Any, shape: tuple[Any, ...], expected: list[tuple[str, str, Any, Any]]
    ) -> bool:
        owner = weak()
        if owner is None:
            return False
        if any(now is not before for now, before in zip(_shape(owner), shape, strict=True)):
            return False
        captured = list(_captured(owner))
        if [each[:2] for each in captured] != [each[:2] for each in expected]:
            return False
        for (_, _, value), (_, _, before, how) in zip(captured, expected, strict=True):
            if how is None:
                same = value is before
            elif how is ref:
                same = value is before()
            else:
                same = before is not None and before == _digest(value, self._by_reference)
            if not same:
                return False
        return True


def _shape(owner: Any) -> tuple[Any, ...]:
    if isinstance(owner, types.FunctionType):
        return owner.__code__, owner.__defaults__, owner.__kwdefaults__
    return ()


def _weak(value: Any) -> Any:
    try:
        return ref(value)
    except TypeError:
        return None


def _digest(value: Any, by_reference: frozenset[int]) -> bytes | None:
    """The SHA-256 of the pickle of `value`; None when it has none."""
    sink = _Digest()
    pickler = _DigestPickler(sink, 5)
    pickler.by_reference = by_reference
    try:
        pickler.dump(value)
    except Exception:
        return None
    return sink.hash.digest()


class _DigestPickler(_DefinitionPickler):
    """For telling a change within this process: a class is the one it is."""

    def _reduce_class(self, cls: type) -> Any:
        return int, (id(cls),)


class _Digest:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, part: Any) -> int:
        self.hash.update(part)
        return len(part)


# -- what it means ------------------------------------------------------------------------------


def fingerprint(thing: Any) -> str:
    """16 hex digits over what code means: equal in every process as long as the source is.

    Takes in what the code calls in the user's own modules, and the plain values it refers to;
    leaves out names of files, numbers of lines and docstrings.
    """
    meaning = _Meaning()
    meaning.add(thing)
    return meaning.hexdigest()[:16]


class _Meaning:
    """A hash over code and data that does not depend on the process.

    A strict one must not be equal for things that differ: `is_complete` tells whether it can say.
    """

    _ITEMS, _DEPTH = 10_000, 100
    _BY_REPR = frozenset({"re", "datetime", "decimal", "fractions", "pathlib", "uuid", "zoneinfo"})

    def __init__(self, is_strict: bool = False) -> None:
        self.is_complete = True
        self._is_strict = is_strict
        self._hash = hashlib.sha256()
        self._seen: dict[Any, int] = {}
        self._alive: list[Any] = []  # so that no `id` is used twice
        self._left = self._ITEMS
        self._depth = 0

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def add(self, thing: Any) -> None:
        if self._depth == self._DEPTH:
            self.is_complete = False
            return
        self._depth += 1
        kind = type(thing)
        if kind is int:
            self._write("int", hex(thing))  # `repr` refuses long ones
        elif kind is str or kind is bytes:
            text = thing.encode("utf-8", "surrogatepass") if kind is str else thing
            self._write(kind.__name__, len(text))
            self._hash.update(text)
        elif kind in _CONSTANT_KINDS or kind is range:
            self._write(kind.__name__, repr(thing))
        elif thing is _MISSING:
            self._write("missing")
        elif kind is frozenset or kind is set:
            self._write(kind.__name__, sorted(map(self._apart, thing)))
        elif kind is tuple:  # whether two equal ones are the same object means nothing
            self._write("tuple", len(thing))
            self._add_items(thing)
        elif self._is_new(thing):
            self._add_new(thing, kind)
        self._depth -= 1

    def _add_new(self, thing: Any, kind: type) -> None:
        if kind is list:
            self._write("list", len(thing))
            self._add_items(thing)
        elif kind is dict:
            self._write("dict", len(thing))
            self._add_items(part for item in thing.items() for part in item)
        elif kind is types.CodeType:
            self._add_code(thing)
        elif issubclass(kind, types.ModuleType):
            self._write("module", thing.__name__)
        elif issubclass(kind, type) or kind is types.FunctionType:
            if _is_installed(thing) or thing.__module__ == "builtins":
                self._write("installed", thing.__module__, thing.__qualname__)
            elif kind is types.FunctionType:
                self._add_function(thing)
            else:
                self._add_class(thing)
        elif kind is types.BuiltinFunctionType:
            self._write("builtin", thing.__module__, thing.__qualname__)
        elif kind is types.MethodType:
            self._add_items((thing.__func__, thing.__self__))
        elif issubclass(kind, partial):
            self._write("partial")
            self._add_items((thing.func, thing.args, thing.keywords))
        elif (parts := _code_within(thing)) is not None:
            self._write(kind.__name__)
            self._add_items(parts)
        else:
            self._add_instance(thing, kind)

    def _add_items(self, items: Any) -> None:
        for item in items:
            self._left -= 1
            if self._left < 0:
                self.is_complete = False
                return
            self.add(item)

    def _add_code(self, code: types.CodeType) -> None:
        arguments = code.co_argcount + code.co_kwonlyargcount
        arguments += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args, **kwargs
        self._write(
            *(code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames[:arguments]),
            *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        )
        self._add_items(code.co_consts)

    def _add_function(self, function: types.FunctionType) -> None:
        code = function.__code__
        if function.__doc__ is not None and code.co_consts[:1] == (function.__doc__,):
            code = code.replace(co_consts=(None, *code.co_consts[1:]))
        self._write("function")
        self._add_code(code)
        names = _all_names(code)
        for kind, key, value in _captured(function):
            self._write(kind, key)
            if isinstance(value, types.ModuleType):
                self._add_module(value, names)
            else:
                self.add(value)

    def _add_module(self, module: types.ModuleType, names: frozenset[str]) -> None:
        """What of a user's module the code may use: all that has a name it mentions."""
        self._write("module", module.__name__)
        if travels_by_value(module.__name__) and self._is_new(module, (id(module), names)):
            for name in sorted(names & vars(module).keys()):
                value = vars(module)[name]
                self._write("global", name)
                if isinstance(value, types.ModuleType):
                    self._add_module(value, names)
                else:
                    self.add(value)

    def _add_class(self, cls: Any) -> None:
        self._write("class", cls.__qualname__)
        self.add(type(cls))
        self._add_items(cls.__bases__)
        members = getattr(cls, "__members__", None)  # of an Enum
        if members is not None:
            self._add_items((name, member._value_) for name, member in members.items())
        for name, value in sorted(vars(cls).items()):
            if name in _NOT_MEANT or (members is not None and _is_of_enum(name, value, members)):
                continue
            self._write("attribute", name)
            if name == "__annotations__":
                self._add_items((key, _annotation(part)) for key, part in value.items())
            elif name == "__dataclass_fields__":
                self._add_items(
                    (
                        *(field.name, field.default, field.default_factory, dict(field.metadata)),
                        *(field.init, field.repr, field.hash, field.compare, field.kw_only),
                    )
                    for field in value.values()
                )
            elif isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType):
                self._write("slot")
            else:
                self.add(value)
        config = getattr(cls, "__struct_config__", None)
        if config is not None:
            self._write(*(repr(getattr(config, name, None)) for name in _STRUCT_OPTIONS))
            self._write(cls.__struct_fields__, cls.__struct_encode_fields__)
            for default in cls.__struct_defaults__:
                self.add(getattr(default, "factory", default))

    def _add_instance(self, thing: Any, kind: type) -> None:
        self.add(kind)
        if kind.__module__ in self._BY_REPR or kind is types.GenericAlias:
            self._write(repr(thing))
        elif self._is_strict:
            try:
                self._write(pickle.dumps(thing, 5))
            except Exception:
                self.is_complete = False
        elif hasattr(kind, "__members__"):
            self._write(thing.name)
        elif not _is_installed(kind):
            self.add(_attributes(thing))

    def _apart(self, thing: Any) -> str:
        meaning = _Meaning(self._is_strict)
        meaning.add(thing)
        self.is_complete &= meaning.is_complete
        return meaning.hexdigest()

    def _is_new(self, thing: Any, key: Any = None) -> bool:
        key = id(thing) if key is None else key
        if key in self._seen:
            self._write("again", self._seen[key])
            return False
        self._seen[key] = len(self._seen)
        self._alive.append(thing)
        return True

    def _write(self, *tokens: Any) -> None:
        self._hash.update(repr(tokens).encode("utf-8", "surrogatepass"))


_NOT_MEANT = frozenset(
    {"__dict__", "__weakref__", "__module__", "__doc__", "__slotnames__", "__firstlineno__"}
    | {"__static_attributes__", "__orig_bases__", "__parameters__", "_abc_impl"}
)


def _is_of_enum(name: str, value: Any, members: Any) -> bool:
    """Whether an attribute of an Enum is a member, or something that `enum` itself put there."""
    if name in members:
        return True
    return name.startswith("_") and (
        not isinstance(value, types.FunctionType | classmethod | staticmethod | property)
        or not travels_by_value(getattr(value, "__module__", None) or "builtins")
    )


def _annotation(part: Any) -> Any:
    return part if isinstance(part, type | str) else re.sub(r" at 0x[0-9a-f]+", "", repr(part))


def _all_names(code: types.CodeType) -> frozenset[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _all_names(constant)
    return frozenset(names)
