"""Classes as virtual actors: which are taken, what counts as a method, what carries one out."""

import pickle
from typing import Any

import pytest

from weftline.authoring.actor import call_method, check_class, methods_of
from weftline.workflow import ActorClass, virtual_actor


class Account:
    interest = 2

    def __init__(self, balance: int) -> None:
        self.balance = balance

    @staticmethod
    def rounded(amount: float) -> int:
        return int(amount)

    @classmethod
    def doubled(cls, amount: int) -> int:
        return cls.interest * amount

    def _put(self, amount: int) -> None:
        self.balance += amount

    def put(self, amount: float) -> int:
        self._put(self.doubled(self.rounded(amount)))
        return self.balance


def test_methods_of_the_class_itself_are_called_as_ever() -> None:
    assert {name for name, _ in methods_of(Account)} == {"__init__", "_put", "put"}
    result, state = call_method(Account, "put", {"balance": 1}, (1.5,), {})
    assert (result, state) == (3, {"balance": 3})


Wrapped = virtual_actor(Account)


def test_an_actor_class_is_passed_on_as_one() -> None:
    found = pickle.loads(pickle.dumps(Wrapped))
    assert isinstance(found, ActorClass)
    assert found.__wrapped__ is Account
    assert found.interest == Wrapped.interest == 2
    assert found.rounded(1.5) == 1


class Slotted:
    __slots__ = ("value",)


class Derived(Slotted):
    pass


@pytest.mark.parametrize("cls", [Slotted, Derived])
def test_a_state_in_slots_would_be_lost_and_is_refused(cls: type) -> None:
    with pytest.raises(ValueError, match=r"has __slots__ \(value\)"):
        check_class(cls)
    state = {"__getstate__": lambda self: self.value, "__setstate__": lambda self, state: None}
    check_class(type("WithState", (cls,), state))


@pytest.mark.parametrize("name", ["ready", "actor_id"])
def test_names_that_every_handle_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"defines '{name}'"):
        check_class(type("Actor", (), {name: lambda self: None}))


@pytest.mark.parametrize("wrong", [1, None, lambda: None])
def test_only_a_class_can_be_an_actor(wrong: Any) -> None:
    with pytest.raises(ValueError, match="is made of a class"):
        check_class(wrong)
