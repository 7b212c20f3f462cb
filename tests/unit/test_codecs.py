"""Values come back equal and of the same type, whichever codec they take."""

import binascii
import dataclasses
import datetime
import decimal
import json
import math
import pickletools
import re
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.local_upkeep import LocalUpkeep
from weftline.adapters.objects.memory import MemoryObjectStore, MemoryUpkeep
from weftline.codecs.arguments import Captured, capture_arguments, current_capture, load_arguments
from weftline.codecs.exceptions import decode_error, encode_error
from weftline.codecs.rebuild import hole
from weftline.codecs.values import decode, encode
from weftline.core.values import (
    INLINE_LIMIT,
    Caught,
    Error,
    Field,
    Inline,
    ListOf,
    Object,
    pack,
    unpack,
)
from weftline.errors import (
    NewerHome,
    NotPicklable,
    ObjectDamaged,
    ObjectNotFound,
    StorageFull,
    WorkflowExecutionError,
)
from weftline.ports.objects import ObjectStore


@pytest.fixture
def objects() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return MemoryObjectStore() if request.param == "memory" else LocalObjectStore(tmp_path / "o")


def again(value: Any, objects: ObjectStore) -> Any:
    return decode(encode(value, objects).packed, objects)


def codec_of(value: Any, objects: ObjectStore) -> str:
    packed = unpack(encode(value, objects).packed)
    assert isinstance(packed, Inline | Object)
    return packed.codec


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down; a NaN equals itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (left == right and math.copysign(1, left) == math.copysign(1, right)) or (
            math.isnan(left) and math.isnan(right)
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    return bool(left == right)


# -- JSON ---------------------------------------------------------------------------------------

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None))
)  # with NaN, infinities, numbers of any size and lone surrogates
keys = st.text(max_size=5) | st.integers() | st.none()
values = st.recursive(
    scalars | st.binary(max_size=20) | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(keys, inner, max_size=5)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=20,
)


@given(values)
def test_any_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    objects = MemoryObjectStore()
    encoded = encode(value, objects)
    assert encoded.objects == ()
    assert same(decode(encoded.packed, objects), value)
    assert pack(unpack(encoded.packed)) == encoded.packed
    assert (encoded.preview is None) == encoded.packed.startswith(b'["inline","json"')


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 2**63 - 1, -(2**63), "", "é\0\u2028", [], {}),
        *(
            1.0,
            0.1,
            1e16,
            1e22,
            -0.0,
            5e-324,
            1.7976931348623157e308,
            2.0**63,
            123456789012345678.0,
        ),
        *([1, "a", None, True, 1.5], {"a": [1], "b": {"c": []}}, [[1], [1]]),
    ],
    ids=repr,
)
def test_what_json_says_exactly_is_json(value: Any, objects: MemoryObjectStore) -> None:
    encoded = encode(value, objects)
    assert codec_of(value, objects) == "json"
    assert encoded.preview is None
    assert same(decode(encoded.packed, objects), value)


class Text(str):
    __slots__ = ()


class Name(NamedTuple):
    first: str


shared: list[int] = [1]


@pytest.mark.parametrize(
    "value",
    [
        *((1,), [(1,)], {1: 2}, {"a": {None: 1}}, 2**63, [2**63], -(2**63) - 1),
        *(math.inf, [math.inf], {"a": -math.inf}, "\ud800", ["\ud800"], {"\ud800": 1}),
        *(b"ab", bytearray(b"ab"), Text("a"), [Text("a")], {Text("a"): 1}, Name("a")),
        *(OrderedDict(a=1), {1, 2}, 1 + 2j, [shared, shared], {"a": shared, "b": [shared]}),
        *(datetime.date(2020, 1, 1), decimal.Decimal("1.10"), deque([1])),
    ],
    ids=ascii,
)
def test_what_json_cannot_say_exactly_is_pickled(value: Any, objects: MemoryObjectStore) -> None:
    assert codec_of(value, objects) == "pickle"
    assert same(again(value, objects), value)


def test_sharing_and_circles_within_a_value_are_kept(objects: MemoryObjectStore) -> None:
    left, right = again([shared, shared], objects)
    assert left is right
    circle: list[Any] = [1]
    circle.append(circle)
    came = again(circle, objects)
    assert came[1] is came
    tree: dict[str, Any] = {}
    tree["self"] = tree
    came = again(tree, objects)
    assert came["self"] is came


def test_a_value_of_any_depth_that_can_be_pickled_comes_back(objects: MemoryObjectStore) -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    assert codec_of(nested(50), objects) == "json"
    assert codec_of(nested(300), objects) == "pickle"
    for depth in (50, 100, 101, 300):
        assert again(nested(depth), objects) == nested(depth)
    with pytest.raises(NotPicklable, match="nested too deeply"):
        encode(nested(100_000), objects)


def test_every_decode_gives_a_value_of_its_own(store: ObjectStore) -> None:
    for value in ([1, [2]], [(1,), [2]], list(range(50_000))):
        packed = encode(value, store).packed
        first, second = decode(packed, store), decode(packed, store)
        first[1] = "changed"
        assert second == value == decode(packed, store)


@pytest.mark.parametrize("value", ["x" * INLINE_LIMIT * 2, [0.5] * INLINE_LIMIT, b"x" * 10**5])
def test_large_values_are_objects(value: Any, store: ObjectStore) -> None:
    encoded = encode(value, store)
    found = unpack(encoded.packed)
    assert isinstance(found, Object)
    assert encoded.objects == (found.hash,)
    assert found.size == len(store.read(found.hash))
    assert decode(encoded.packed, store) == value
    assert encoded.preview is not None
    assert len(encoded.preview) <= 200


def test_the_limit_is_counted_in_bytes_of_content(objects: MemoryObjectStore) -> None:
    assert isinstance(unpack(encode("x" * (INLINE_LIMIT - 2), objects).packed), Inline)
    assert isinstance(unpack(encode("x" * (INLINE_LIMIT - 1), objects).packed), Object)
    assert isinstance(unpack(encode("é" * (INLINE_LIMIT // 2), objects).packed), Object)


def volatile_in(store: ObjectStore) -> set[str]:
    if isinstance(store, MemoryObjectStore):
        return {found.name for found in MemoryUpkeep(store).objects() if found.is_volatile}
    assert isinstance(store, LocalObjectStore)
    return {found.name for found in LocalUpkeep(store).objects() if found.is_volatile}


@pytest.mark.parametrize("value", ["x" * 10**5, b"x" * 10**5, (1, "x" * 10**5)], ids=type)
def test_a_large_value_need_not_be_durable(value: Any, store: ObjectStore) -> None:
    encoded = encode(value, store, durable=False)
    assert encoded.is_volatile
    assert volatile_in(store) == set(encoded.objects)
    assert decode(encoded.packed, store) == value
    again = encode(value, store)
    assert not again.is_volatile
    assert again.packed == encoded.packed


def test_what_lives_in_the_journal_is_never_volatile(store: ObjectStore) -> None:
    for value in (None, True, 3, "x", [1], (1, 2), b"x"):
        encoded = encode(value, store, durable=False)
        assert not encoded.is_volatile
        assert encoded == encode(value, store)


def test_definitions_of_classes_are_durable_where_the_value_is_not(store: ObjectStore) -> None:
    class Own:
        def __init__(self) -> None:
            self.text = "x" * 100_000

    encoded = encode(Own(), store, durable=False)
    name, *definitions = encoded.objects
    assert definitions
    assert volatile_in(store) == {name}


# -- arrays -------------------------------------------------------------------------------------

np = pytest.importorskip("numpy")
ARRAYS = {
    "vector": np.arange(10),
    "matrix": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": np.arange(100)[::3],
    "reversed": np.arange(10)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "read only": np.frombuffer(b"12345678", "u1"),
    "no dimension": np.array(1.5),
    "empty": np.zeros((0, 3)),
    "empty fortran": np.zeros((3, 0, 2), order="F"),
    "bool": np.array([True, False]),
    "half": np.arange(3, dtype="f2"),
    "long double": np.arange(3, dtype=np.longdouble),
    "complex": np.array([1 + 2j]),
    "big-endian": np.arange(3, dtype=">i4"),
    "text": np.array(["a", "bcd", "é"]),
    "bytes": np.array([b"a", b"bc"]),
    "void": np.array([b"ab"], "V2"),
    "dates": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "durations": np.array([1, 2], "m8[ms]"),
    "not a number": np.array([math.nan, math.inf, -0.0]),
    "large": np.arange(100_000.0).reshape(100, 1000),
    "large fortran": np.asfortranarray(np.arange(100_000.0).reshape(100, 1000)),
    "large strided": np.arange(400_000)[::2].reshape(1000, 200)[:, ::2],
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_come_back_equal_writable_and_in_their_order(kind: str, store: ObjectStore) -> None:
    array = ARRAYS[kind]
    assert codec_of(array, store) == "npy"
    came = again(array, store)
    assert type(came) is np.ndarray
    assert came.dtype == array.dtype
    assert came.dtype.str == array.dtype.str
    assert came.shape == array.shape
    assert came.tobytes() == array.tobytes()
    assert came.flags.writeable
    if array.flags.f_contiguous:
        assert came.flags.f_contiguous
    if array.size:
        came.flat[0] = came.flat[-1]
        assert again(array, store).tobytes() == array.tobytes()


class Matrix(np.ndarray):  # type: ignore[misc, name-defined]
    pass


@pytest.mark.parametrize(
    "array",
    [
        np.array([None, "a"], dtype=object),
        np.zeros(3).view(Matrix),
        np.zeros(3, [("a", "i4"), ("b", "f8", 2)]),
        np.zeros(3, np.dtype([("a", "u1"), ("b", "f8")], align=True)),
        np.zeros(3, np.dtype("f8", metadata={"unit": "m"})),
        np.zeros(3, "V0"),
        np.array(["a", "bc"], dtype=np.dtypes.StringDType()),
        np.ma.masked_array([1, 2], [True, False]),
        np.float64(1.5),
        np.int64(3),
        np.datetime64("2020-01-01"),
    ],
    ids=lambda array: repr(array)[:40],
)
def test_what_npy_does_not_keep_is_pickled(array: Any, objects: MemoryObjectStore) -> None:
    assert codec_of(array, objects) == "pickle"
    came = again(array, objects)
    assert type(came) is type(array)
    assert came.dtype == array.dtype
    assert came.dtype.isalignedstruct == array.dtype.isalignedstruct
    assert (came.dtype.metadata or {}) == (array.dtype.metadata or {})
    assert repr(came) == repr(array)


def test_an_npy_object_is_a_file_that_numpy_reads(objects: MemoryObjectStore) -> None:
    found = unpack(encode(ARRAYS["large fortran"], objects).packed)
    assert isinstance(found, Object)
    stream = BytesIO(objects.read(found.hash))
    loaded = np.lib.format.read_array(stream)
    assert (loaded == ARRAYS["large fortran"]).all()


def test_large_arrays_are_not_copied_when_they_are_read(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    packed = encode(np.zeros((1000, 100)), objects).packed
    base = decode(packed, objects)
    while getattr(base, "base", None) is not None:
        base = base.base
    assert isinstance(base, memoryview)
    assert type(base.obj).__name__ == "mmap"


@dataclasses.dataclass
class Batch:
    features: Any
    labels: Any
    note: str = ""


def test_arrays_within_a_value_lie_beside_the_pickle(store: ObjectStore) -> None:
    batch = Batch(np.arange(50_000.0), np.arange(20_000, dtype="i2"), "n")
    small = np.arange(5)
    value = {"batch": batch, "same": batch.features, "small": small, "bytes": b"x" * 40_000}
    encoded = encode(value, store)
    found = unpack(encoded.packed)
    assert isinstance(found, Object)
    assert found.codec == "pickle5"
    came = decode(encoded.packed, store)
    assert type(came["batch"]) is Batch
    assert came["same"] is came["batch"].features
    assert came["bytes"] == value["bytes"]
    for left, right in (
        (came["batch"].features, batch.features),
        (came["batch"].labels, batch.labels),
        (came["small"], small),
    ):
        assert left.dtype == right.dtype
        assert (left == right).all()
        assert left.flags.writeable
        assert left.flags.aligned
    came["same"][0] = 7
    assert decode(encoded.packed, store)["same"][0] == 0


def test_numpy_is_not_imported_for_values_without_it() -> None:
    script = (
        "import sys\n"
        "from weftline.codecs.arguments import capture_arguments\n"
        "from weftline.codecs.exceptions import encode_error\n"
        "from weftline.codecs.values import decode, encode\n"
        "from weftline.adapters.objects.memory import MemoryObjectStore\n"
        "from fractions import Fraction\n"
        "m = MemoryObjectStore()\n"
        "for v in (1, [1.5], (1, {2}), Fraction(1, 2), ValueError('x')):\n"
        "    decode(encode(v, m).packed, m)\n"
        "capture_arguments((1, 'a', (2,)), {'k': [1]}, m, lambda _: False)\n"
        "encode_error(ValueError('x'), m)\n"
        "print([n for n in ('numpy', 'pandas', 'pyarrow', 'cloudpickle') if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# -- tables -------------------------------------------------------------------------------------


def pandas_frames() -> dict[str, tuple[str, Any]]:
    pd = pytest.importorskip("pandas")
    plain = pd.DataFrame(
        {
            "i": np.arange(3, dtype="i2"),
            "f": np.array([1.5, math.nan, -0.0]),
            "b": np.array([True, False, True]),
            "t": np.array(["2020-01-01", "NaT", "2021-01-01"], "M8[us]"),
            "d": np.array([1, 2, 3], "m8[s]"),
        }
    )
    attrs = plain.copy()
    attrs.attrs["unit"] = "m"
    named = plain.copy()
    named.columns.name = "columns"
    return {
        "plain": ("arrow:pandas", plain),
        "range": ("arrow:pandas", plain.set_axis(pd.RangeIndex(10, 4, -2))),
        "no rows": ("arrow:pandas", plain.iloc[:0]),
        "large": (
            "arrow:pandas",
            pd.DataFrame({"x": np.arange(100_000.0), "y": np.arange(100_000)}),
        ),
        "attributes": ("pickle", attrs),
        "named columns": ("pickle", named),
        "index": ("pickle", plain.set_axis(["x", "y", "z"])),
        "named index": ("pickle", plain.rename_axis("n")),
        "text": ("pickle", pd.DataFrame({"a": ["x", None]})),
        "objects": ("pickle", pd.DataFrame({"a": [[1], {2: 3}]}, dtype=object)),
        "categories": ("pickle", pd.DataFrame({"a": pd.Categorical(["x", "y", "x"])})),
        "nullable": ("pickle", pd.DataFrame({"a": pd.array([1, None], "Int64")})),
        "zoned": ("pickle", pd.DataFrame({"a": pd.to_datetime(["2020-01-01"], utc=True)})),
        "numbered columns": ("pickle", pd.DataFrame({0: [1], 1: [2]})),
        "two of a name": ("pickle", pd.DataFrame([[1, 2]], columns=["a", "a"])),
        "levels": ("pickle", pd.DataFrame({("a", "b"): [1]})),
        "no columns": ("pickle", pd.DataFrame(index=pd.RangeIndex(3))),
    }


@pytest.mark.parametrize("kind", pandas_frames())
def test_pandas_frames_come_back_exactly(kind: str, store: ObjectStore) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    codec, frame = pandas_frames()[kind]
    assert codec_of(frame, store) == codec
    came = again(frame, store)
    pd.testing.assert_frame_equal(came, frame, check_exact=True, check_freq=True)
    assert type(came.index) is type(frame.index)
    assert type(came.columns) is type(frame.columns)
    assert came.attrs == frame.attrs
    if codec == "arrow:pandas" and len(came):
        came.iloc[0, 0] = 5
        pd.testing.assert_frame_equal(again(frame, store), frame)


def polars_frames() -> dict[str, tuple[str, Any]]:
    pl = pytest.importorskip("polars")
    day = datetime.datetime.fromisoformat("2020-01-01T12:00")
    plain = pl.DataFrame(
        {
            "i": [1, None, 3],
            "f": [1.5, math.nan, None],
            "s": ["a", None, "é"],
            "b": [b"x", None, b""],
            "t": [day, None, day],
            "d": [datetime.timedelta(1), None, datetime.timedelta(2)],
            "l": [[1], None, []],
            "r": [{"x": 1, "y": "a"}, {"x": None, "y": None}, {"x": 2, "y": "b"}],
        }
    )
    return {
        "plain": ("arrow:polars", plain),
        "zoned": ("arrow:polars", plain.select(pl.col("t").dt.replace_time_zone("Europe/Paris"))),
        "small types": (
            "arrow:polars",
            plain.select(pl.col("i").cast(pl.Int8), pl.col("f").cast(pl.Float32)),
        ),
        "no rows": ("arrow:polars", plain.head(0)),
        "chunks": ("arrow:polars", pl.concat([plain, plain], rechunk=False)),
        "large": ("arrow:polars", pl.DataFrame({"x": range(100_000)})),
        "categories": ("pickle", pl.DataFrame({"a": pl.Series(["x", "y"], dtype=pl.Categorical)})),
        "enum": ("pickle", pl.DataFrame({"a": pl.Series(["x"], dtype=pl.Enum(["x", "y"]))})),
        "decimal": ("pickle", pl.DataFrame({"a": [decimal.Decimal("1.10")]})),
        "nothing": ("pickle", pl.DataFrame()),
    }


@pytest.mark.parametrize("kind", polars_frames())
def test_polars_frames_come_back_exactly(kind: str, store: ObjectStore) -> None:
    pl = pytest.importorskip("polars")
    testing = pytest.importorskip("polars.testing")
    codec, frame = polars_frames()[kind]
    assert codec_of(frame, store) == codec
    came = again(frame, store)
    assert type(came) is pl.DataFrame
    assert came.schema == frame.schema
    testing.assert_frame_equal(came, frame, check_exact=True)


def arrow_tables() -> dict[str, tuple[str, Any]]:
    pa = pytest.importorskip("pyarrow")
    plain = pa.table(
        {"i": [1, None, 3], "s": ["a", None, "c"], "l": [[1], None, []], "m": [{"k": 1}] * 3}
    )
    marked = plain.replace_schema_metadata({"unit": "m"})
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    return {
        "plain": ("arrow:pyarrow", plain),
        "marked": ("arrow:pyarrow", marked),
        "slice": ("arrow:pyarrow", plain.slice(1, 1)),
        "no rows": ("arrow:pyarrow", plain.slice(0, 0)),
        "chunks": ("arrow:pyarrow", pa.concat_tables([plain, plain])),
        "dictionary": ("arrow:pyarrow", pa.table({"w": words})),
        "large": ("arrow:pyarrow", pa.table({"x": np.arange(100_000)})),
        "no columns": ("arrow:pyarrow", pa.table({})),
        "two of a name": ("arrow:pyarrow", pa.table([[1], [2]], names=["a", "a"])),
        "extension": ("pickle", pa.table({"u": pa.array([b"x" * 16], pa.uuid())})),
    }


@pytest.mark.parametrize("kind", arrow_tables())
def test_arrow_tables_come_back_exactly(kind: str, store: ObjectStore) -> None:
    codec, table = arrow_tables()[kind]
    assert codec_of(table, store) == codec
    came = again(table, store)
    assert type(came) is type(table)
    assert came.equals(table, check_metadata=True)


# -- the other kinds of values ------------------------------------------------------------------


def unpacked(value: Any, objects: ObjectStore) -> Any:
    return unpack(encode(value, objects).packed)


def test_lists_and_fields_of_values_are_built_by_the_reader(store: ObjectStore) -> None:
    large = list(range(20_000))
    parts = [unpacked(part, store) for part in (1, (2, {"x": [3, 4]}), large)]
    assert decode(pack(ListOf(parts)), store) == [1, (2, {"x": [3, 4]}), large]
    assert decode(pack(ListOf([])), store) == []
    assert decode(pack(ListOf([ListOf(parts[:1])])), store) == [[1]]
    assert decode(pack(Field(parts[1], [1, "x", 0])), store) == 3
    assert decode(pack(Field(ListOf(parts), [2, 5])), store) == 5
    assert decode(pack(Field(parts[0], [])), store) == 1


def test_one_object_twice_in_a_list_is_two_values(store: ObjectStore) -> None:
    part = unpacked(list(range(20_000)), store)
    left, right = decode(pack(ListOf([part, part])), store)
    assert left == right
    assert left is not right


def test_a_caught_pair_holds_the_value_or_the_exception(objects: MemoryObjectStore) -> None:
    assert decode(pack(Caught(unpacked((1,), objects), None)), objects) == ((1,), None)
    assert decode(pack(Caught(None, None)), objects) == (None, None)
    error, _ = encode_error(KeyError("k"), objects)
    value, caught = decode(pack(Caught(None, error)), objects)
    assert value is None
    assert type(caught) is KeyError
    assert caught.args == ("k",)


def test_a_caught_error_that_cannot_be_made_again_is_told_of(objects: MemoryObjectStore) -> None:
    error = Error("lib.Odd", "went wrong", "Traceback ...")
    _, caught = decode(pack(Caught(None, error)), objects)
    assert isinstance(caught, WorkflowExecutionError)
    assert "lib.Odd: went wrong" in str(caught)
    assert (caught.error_type, caught.error_text) == ("lib.Odd", "went wrong")
    assert caught.traceback == "Traceback ..."


def test_damage_absence_and_unknown_codecs_are_errors(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    encoded = encode("x" * 100_000, objects)
    path = tmp_path / encoded.objects[0][:2] / encoded.objects[0]
    path.write_bytes(b"y" * 100_002)
    with pytest.raises(ObjectDamaged):
        decode(encoded.packed, objects)
    path.unlink()
    with pytest.raises(ObjectNotFound):
        decode(encoded.packed, objects)
    with pytest.raises(NewerHome, match="'zarr'"):
        decode(pack(Inline("zarr", msgspec.Raw(b'"AAAA"'))), objects)


def test_a_full_disk_while_encoding_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = LocalObjectStore(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    for value in ("x" * 100_000, np.zeros(100_000), (np.zeros(100_000),), (b"x" * 10**5,)):
        with pytest.raises(StorageFull):
            encode(value, objects)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# -- what cannot be encoded ---------------------------------------------------------------------


class Model:
    def __init__(self, part: Any) -> None:
        self.part = part


class Slotted:
    __slots__ = ("part",)

    def __init__(self, part: Any) -> None:
        self.part = part


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (LOCK, "result: "),
        ({"model": Model(LOCK)}, "result['model'].part: "),
        ([1, (2, {3: LOCK})], "result[1][1][3]: "),
        (Slotted([LOCK]), "result.part[0]: "),
        ({(1, 2): Model({"a": Model([0, LOCK])})}, "result[(1, 2)].part['a'].part[1]: "),
        ({"make": lambda: LOCK}, "result['make'] (global 'LOCK'): "),
        ({"rows": (x for x in range(3))}, "result['rows']: "),
        ([memoryview(b"ab")], "result[0]: "),
    ],
    ids=["lock", "attribute", "items", "slot", "deep", "function", "generator", "view"],
)
def test_what_cannot_be_pickled_is_named_with_its_place(
    value: Any, where: str, objects: MemoryObjectStore
) -> None:
    with pytest.raises(NotPicklable, match="cannot pickle") as caught:
        encode(value, objects)
    assert str(caught.value).startswith(where)
    assert caught.value.__cause__ is not None


class Unwilling:
    def __reduce__(self) -> Any:
        raise RuntimeError("not today")


def test_errors_of_a_users_own_pickling_are_told(objects: MemoryObjectStore) -> None:
    with pytest.raises(NotPicklable, match=r"result\[1\]: RuntimeError: not today"):
        encode([0, Unwilling()], objects)


def test_nothing_is_left_of_what_could_not_be_encoded(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    with pytest.raises(NotPicklable):
        encode([b"x" * 100_000, LOCK], objects)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# -- previews -----------------------------------------------------------------------------------


class Shown:
    def __init__(self, shown: Callable[[], str], size: int = 0) -> None:
        self.shown, self.content = shown, b"x" * size

    def __repr__(self) -> str:
        return self.shown()

    def __reduce__(self) -> Any:
        return SimpleNamespace, (), {"content": self.content}


def fail() -> str:
    raise RuntimeError("no repr")


def preview(value: Any) -> str | None:
    return encode(value, MemoryObjectStore()).preview


def test_previews_tell_what_a_value_is() -> None:
    assert preview(np.zeros((1797, 64))) == "float64 [1797, 64]"
    assert preview(np.array(1.5)) == "float64 []"
    assert preview((np.zeros(3), "a")) == "(float64 [3], 'a')"
    assert preview((1,)) == "(1,)"
    assert preview({(1, 2): {3}}) == "{(1, 2): {3}}"
    assert preview(set()) == "set()"
    assert preview(Batch([1], (2,), "n")) == "Batch(features=[1], labels=(2,), note='n')"
    assert preview(Name("a")) == "Name(first='a')"
    assert preview(OrderedDict(a=1)) == "OrderedDict({'a': 1})"
    assert preview(deque([1, 2])) == "deque([1, 2])"
    assert preview(re.compile("a")) == "re.compile('a')"
    assert preview(Batch) == repr(Batch)
    assert preview("\ud800") == r"'\ud800'"


def test_previews_of_tables_name_their_columns() -> None:
    pd = pytest.importorskip("pandas")
    pl = pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    columns = {"a": [1, 2], "b": [0.5, 1.5]}
    rows = "\na    b\n1  0.5\n2  1.5"
    assert preview(pd.DataFrame(columns)) == "DataFrame [2, 2]: a int64, b float64" + rows
    assert preview(pl.DataFrame(columns)) == "DataFrame [2, 2]: a Int64, b Float64" + rows
    assert preview(pa.table(columns)) == "Table [2, 2]: a int64, b double" + rows
    assert preview([pd.DataFrame(columns)]) == "[DataFrame [2, 2]: a int64, b float64]"
    assert preview(pd.Series([1, 2])) == "int64 [2]"


def test_a_preview_survives_any_repr() -> None:
    assert preview(Shown(fail)) == "Shown"
    assert preview([Shown(fail), b""]) == "list"
    assert preview(Shown(lambda: "a\ud800\n  b")) == "a? b"
    assert preview(Shown(lambda: 3)) == "Shown"  # type: ignore[arg-type, return-value]
    assert len(preview(Shown(lambda: "x" * 10**6)) or "") == 200


def test_a_preview_looks_at_no_more_than_it_shows() -> None:
    class Item:
        shown = 0

        def __repr__(self) -> str:
            Item.shown += 1
            return "item"

    text = preview([Item() for _ in range(1_000)])
    assert text is not None
    assert text.startswith("[item, item, ")
    assert text.endswith("…")
    assert Item.shown < 60
    assert preview({"a": deque([Item()]), "b": list(range(100_000))}) is not None
    # A tree that is small as a pickle and endless when it is written out.
    tree: Any = [0, (1,)]
    for _ in range(60):
        tree = [tree, tree]
    assert len(preview(tree) or "") <= 200


def test_the_repr_of_what_is_large_is_not_called() -> None:
    text = preview(Shown(fail, size=100_000))
    assert text is not None
    assert text.startswith("Shown(shown=")


# -- errors -------------------------------------------------------------------------------------


class Coded(ValueError):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{why} ({code})")
        self.code = code


class Changing(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class Unreadable(OSError):
    def __init__(self, path: str, tries: int) -> None:
        super().__init__(5, "unreadable", path)
        self.tries = tries


class Absent(KeyError):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("a", 1), KeyError("k"), OSError(2, "gone", "file"), Exception()),
        *(
            Coded(3, "why"),
            Changing("name"),
            Unreadable("f", 3),
            Absent("a"),
            ExceptionGroup("g", [ValueError("x"), Coded(1, "y")]),
        ),
        *(UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), WorkflowExecutionError("m", "id")),
        json.JSONDecodeError("bad", "doc", 1),
    ],
    ids=repr,
)
def test_an_exception_is_made_again_from_what_was_kept(
    error: Exception, objects: MemoryObjectStore
) -> None:
    error.add_note("a note")
    encoded, _ = encode_error(raised(error), objects)
    assert encoded.text == str(error)
    came = decode_error(encoded, objects)
    assert type(came) is type(error)
    assert str(came) == str(error)
    assert repr(came) == repr(error)
    assert came.__notes__ == ["a note"]
    assert getattr(came, "errno", None) == getattr(error, "errno", None)
    came_state = {name: repr(value) for name, value in vars(came).items()}
    assert came_state == {name: repr(value) for name, value in vars(error).items()}


def test_an_error_tells_its_type_text_and_traceback(objects: MemoryObjectStore) -> None:
    def inner() -> None:
        raise KeyError("k")

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise Coded(3, "why") from error

    try:
        outer()
    except Coded as error:
        encoded, names = encode_error(error, objects)
    assert encoded.type == f"{__name__}.Coded"
    assert encoded.text == "why (3)"
    assert "in inner" in encoded.traceback
    assert "in outer" in encoded.traceback
    assert "KeyError: 'k'" in encoded.traceback
    assert "direct cause" in encoded.traceback
    assert "raise Coded(3" in encoded.traceback
    assert len(names) == 1  # the definition of Coded
    assert encode_error(ValueError(), objects)[0].type == "ValueError"


def test_frames_of_our_own_files_are_left_out(objects: MemoryObjectStore) -> None:
    space: dict[str, Any] = {}
    exec(compile("def call(f):\n    return f()", "ours.py", "exec"), space)

    def fail() -> None:
        try:
            space["call"](lambda: 1 / 0)
        except ZeroDivisionError:
            space["call"](lambda: [0].index(1))

    try:
        space["call"](fail)
    except ValueError as error:
        whole, _ = encode_error(error, objects)
        short, _ = encode_error(error, objects, skip_frames_of=("ours.py",))
    assert whole.traceback.count("ours.py") == 3
    assert "ours.py" not in short.traceback
    assert "ZeroDivisionError" in short.traceback
    assert "in fail" in short.traceback


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_is_no_exception_of_a_step_is_not_kept(
    error: BaseException, objects: MemoryObjectStore
) -> None:
    encoded, names = encode_error(raised(error), objects)
    assert encoded.type == type(error).__name__
    assert encoded.blob is None
    assert names == ()
    assert decode_error(encoded, objects) is None


def test_an_exception_that_cannot_be_pickled_is_told_of(objects: MemoryObjectStore) -> None:
    encoded, names = encode_error(raised(ValueError("x", LOCK)), objects)
    assert encoded.blob is None
    assert names == ()
    assert encoded.text.startswith("('x', <unlocked _thread.lock")
    mute, _ = encode_error(raised(Mute()), objects)
    assert mute.text == "<Mute whose str() fails>"
    assert mute.traceback != ""
    assert mute.blob is None


def test_a_large_exception_is_an_object_and_its_text_is_bounded(
    objects: MemoryObjectStore,
) -> None:
    encoded, names = encode_error(raised(ValueError("x" * 10**6)), objects)
    assert isinstance(encoded.blob, Object)
    assert names == (encoded.blob.hash,)
    assert len(encoded.text) < 20_000
    assert len(encoded.traceback) < 70_000
    came = decode_error(encoded, objects)
    assert came is not None
    assert len(str(came)) == 10**6


def test_an_error_of_any_text_can_be_written_out(objects: MemoryObjectStore) -> None:
    encoded, _ = encode_error(raised(ValueError("\ud800\0")), objects)
    assert pack(Caught(None, encoded))
    came = decode_error(encoded, objects)
    assert came is not None
    assert came.args == ("\ud800\0",)


@pytest.mark.parametrize(
    "blob",
    [
        Inline("pickle", msgspec.Raw(b'"AAAA"')),
        Inline("json", msgspec.Raw(b"5")),
        Inline("new", msgspec.Raw(b'""')),
        Object("0" * 64, "pickle", 5),
        None,
    ],
)
def test_reading_an_error_never_fails(
    blob: Inline | Object | None, objects: MemoryObjectStore
) -> None:
    assert decode_error(Error("T", "t", "", blob), objects) is None


# -- arguments ----------------------------------------------------------------------------------


class Step:
    """Stands for a composition."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        capture = current_capture()
        if capture is None:
            raise NotPicklable("a composition outside of arguments")
        return capture.hole_of(self, self)


def is_step(thing: object) -> bool:
    return isinstance(thing, Step)


def capture(objects: ObjectStore, *args: Any, **kwargs: Any) -> tuple[Captured, list[object]]:
    return capture_arguments(args, kwargs, objects, is_step, label="train")


def test_what_stored_pickles_of_arguments_and_errors_name_never_moves(
    objects: MemoryObjectStore,
) -> None:
    captured, _ = capture(objects, Step(), [1])
    error = json.JSONDecodeError("bad", "doc", 1)  # its pickle forgets notes
    error.add_note("a note")
    encoded, _ = encode_error(error, objects)
    assert isinstance(captured.arguments, bytes)
    assert isinstance(encoded.blob, Inline)
    content = binascii.a2b_base64(bytes(encoded.blob.data)[1:-1])
    for pickled, name in ((captured.arguments, "hole"), (content, "add_notes")):
        texts = [text for _, text, _ in pickletools.genops(pickled) if isinstance(text, str)]
        assert texts[texts.index("weftline.codecs.rebuild") + 1] == name


def test_arguments_without_compositions_come_back(store: ObjectStore) -> None:
    for args, kwargs in (
        ((), {}),
        ((3,), {}),
        ((3, 0.5, None, True, 2**70), {}),
        (("a", b"b"), {"k": "v"}),
        (([1, (2, {"x": [3]})],), {"n": {"y": (1,)}}),
        ((Batch(1, 2), {1, 2}), {"f": len}),
        (("x" * 100_000,), {}),
        ((bytearray(100_000),), {}),
    ):
        captured, found = capture(store, *args, **kwargs)
        assert found == []
        assert load_arguments(captured.arguments, (), store) == (args, kwargs)


def test_compositions_anywhere_become_holes_in_order_of_appearance(
    objects: MemoryObjectStore,
) -> None:
    a, b, c = Step(), Step(), Step()
    for others in ((), (Batch(c, {1: [c]}),)):
        captured, found = capture(objects, 1, a, [b, 2, {"k": (a,)}], *others, x=b)
        assert captured.plain is not bool(others)
        assert found == [a, b, c][: len(found)]
        args, kwargs = load_arguments(captured.arguments, ["A", "B", "C"], objects)
        assert args[:3] == (1, "A", ["B", 2, {"k": ("A",)}])
        assert kwargs == {"x": "B"}
        if others:
            assert args[3] == Batch("C", {1: ["C"]})


def test_the_same_composition_is_the_same_object(objects: MemoryObjectStore) -> None:
    step, value = Step(), object()
    for rest in ((), (Batch(step, [step]),)):
        captured, found = capture(objects, step, [step, 1], *rest, k=step)
        assert found == [step]
        args, kwargs = load_arguments(captured.arguments, [value], objects)
        assert args[0] is args[1][0] is kwargs["k"] is value


def test_a_list_of_compositions_is_one_hole(objects: MemoryObjectStore) -> None:
    steps = [Step() for _ in range(10_000)]
    others = [Step(), Step()]
    captured, found = capture(objects, steps, 1, again=steps, other=others)
    assert found[0] is steps
    assert found[1] is others
    assert len(found) == 2
    assert isinstance(captured.arguments, bytes)
    assert len(captured.arguments) < 200
    assert captured.plain
    value = [1, 2]
    args, kwargs = load_arguments(captured.arguments, [value, [3]], objects)
    assert args[0] is kwargs["again"] is value
    assert kwargs["other"] == [3]


def test_a_composition_in_two_lists_is_the_same_object_in_both(objects: MemoryObjectStore) -> None:
    a, b = Step(), Step()
    for args in (([a, b], [b]), ([a, b], b), ([a, b, a, b],)):
        captured, found = capture(objects, *args)
        assert found == [a, b]
        values = [object(), object()]
        came, _ = load_arguments(captured.arguments, values, objects)
        assert came[0][:2] == values
        assert came[-1] is values[1] or came[-1][-1] is values[1]


def test_only_an_exact_list_of_nothing_but_compositions_is_one_hole(
    objects: MemoryObjectStore,
) -> None:
    class Steps(list[Any]):
        pass

    a, b = Step(), Step()
    captured, found = capture(objects, [], [a, 1], (a, b), {"k": [a]}, [[b]], Steps([a]))
    assert found == [a, b]
    args, _ = load_arguments(captured.arguments, ["A", "B"], objects)
    assert args == ([], ["A", 1], ("A", "B"), {"k": ["A"]}, [["B"]], ["A"])


def test_equal_plain_arguments_have_equal_bytes(objects: MemoryObjectStore) -> None:
    one = "abc"
    other = one.replace("b", "x").replace("x", "b")
    assert one is not other
    for left, right in (
        ((one, one), (one, other)),
        (([one, (other,)],), ([one, (one,)],)),
        (({one: other},), ({one: one},)),
        ((1, 2.5, None), (1, 2.5, None)),
    ):
        first, second = capture(objects, *left)[0], capture(objects, *right)[0]
        assert first.plain
        assert first == second
    assert capture(objects, x=one, y=one)[0] == capture(objects, x=one, y=other)[0]


def test_arguments_that_share_an_object_are_not_plain_and_keep_it(
    objects: MemoryObjectStore,
) -> None:
    captured, _ = capture(objects, shared, {"k": shared})
    assert not captured.plain
    args, _ = load_arguments(captured.arguments, (), objects)
    assert args[0] is args[1]["k"]
    circle: list[Any] = []
    circle.append(circle)
    captured, _ = capture(objects, circle)
    (came,), _ = load_arguments(captured.arguments, (), objects)
    assert came[0] is came


def test_large_arguments_are_objects_and_arrays_are_not_copied(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    array = np.arange(200_000.0)
    step = Step()
    captured, found = capture(objects, array, step, scale={"w": array})
    assert isinstance(captured.arguments, Object)
    assert captured.arguments.codec == "pickle5"
    assert captured.objects == (captured.arguments.hash,)
    assert captured.arguments.size < 1.01 * array.nbytes
    assert found == [step]
    args, kwargs = load_arguments(captured.arguments, [7], objects)
    assert (args[0] == array).all()
    assert args[1] == 7
    assert kwargs["scale"]["w"] is args[0]
    assert args[0].flags.writeable
    small, _ = capture(objects, np.arange(5))
    assert isinstance(small.arguments, bytes)
    text, _ = capture(objects, "x" * 100_000)
    assert isinstance(text.arguments, Object)
    assert text.arguments.codec == "pickle"


def test_the_argument_that_cannot_be_pickled_is_named(objects: MemoryObjectStore) -> None:
    with pytest.raises(NotPicklable, match=r"^argument 2 of step 'train'"):
        capture(objects, 1, LOCK)
    with pytest.raises(NotPicklable, match=r"^argument 'model' of step 'train'\['m'\]\.part: "):
        capture(objects, Step(), model={"m": Model(LOCK)})


def test_a_composition_outside_of_arguments_is_its_own_error(objects: MemoryObjectStore) -> None:
    with pytest.raises(NotPicklable, match="a composition outside of arguments"):
        encode([1, Step()], objects)
    assert current_capture() is None


def test_a_capture_ends_with_its_call(objects: MemoryObjectStore) -> None:
    with pytest.raises(NotPicklable):
        capture(objects, Step(), LOCK)
    assert current_capture() is None
    with pytest.raises(IndexError):
        hole(0)


class Loading:
    """Loads other arguments while it is loaded itself."""

    def __init__(self, store: ObjectStore, step: Any) -> None:
        self.store, self.step = store, step

    def __reduce__(self) -> Any:
        inner, _ = capture(self.store, self.step)
        return _load_within, (inner.arguments, self.step)


INNER_STORE = MemoryObjectStore()


def _load_within(arguments: bytes, value: Any) -> Any:
    return load_arguments(arguments, ["inner"], INNER_STORE), value


def test_captures_and_loads_may_be_nested(objects: MemoryObjectStore) -> None:
    a, b = Step(), Step()
    captured, found = capture(objects, a, Loading(objects, b), b)
    assert found == [a, b]
    args, _ = load_arguments(captured.arguments, ["A", "B"], objects)
    assert args == ("A", ((("inner",), {}), "B"), "B")


def test_many_threads_load_their_own_values(objects: MemoryObjectStore) -> None:
    captured, _ = capture(objects, Step(), {"k": Step()})

    def load(number: int) -> Any:
        return load_arguments(captured.arguments, [number, -number], objects)

    with ThreadPoolExecutor(8) as pool:
        for number, (args, _) in enumerate(pool.map(load, range(500))):
            assert args == (number, {"k": -number})
