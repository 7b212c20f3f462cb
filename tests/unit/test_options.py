"""Options of steps: what is accepted, what is refused and how it is told, and how they merge."""

from typing import Any

import pytest

from weftline.authoring.options import KNOWN, OF_RAY, Options, problem_of_metadata, problems_of
from weftline.core.policy import Placement, Policy
from weftline.errors import InvalidOption


def merged(*layers: dict[str, Any]) -> Options:
    options = Options()
    for layer in layers:
        options = options.merged(layer)
    return options


def test_nothing_given_is_one_try_on_one_cpu() -> None:
    assert merged({}) == Options()
    assert (Options().policy.tries, Options().placement.num_cpus) == (1, 1.0)
    assert not Options().policy.catch


def test_every_option_finds_its_place() -> None:
    options = merged(
        {
            "name": "step",
            "max_retries": 3,
            "catch_exceptions": True,
            "metadata": {"a": [1]},
            "num_cpus": 2,
            "num_gpus": 0.5,
            "resources": {"b": 2, "a": 1.5},
            "memory": 2e8,
            "runtime_env": {"env_vars": {"Y": "2", "X": "1"}},
            "num_returns": 1,
            "timeout_s": 5,
            "retry_delay_s": 1,
            "retry_backoff": 2,
            "retry_jitter": 0.5,
            "retry_on": (ValueError, KeyError),
        }
    )
    assert options == Options(
        name="step",
        policy=Policy(
            tries=3,
            retry_delay_s=1.0,
            retry_backoff=2.0,
            retry_jitter=0.5,
            retry_selected=True,
            timeout_s=5,
            catch=True,
        ),
        placement=Placement(
            num_cpus=2.0,
            num_gpus=0.5,
            resources=(("a", 1.5), ("b", 2.0)),
            env_vars=(("X", "1"), ("Y", "2")),
            memory=200_000_000,
        ),
        metadata={"a": [1]},
        retry_on=(ValueError, KeyError),
    )


def test_later_options_override_and_dicts_are_merged_key_by_key() -> None:
    options = merged(
        {
            "name": "first",
            "max_retries": 2,
            "metadata": {"a": 1, "b": 1},
            "resources": {"x": 1, "y": 1},
            "runtime_env": {"env_vars": {"A": "1", "B": "1"}},
        },
        {
            "name": "second",
            "num_cpus": 0,
            "metadata": {"b": 2},
            "resources": {"y": 2, "z": 3},
            "runtime_env": {"env_vars": {"B": "2"}},
        },
    )
    assert (options.name, options.policy.tries, options.placement.num_cpus) == ("second", 2, 0.0)
    assert options.metadata == {"a": 1, "b": 2}
    assert options.placement.resources == (("x", 1.0), ("y", 2.0), ("z", 3.0))
    assert options.placement.env_vars == (("A", "1"), ("B", "2"))


def test_what_is_given_is_not_changed() -> None:
    first: dict[str, Any] = {"metadata": {"a": 1}, "resources": {"x": 1}}
    options = merged(first, {"metadata": {"b": 2}, "resources": {"x": 2}})
    assert first == {"metadata": {"a": 1}, "resources": {"x": 1}}
    assert options.metadata == {"a": 1, "b": 2}


def test_a_resource_of_nothing_takes_one_away() -> None:
    assert merged({"resources": {"x": 1}}, {"resources": {"x": 0}}).placement.resources == ()


def test_options_can_be_taken_back() -> None:
    given = {"timeout_s": 1, "catch_exceptions": True, "retry_on": ValueError}
    options = merged(given, {"timeout_s": None, "catch_exceptions": False, "retry_on": None})
    assert options == Options()


@pytest.mark.parametrize("given", [ValueError, (ValueError,), [ValueError]])
def test_retry_on_is_a_class_or_several(given: Any) -> None:
    options = merged({"retry_on": given})
    assert options.retry_on == (ValueError,)
    assert options.policy.retry_selected


WRONG: dict[str, list[Any]] = {
    "name": ["", 1, None, b"x"],
    "max_retries": [0, -1, 1.0, "3", None, True],
    "catch_exceptions": [1, None, "yes"],
    "metadata": [None, [], "x", {"a": {1}}, {"a": float("inf")}, {(1,): 2}],
    "num_cpus": [-1, "1", None, True, float("nan"), float("inf")],
    "num_gpus": [-0.5, "all", None, False],
    "memory": [0, 0.5, -1, "1GB", None, True, 2**63, float("inf"), float("nan")],
    "resources": [None, ["x"], {"x": -1}, {1: 1}, {"x": "1"}, {"x": True}],
    "runtime_env": [
        None,
        "x",
        {"pip": ["numpy"]},
        {"env_vars": {"A": 1}},
        {"env_vars": {1: "A"}},
        {"env_vars": {"": "x"}},
        {"env_vars": {"A=B": "x"}},
        {"env_vars": {"A": "\0"}},
        {"env_vars": ["A"]},
    ],
    "num_returns": [0, 2, None, "1"],
    "timeout_s": [0, -1, "1", True, float("inf")],
    "retry_delay_s": [-1, "1", None, float("inf")],
    "retry_backoff": [0.5, 0, "2", None],
    "retry_jitter": [-0.1, "x", None],
    "retry_on": [1, "ValueError", (ValueError, 1), int, [int]],
    "checkpoint": [0, 1, "no", []],
    "allow_inplace": [0, 1, None, "yes"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    problems = problems_of({name: value})
    assert len(problems) == 1
    assert problems[0].startswith(f"option {name}={value!r} ")
    with pytest.raises(InvalidOption, match=f"^option {name}="):
        Options().merged({name: value})


def test_every_option_is_known_and_has_wrong_values() -> None:
    assert set(WRONG) == set(KNOWN)


@pytest.mark.parametrize("name", sorted(OF_RAY))
def test_other_options_of_ray_are_refused_with_what_to_do(name: str) -> None:
    (problem,) = problems_of({name: 1})
    assert problem == f"option {name!r} of Ray is not supported: {OF_RAY[name]}"
    assert name not in KNOWN


def test_an_unknown_option_gets_a_hint_where_one_is_near() -> None:
    (problem,) = problems_of({"retries": 1})
    assert problem == "unknown step option 'retries'; did you mean 'max_retries'?"
    assert problems_of({"quux": 1}) == ["unknown step option 'quux'"]


def test_all_problems_are_told_at_once() -> None:
    given = {"quux": 1, "max_calls": 1, "max_retries": 0, "name": "fine"}
    with pytest.raises(InvalidOption) as caught:
        Options().merged(given)
    assert len(problems_of(given)) == 3
    assert str(caught.value) == "; ".join(problems_of(given))


def test_metadata_that_json_can_hold_is_fine() -> None:
    assert problem_of_metadata({}) is None
    assert problem_of_metadata({"a": [1, 2.5, None, True, {"b": "c"}]}) is None
    deep: dict[str, Any] = {}
    deep["itself"] = deep
    assert "what JSON can hold" in str(problem_of_metadata(deep))
