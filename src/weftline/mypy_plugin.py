"""For mypy, which takes no notice of what a decorator makes of a class: virtual actors have
`get_or_create`. Switched on by `plugins = ["weftline.mypy_plugin"]` in the settings of mypy."""

from collections.abc import Callable

from mypy.nodes import ARG_POS, ARG_STAR, ARG_STAR2, Argument, Var
from mypy.plugin import ClassDefContext, Plugin
from mypy.plugins.common import add_method_to_class
from mypy.types import AnyType, TypeOfAny

_DECORATOR = "weftline.api.actors.virtual_actor"
_ACTOR = "weftline.api.actors.VirtualActor"


def plugin(version: str) -> type[Plugin]:
    """What mypy asks a plugin for."""
    return _ActorPlugin


class _ActorPlugin(Plugin):
    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        return _add_get_or_create if fullname == _DECORATOR else None


def _add_get_or_create(context: ClassDefContext) -> bool:
    """The class method as mypy should know it; False when the handle's type is not ready yet."""
    actor = context.api.named_type_or_none(_ACTOR)
    if actor is None:
        return False
    anything = AnyType(TypeOfAny.explicit)
    text = context.api.named_type("builtins.str")
    arguments = [
        Argument(Var("actor_id", text), text, None, ARG_POS, pos_only=True),
        Argument(Var("args", anything), anything, None, ARG_STAR),
        Argument(Var("kwargs", anything), anything, None, ARG_STAR2),
    ]
    add_method_to_class(
        context.api, context.cls, "get_or_create", arguments, actor, is_classmethod=True
    )
    return True
