"""How classes and type variables are taken apart, so that every process makes the same ones."""

from typing import Any

from msgspec import NODEFAULT

from weftline.code.fingerprint import STRUCT_OPTIONS, Meaning, annotation
from weftline.code.origin import find_by_name
from weftline.code.pickles import cloudpickle
from weftline.code.rebuild import build_class, build_struct, build_typevar, fill_class


def reduce_class(cls: type) -> Any:
    """What `reducer_override` returns for a class by value."""
    if cls.__module__ == "builtins":  # NoneType, function and others without a name there
        return cloudpickle()._class_reduce(cls)
    if "<locals>" not in cls.__qualname__:
        _identify(cls, (cls.__qualname__, cls))
    if hasattr(cls, "__struct_config__"):
        make, arguments, state = _struct_parts(cls)
    else:
        make, arguments, state, *_ = cloudpickle()._dynamic_class_reduce(cls)
    start = (cls.__module__, cls.__qualname__, make, arguments)
    return build_class, start, state, None, None, fill_class


def reduce_typevar(thing: Any) -> Any:
    """What `reducer_override` returns for a type variable by value."""
    is_named = find_by_name(thing.__module__, thing.__name__) is thing
    if is_named:
        limits = map(annotation, (thing.__bound__, *thing.__constraints__))
        _identify(thing, (thing.__name__, thing.__covariant__, thing.__contravariant__, *limits))
    arguments = cloudpickle()._decompose_typevar(thing)
    return build_typevar, (thing.__module__ if is_named else "", thing.__name__, arguments)


def _identify(thing: Any, meant: tuple[Any, ...]) -> None:
    """Make the identifier of a class, or type variable, equal in every process that has it."""
    library = cloudpickle()
    by_class = library._DYNAMIC_CLASS_TRACKER_BY_CLASS
    if thing in by_class:
        return
    meaning = Meaning(is_strict=True)
    meaning.add((thing.__module__, *meant))
    if meaning.is_complete:
        tracker_id = meaning.hexdigest()[:32]
        with library._DYNAMIC_CLASS_TRACKER_LOCK:
            by_class[thing] = tracker_id
            library._DYNAMIC_CLASS_TRACKER_BY_ID[tracker_id] = thing


def _struct_parts(cls: Any) -> tuple[Any, Any, Any]:
    """How to build a msgspec Struct: it needs its fields at once, not afterwards."""
    import inspect

    annotations = dict(vars(cls).get("__annotations__", {}))
    config = cls.__struct_config__
    options = {name: getattr(config, name) for name in STRUCT_OPTIONS if hasattr(config, name)}
    parameters = inspect.signature(cls).parameters
    own = [parameters[name] for name in annotations if name in parameters]
    options["kw_only"] = bool(own) and all(each.kind is each.KEYWORD_ONLY for each in own)
    namespace = {
        "__module__": cls.__module__,
        "__annotations__": annotations,
        "__post_init__": "__post_init__" in vars(cls),
    }
    arguments = (
        *(type(cls), cls.__name__, cls.__bases__, namespace),
        *(_struct_fields(cls, annotations), options),
        *(cloudpickle()._get_or_create_tracker_id(cls), None),
    )
    state, slots = cloudpickle()._class_getstate(cls)
    made_anew = ("__annotations__", "__slots__", "__module__", "__match_args__")
    for name in (*made_anew, *cls.__struct_fields__):
        state.pop(name, None)
    return build_struct, arguments, (state, slots)


def _struct_fields(cls: Any, annotations: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of a Struct's own fields, where they have any."""
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
    return fields
