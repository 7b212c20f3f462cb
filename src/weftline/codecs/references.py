"""A value that is in the store already, handed on without being read."""


class ObjectRef:
    """Names a stored value: the text of a `core.values.Value`, and the objects it takes."""

    __slots__ = ("objects", "packed")

    def __init__(self, packed: bytes, objects: tuple[str, ...]) -> None:
        self.packed, self.objects = packed, objects
