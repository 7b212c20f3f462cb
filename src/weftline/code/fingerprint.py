"""What code means, as a hash that is equal in every process as long as the source is."""

import hashlib
import pickle
import re
import types
from functools import partial
from typing import Any

from weftline.code.captures import CONSTANT_KINDS, MISSING, attributes, captured, code_within
from weftline.code.origin import is_installed, travels_by_value


def fingerprint(thing: Any) -> str:
    """16 hex digits over what code means: equal in every process as long as the source is.

    Takes in what the code calls in the user's own modules, and the plain values it refers to;
    leaves out names of files, numbers of lines and docstrings.
    """
    meaning = Meaning()
    meaning.add(thing)
    return meaning.hexdigest()[:16]


class Meaning:
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
        elif kind in CONSTANT_KINDS or kind is range:
            self._write(kind.__name__, repr(thing))
        elif thing is MISSING:
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
            if is_installed(thing) or thing.__module__ == "builtins":
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
        elif (parts := code_within(thing)) is not None:
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
        for kind, key, value in captured(function):
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
                self._add_items((key, annotation(part)) for key, part in value.items())
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
            self._write(*(repr(getattr(config, name, None)) for name in STRUCT_OPTIONS))
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
        elif not is_installed(kind):
            self.add(attributes(thing))

    def _apart(self, thing: Any) -> str:
        meaning = Meaning(self._is_strict)
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


def annotation(part: Any) -> Any:
    """What is meant by an annotation, without what differs from process to process."""
    return part if isinstance(part, type | str) else re.sub(r" at 0x[0-9a-f]+", "", repr(part))


def _all_names(code: types.CodeType) -> frozenset[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _all_names(constant)
    return frozenset(names)


# What can be set for a msgspec Struct, as `__struct_config__` has it.
STRUCT_OPTIONS = (
    *("frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults"),
    *("forbid_unknown_fields", "weakref", "dict", "cache_hash", "tag_field", "tag"),
)
