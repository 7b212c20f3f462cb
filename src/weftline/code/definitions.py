"""The pickler that writes code itself, where `pickle` would write its name."""

import pickle
import types
from collections import OrderedDict
from functools import cached_property
from typing import Any, TypeVar

from weftline.code.captures import LRU_CACHE, module_state
from weftline.code.classes import reduce_class, reduce_typevar
from weftline.code.origin import (
    find_by_name,
    is_importable,
    is_installed,
    is_wrapper,
    travels_by_value,
)
from weftline.code.pickles import cloudpickle
from weftline.code.rebuild import (
    build_cached_property,
    build_code,
    build_lru_cache,
    build_module,
    fill_module,
    import_wrapped,
)
from weftline.version import PYTHON

CODE_KINDS = frozenset(
    {types.FunctionType, types.ModuleType, types.MethodType, TypeVar} | {cached_property, LRU_CACHE}
)
# Not files and memoryviews, which cloudpickle makes into something else.
CLOUDPICKLE_KINDS = frozenset(
    {classmethod, staticmethod, property, types.CellType}
    | {types.CodeType, types.GetSetDescriptorType, types.MappingProxyType}
    | {type({}.keys()), type({}.values()), type({}.items())}
    | {type(OrderedDict().keys()), type(OrderedDict().values()), type(OrderedDict().items())}
)


class DefinitionPickler(pickle.Pickler):
    """Writes functions, classes and modules by value into the pickle itself."""

    by_reference: frozenset[int] = frozenset()  # by `id`: what of the user's code goes by name
    prefers_reference = False

    @cached_property
    def globals_ref(self) -> dict[int, dict[str, Any]]:
        """The globals that functions of one pickle share; cloudpickle fills it."""
        return {}

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if kind is types.CodeType:
            return build_code, (PYTHON, *cloudpickle()._code_reduce(thing)[1])
        if issubclass(kind, type):
            return NotImplemented if self._goes_by_name(thing) else self.reduce_class(thing)
        if kind in CODE_KINDS:
            return self._reduce_code(kind, thing)
        reduce = cloudpickle().Pickler._dispatch_table.get(kind)
        return NotImplemented if reduce is None else reduce(thing)

    def _goes_by_name(self, thing: Any) -> bool:
        return is_installed(thing) or self._is_chosen(thing)

    def _is_chosen(self, thing: Any) -> bool:
        return id(thing) in self.by_reference or (self.prefers_reference and is_importable(thing))

    def reduce_class(self, cls: type) -> Any:
        return reduce_class(cls)

    def _reduce_code(self, kind: type, thing: Any) -> Any:
        if kind is types.FunctionType:
            if not self._goes_by_name(thing):
                return cloudpickle().Pickler._dynamic_function_reduce(self, thing)
            if is_wrapper(find_by_name(thing.__module__, thing.__qualname__), thing):
                return import_wrapped, (thing.__module__, thing.__qualname__)
            return NotImplemented
        if kind is types.ModuleType:
            return self._reduce_module(thing)
        if kind is types.MethodType:
            return cloudpickle()._method_reduce(thing)
        if kind is TypeVar:
            if not travels_by_value(thing.__module__ or ""):
                return NotImplemented
            return reduce_typevar(thing)
        if kind is cached_property:
            return build_cached_property, (thing.func, thing.attrname)
        if self._goes_by_name(thing):
            return NotImplemented
        return build_lru_cache, (thing.__wrapped__, thing.cache_parameters())

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if not travels_by_value(name) or self._is_chosen(module):
            return cloudpickle().subimport, (name,)
        return build_module, (name,), module_state(module), None, None, fill_module

    def _function_getnewargs(self, function: types.FunctionType) -> Any:
        return cloudpickle().Pickler._function_getnewargs(self, function)
