"""Process settings: where they come from, which one wins, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weftline.config import Settings, folder_of, judge_url, load_settings
from weftline.errors import InvalidSettings

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load_settings` in an empty folder, with nothing but the given variables."""
    monkeypatch.setenv("HOME", str(tmp_path / "person"))

    def load(arguments: dict[str, Any] | None = None, **variables: str) -> Settings:
        return load_settings(arguments or {}, variables, tmp_path)

    return load


def test_the_default_home_is_in_the_home_of_the_person(load: Load, tmp_path: Path) -> None:
    home = tmp_path / "person" / ".weftline"
    assert load() == Settings(home=home, objects=home / "objects")
    assert not home.exists()


def test_weftline_home_moves_it(load: Load, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    assert load(WEFTLINE_HOME=str(home)) == Settings(home=home, objects=home / "objects")


def test_storage_and_database(load: Load, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert load({"storage": one}) == Settings(home=one, objects=one / "objects")
    assert load({"database": one}) == Settings(home=one, objects=one / "objects")
    both = Settings(home=other, objects=one / "objects")
    assert load({"storage": one, "database": other}) == both
    assert load(WEFTLINE_STORAGE=str(one), WEFTLINE_DATABASE=str(other)) == both
    # What says where storage is goes before what says where the home is.
    assert load({"storage": one}, WEFTLINE_HOME=str(other)).home == one


def test_file_urls_and_relative_paths(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("a b", "./a b", f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a b"):
        assert load({"storage": url}).home == tmp_path / "a b"
    assert load({"storage": "~/x"}).home == tmp_path / "person" / "x"
    assert folder_of(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "c:\\data", "http://x", "file://host/x", "file://", ""]
)
def test_what_is_no_place_is_refused_in_the_words_of_ray(load: Load, url: str) -> None:
    for name in ("storage", "database", "home"):
        with pytest.raises(ValueError) as caught:
            load({name: url})
        assert str(caught.value) == f"Invalid url: {url}."
    with pytest.raises(InvalidSettings):
        judge_url(url)


def test_a_url_is_judged_before_anything_else(load: Load) -> None:
    with pytest.raises(InvalidSettings, match=r"^Invalid url: ftp://x\.$"):
        load({"storage": "ftp://x", "num_cpus": "many"})


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket", "az://x"])
def test_an_object_store_cannot_hold_the_database(load: Load, url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"cannot hold the database.*database=<directory>"):
        load({"storage": url})
    with pytest.raises(InvalidSettings, match="not supported yet"):
        load({"storage": url, "database": tmp_path})


def test_a_file_is_no_home(load: Load, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings, match="is a file; the home of workflows must be a dir"):
        load({"storage": tmp_path / "file"})


def test_a_home_in_memory_has_no_children(load: Load, tmp_path: Path) -> None:
    expected = Settings(home=None, objects=None, executor="inline")
    assert load({"storage": "memory://"}) == expected
    assert load({"storage": "memory://", "executor": "inline"}) == expected
    found = load({"storage": "memory://", "executor": "threads"})
    assert found == Settings(home=None, objects=None, executor="threads")
    with pytest.raises(InvalidSettings, match="cannot be shared with children"):
        load({"storage": "memory://", "executor": "children"})
    with pytest.raises(InvalidSettings, match="both be in memory, or neither"):
        load({"storage": "memory://", "database": tmp_path})


def test_arguments_win_over_variables_and_those_over_the_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "weftline.toml").write_text(
        'home = "from file"\nnum_cpus = 1\nnum_gpus = 1\n[resources]\nlicence = 2\n'
    )
    found = load({"num_cpus": 3}, WEFTLINE_NUM_CPUS="2", WEFTLINE_NUM_GPUS="2")
    assert found.home == Path.cwd() / "from file"
    assert (found.num_cpus, found.num_gpus, found.resources) == (3.0, 2.0, {"licence": 2.0})
    assert load({"num_cpus": None}, WEFTLINE_NUM_CPUS="0.5").num_cpus == 0.5


def test_resources_as_a_variable_are_json(load: Load) -> None:
    assert load(WEFTLINE_RESOURCES='{"a": 1, "b": 0.5}').resources == {"a": 1.0, "b": 0.5}
    for wrong in ("a=1", "[1]", '{"a": "x"}', '{"a": -1}', '{"a": true}'):
        with pytest.raises(InvalidSettings, match="WEFTLINE_RESOURCES="):
            load(WEFTLINE_RESOURCES=wrong)


@pytest.mark.parametrize("wrong", ["many", -1, "nan", "inf", True, [], ""])
def test_a_number_that_is_none_is_refused(load: Load, wrong: Any) -> None:
    for name in ("num_cpus", "num_gpus"):
        with pytest.raises(InvalidSettings, match=f"^{name}="):
            load({name: wrong})


def test_an_unknown_executor_gets_a_hint(load: Load) -> None:
    with pytest.raises(InvalidSettings, match="children, inline, threads; did you mean 'children'"):
        load({"executor": "child"})


def test_all_problems_are_told_with_where_they_are(load: Load, tmp_path: Path) -> None:
    (tmp_path / "weftline.toml").write_text('num_gpus = "x"\n')
    with pytest.raises(InvalidSettings) as caught:
        load({"executor": "x"}, WEFTLINE_NUM_CPUS="x")
    for said in ("weftline.toml: num_gpus='x'", "WEFTLINE_NUM_CPUS='x'", "executor='x'"):
        assert said in str(caught.value)


def test_a_file_with_unknown_or_broken_settings_is_refused(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "weftline.toml"
    path.write_text("num_cpu = 1\n")
    with pytest.raises(InvalidSettings, match="unknown setting 'num_cpu'; did you mean 'num_cpus'"):
        load()
    path.write_text("num_cpus = \n")
    with pytest.raises(InvalidSettings, match=r"weftline\.toml"):
        load()
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidSettings, match=r"weftline\.toml"):
        load()


@pytest.mark.parametrize("given", ["3", 3])
def test_limits_on_workflows_are_whole_numbers(load: Load, given: Any) -> None:
    settings = load({"max_running_workflows": given, "max_pending_workflows": 0})
    assert (settings.max_running_workflows, settings.max_pending_workflows) == (3, 0)
    assert load(WEFTLINE_MAX_RUNNING_WORKFLOWS="-1").max_running_workflows == -1
    assert load().max_running_workflows is None


@pytest.mark.parametrize("given", ["many", 0, -2, 1.5, True, ""])
def test_a_limit_that_is_none_is_refused(load: Load, given: Any) -> None:
    with pytest.raises(InvalidSettings, match="at least 1, or -1 for no limit"):
        load({"max_running_workflows": given})


def test_how_long_a_controller_stays_is_a_number_of_seconds(load: Load) -> None:
    assert load().controller_idle_s == 60.0
    assert load(WEFTLINE_CONTROLLER_IDLE_S="0.5").controller_idle_s == 0.5
