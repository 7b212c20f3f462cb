"""Each step has its own name, also after the steps before it were laid down."""

from random import Random

import pytest

from weftline.core.names import Names, with_suffix


def given(names: Names, *asked: str, first: int = 0) -> list[str]:
    return [with_suffix(name, names.add(name, first + n)) for n, name in enumerate(asked)]


def test_the_first_gets_the_name_bare_and_the_others_count_up() -> None:
    names = Names()
    assert given(names, "a", "b", "a", "a") == ["a", "b", "a_1", "a_2"]
    assert [names.find(name) for name in ("a", "a_1", "a_2", "a_3")] == [0, 2, 3, None]


def test_a_name_that_looks_like_one_with_a_suffix_keeps_its_place() -> None:
    assert given(Names(), "a_1", "a", "a", "a_1") == ["a_1", "a", "a_2", "a_1_1"]
    assert given(Names(), "a", "a", "a_1") == ["a", "a_1", "a_1_1"]


@pytest.mark.parametrize("name", ["a_", "a_0", "a_01", "a_x", "_1", "a_٣", "a_" + "9" * 5_000])
def test_what_is_no_suffix_is_part_of_the_name(name: str) -> None:
    names = Names()
    given(names, "a", "a", "")
    assert names.find(name) is None
    assert given(names, name, first=3) == [name]
    assert names.find(name) == 3


def test_who_goes_on_counts_on() -> None:
    names = Names()
    given(names, "a", "b", "a", "a_1")
    after = Names(names.counts())
    assert [after.find(name) for name in ("a", "b", "a_1", "a_1_1")] == [None] * 4
    assert given(after, "a", "a_1", "a_2", "b", "c") == ["a_2", "a_1_2", "a_2_1", "b_1", "c"]
    assert after.find("a_2") == 0


def test_names_are_the_same_wherever_the_cut_is_made() -> None:
    for seed in range(300):
        random = Random(seed)
        asked = [random.choice(["a", "b", "a_1", "a_2", "a_1_1", "b_1"]) for _ in range(14)]
        whole = given(Names(), *asked)
        assert len(set(whole)) == len(asked)
        names, found = Names(), []
        for name in asked:
            if random.random() < 0.3:
                names = Names(names.counts())
            found += given(names, name)
        assert found == whole
