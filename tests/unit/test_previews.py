"""What people are shown of a value: the first rows of a table, and pictures."""

import datetime
import decimal
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest

from weftline.adapters.objects.memory import MemoryObjectStore, MemoryUpkeep
from weftline.codecs import figures
from weftline.codecs.pictures import image_title, picture_of
from weftline.codecs.previews import preview
from weftline.codecs.references import StepRef, put
from weftline.codecs.values import decode, encode
from weftline.errors import StorageFull

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
Image = pytest.importorskip("PIL.Image")
Figure = pytest.importorskip("matplotlib.figure").Figure

LIMIT = 256 * 1024
ROWS = 10**7


@pytest.fixture
def objects() -> MemoryObjectStore:
    return MemoryObjectStore()


def lines_of(value: Any) -> list[str]:
    return preview(value, 10**9).split("\n")


# -- tables -------------------------------------------------------------------------------------

moment = datetime.datetime.fromisoformat
COLUMNS: dict[str, list[Any]] = {
    "name": ["one\ntwo", "ü" * 100, None],
    "when": [moment("2020-01-02"), None, moment("2021-01-01T12:00")],
    "price": [1.5, 1e-9, 1234567.0],
    "ok": [True, False, None],
    "n": [1, -20, 3],
}


def test_the_first_rows_of_a_pandas_frame_are_shown() -> None:
    assert lines_of(pd.DataFrame(COLUMNS).astype({"when": "datetime64[us]"})) == [
        "DataFrame [3, 5]: name str, when datetime64[us], price float64, ok object, n int64",
        "name                      when                       price     ok    n",
        "one two                   2020-01-02 00:00:00          1.5   True    1",
        "üüüüüüüüüüüüüüüüüüüüüüü…  NaT                        1e-09  False  -20",
        "nan                       2021-01-01 12:00:00  1.23457e+06   null    3",
    ]


def test_the_first_rows_of_a_polars_frame_are_shown() -> None:
    first, *rest = lines_of(pl.DataFrame(COLUMNS))
    assert first.startswith("DataFrame [3, 5]: name String, when Datetime(")
    assert rest == [
        "name                      when                       price     ok    n",
        "one two                   2020-01-02 00:00:00          1.5   True    1",
        "üüüüüüüüüüüüüüüüüüüüüüü…  null                       1e-09  False  -20",
        "null                      2021-01-01 12:00:00  1.23457e+06   null    3",
    ]


def test_the_first_rows_of_an_arrow_table_are_shown() -> None:
    first, *rest = lines_of(pa.table(COLUMNS))
    assert first.startswith("Table [3, 5]: name string, when timestamp[us], price double")
    assert rest == lines_of(pl.DataFrame(COLUMNS))[1:]


def test_an_index_that_says_something_is_shown() -> None:
    frame = pd.DataFrame({"x": [1, 2]})
    assert lines_of(frame.set_index(pd.Index(["a", "b"], name="key")))[1:] == [
        "key  x",
        "a    1",
        "b    2",
    ]
    assert lines_of(frame.set_index(pd.MultiIndex.from_tuples([(1, "a"), (2, "b")])))[1:] == [
        "          x",
        "(1, 'a')  1",
        "(2, 'b')  2",
    ]
    assert lines_of(frame[1:])[1:] == ["   x", "1  2"]


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame(),
        pd.DataFrame({"a": []}),
        pl.DataFrame(),
        pl.DataFrame({"a": []}),
        pa.table({}),
        pa.table({"a": []}),
    ],
    ids=lambda table: f"{type(table).__module__}-{table.shape}",
)
def test_a_table_without_rows_or_columns_is_one_line(table: Any) -> None:
    (line,) = lines_of(table)
    assert line.startswith(f"{type(table).__name__} [0, ")


def test_many_and_wide_columns_are_cut() -> None:
    for table in (
        pd.DataFrame(np.zeros((3, 5000))),
        pl.DataFrame(np.zeros((3, 50))),
        pa.table({str(number): [1, 2] for number in range(50)}),
    ):
        first, *rest = lines_of(table)
        assert len(first) <= 200
        assert all(line.endswith("  …") for line in rest)
        assert len(rest[0].split()) == 9
    names = [f"a rather long name {number}" for number in range(8)]
    for table in (
        pd.DataFrame({name: [1] for name in names}),
        pl.DataFrame({name: [1] for name in names}),
    ):
        first, *rest = lines_of(table)
        assert rest[0].endswith("  …")
        assert all(len(line) <= 110 for line in rest)


def test_what_may_be_of_any_size_is_not_looked_at() -> None:
    deep = [[1], [2] * 10_000]
    for table in (
        pd.DataFrame(
            {"n": [1, 2], "deep": pd.Series(deep, dtype=pd.ArrowDtype(pa.list_(pa.int64())))}
        ),
        pl.DataFrame({"n": [1, 2], "deep": deep}),
        pl.DataFrame({"n": [1, 2], "deep": [{"a": 1}, {"a": 2}]}),
        pl.DataFrame({"n": [1, 2], "deep": [b"a", b"b"]}),
        pa.table({"n": [1, 2], "deep": deep}),
        pa.table({"n": [1, 2], "deep": pa.array([b"0" * 16] * 2, pa.uuid())}),
    ):
        assert lines_of(table)[1:] == ["n  deep", "1  …", "2  …"]


class Own:
    def __repr__(self) -> str:
        raise AssertionError("may take for ever")


def test_cells_of_all_kinds_are_one_short_text() -> None:
    cells = {
        "object": [{"a": 1}, [1, 2]],
        "own": [Own(), np.zeros(3)],
        "bytes": [b"a\n", None],
        "large": [2**200, decimal.Decimal("1.20")],
        "category": pd.Categorical(["a", "b"]),
        "text": pd.array(["x", None], dtype="string"),
        "maybe": pd.array([1, None], dtype="Int64"),
        "day": [datetime.date(2020, 1, 2), datetime.timedelta(1)],
    }
    assert lines_of(pd.DataFrame(cells))[1:] == [
        "object    own          bytes   large  category  text  maybe  day",
        "{'a': 1}  Own()        b'a\\n'  …      a         x     1      2020-01-02",
        "[1, 2]    float64 [3]  null    1.20   b         <NA>  <NA>   1 day, 0:00:00",
    ]
    table = pa.table(
        {
            "dictionary": pa.array(["a", "b", None]).dictionary_encode(),
            "view": pa.array(["a", None, "x" * 100], pa.string_view()),
            "binary": pa.array([b"a", None, b"x" * 100]),
            "half": np.array([1, 2, 3], "f2"),
        }
    )
    assert lines_of(table)[1:] == [
        "dictionary  view                      binary                    half",
        "a           a                         b'a'                         1",
        "b           null                      null                         2",
        "null        xxxxxxxxxxxxxxxxxxxxxxx…  b'xxxxxxxxxxxxxxxxxxxxx…     3",
    ]


def test_names_and_texts_of_any_kind_stay_on_their_lines() -> None:
    frame = pd.DataFrame(
        {("a", "b\u2028c"): ["x\r\n\x85y"], 3: [1], None: ["\ud800"]}, dtype=object
    )
    lines = preview(frame, 100).splitlines()
    assert len(lines) == 3
    preview(frame, 100).encode()


def test_a_frame_whose_rows_cannot_be_read_is_one_line() -> None:
    class DataFrame:
        shape = (2, 2)
        columns = ("a", "b")
        dtypes = ("int", "str")

        @property
        def iloc(self) -> Any:
            raise RuntimeError("no rows")

    assert lines_of(DataFrame()) == ["DataFrame [2, 2]: a int, b str"]
    DataFrame.__module__ = "pandas.core.frame"
    assert lines_of(DataFrame()) == ["DataFrame [2, 2]: a int, b str"]


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_long_table_costs_no_more_than_a_short_one(library: str) -> None:
    columns = {"n": np.arange(ROWS), "x": np.zeros(ROWS, "f4")}
    make = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library]
    short, table = make({name: column[:10] for name, column in columns.items()}), make(columns)
    preview(short, 10**9)  # what is imported and made ready once
    took = []
    for _ in range(5):
        start = time.perf_counter()
        lines = lines_of(table)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05
    assert lines[1:] == lines_of(short)[1:]


# -- pictures: bytes and arrays -----------------------------------------------------------------


def opened(content: bytes | None) -> Any:
    assert content is not None
    assert len(content) <= LIMIT
    image = Image.open(BytesIO(content))
    image.load()
    return image


def saved(image: Any, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PNG = saved(Image.new("RGB", (640, 480)), "PNG")
JPEG = saved(Image.new("RGB", (640, 480)), "JPEG")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PNG, f"image/png 640x480, {len(PNG)} bytes"),
        (JPEG, "image/jpeg 640x480, 5 KB"),
        (saved(Image.new("L", (70, 9)), "JPEG", progressive=True), "image/jpeg 70x9, "),
        (
            saved(Image.new("RGB", (64, 48)), "JPEG", exif=b"Exif\0\0" + b"x" * 900),
            "/jpeg 64x48, 2 KB",
        ),
    ],
    ids=["png", "jpeg", "progressive", "exif"],
)
def test_bytes_of_an_image_are_their_own_picture(
    content: bytes, says: str, objects: MemoryObjectStore
) -> None:
    encoded = encode(content, objects)
    assert encoded.preview is not None
    assert says in encoded.preview
    assert encoded.picture is not None
    assert encoded.picture in encoded.objects
    assert bytes(objects.read(encoded.picture)) == content
    assert decode(encoded.packed, objects) == content


def test_a_large_image_is_told_and_not_kept_again(objects: MemoryObjectStore) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype="u1")
    encoded = encode(saved(Image.fromarray(noise), "PNG"), objects)
    assert encoded.preview is not None
    assert encoded.preview.startswith("image/png 500x400, 6")
    assert encoded.picture is None
    assert len(encoded.objects) == 1


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"x", PNG[:20], PNG[:32], PNG[:16] + bytes(20), JPEG[:20], JPEG[:2] + b"x" * 99),
        b"\xff\xd8\xff\xe0\0\2" * 1000,
        b"\xff\xd8" + b"\xff" * 1000,
        b"\xff\xd8\xff\xe0\0\0" * 10,
        bytearray(PNG),
        "\x89PNG\r\n\x1a\n",
    ],
    ids=lambda content: repr(content)[:30],
)
def test_what_only_begins_like_an_image_is_none(content: Any) -> None:
    assert picture_of(content) is None
    assert image_title(content) is None


@pytest.mark.parametrize("shape", [(8, 8), (9, 30), (28, 28, 3), (100, 17, 4), (8, 512)])
def test_an_array_that_looks_like_an_image_is_shown_as_it_is(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype="u1")
    for value in (array, np.asfortranarray(array), array[::-1]):
        assert (np.asarray(opened(picture_of(value))) == value).all()


def test_a_large_array_is_shown_smaller() -> None:
    smooth = np.broadcast_to(np.arange(4096) // 16, (2000, 4096)).astype("u1")
    image = opened(picture_of(smooth))
    assert image.size == (512, 250)
    assert (np.asarray(image) == smooth[::8, ::8]).all()
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 4), dtype="u1")
    assert opened(picture_of(noise)).size[0] in range(100, 300)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 7), "u1"),
        np.zeros((4097, 8), "u1"),
        np.zeros((8, 8, 2), "u1"),
        np.zeros((8, 8, 5), "u1"),
        np.zeros((3, 8, 8), "u1"),
        np.zeros(64, "u1"),
        np.zeros((1, 8, 8, 3), "u1"),
        np.zeros((8, 8), "i1"),
        np.zeros((8, 8), "f4"),
        np.zeros((8, 8), "S1"),
        np.ma.masked_array(np.zeros((8, 8), "u1")),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_an_array_that_does_not_look_like_an_image_has_no_picture(array: Any) -> None:
    assert picture_of(array) is None


def test_a_picture_of_an_array_is_a_png_that_others_check(objects: MemoryObjectStore) -> None:
    content = picture_of(np.zeros((8, 9, 3), "u1"))
    assert content is not None
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    at, kinds = 8, []
    while at < len(content):
        size, kind = struct.unpack_from("!I4s", content, at)
        (checksum,) = struct.unpack_from("!I", content, at + 8 + size)
        assert checksum == zlib.crc32(content[at + 4 : at + 8 + size])
        kinds.append(kind)
        at += 12 + size
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]


# -- pictures: Pillow ---------------------------------------------------------------------------

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "RGBX")


@pytest.mark.parametrize("mode", MODES)
def test_an_image_is_shown_at_most_512_pixels_wide_and_high(mode: str) -> None:
    image = Image.new(mode, (1000, 2000))
    before = image.tobytes()
    assert opened(picture_of(image)).size == (256, 512)
    assert (image.size, image.mode, image.tobytes()) == ((1000, 2000), mode, before)
    assert opened(picture_of(Image.new(mode, (30, 20)))).size == (30, 20)
    assert image_title(image) == f"Image {mode} 1000x2000"


def test_an_image_that_compresses_badly_is_shown_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype="u1")
    assert opened(picture_of(Image.fromarray(noise))).size == (256, 256)
    wide = Image.new("L", (60_000, 1))
    assert opened(picture_of(wide)).size == (512, 1)


def test_an_image_read_from_a_file_is_shown(objects: MemoryObjectStore) -> None:
    image = Image.open(BytesIO(saved(Image.new("RGB", (64, 48), "red"), "JPEG")))
    encoded = encode(image, objects)
    assert encoded.preview == "JpegImageFile RGB 64x48"
    assert encoded.picture is not None
    assert opened(bytes(objects.read(encoded.picture))).size == (64, 48)


# -- pictures: matplotlib -----------------------------------------------------------------------


def plotted(*values: float, **settings: Any) -> Any:
    figure = Figure(**settings)
    figure.subplots().plot(values or (1, 2))
    return figure


def test_a_figure_has_a_picture_and_stays_as_it_was(objects: MemoryObjectStore) -> None:
    figure = plotted(1, 3, 2)
    canvas, dpi, colour = figure.canvas, figure.dpi, figure.get_facecolor()
    encoded = encode(figure, objects)
    assert encoded.picture is not None
    assert opened(bytes(objects.read(encoded.picture))).size == (640, 480)
    assert figure.canvas is canvas
    assert (figure.dpi, figure.get_facecolor()) == (dpi, colour)
    assert encoded.preview == "<Figure size 640x480 with 1 Axes>"
    assert decode(encoded.packed, objects).axes[0].lines[0].get_ydata().tolist() == [1, 3, 2]


def test_what_belongs_to_a_figure_or_holds_one_has_its_picture() -> None:
    figure = Figure()
    part, other = figure.subfigures(1, 2)
    axes = part.subplots()
    for value in (figure, part, axes, axes.title, SimpleNamespace(figure=figure), other):
        assert figures.figure_of(value) is figure
        assert opened(picture_of(value)).size == (640, 480)
    seaborn = type(
        "Grid", (), {"figure": property(lambda self: figure), "__module__": "seaborn.axis"}
    )
    assert figures.figure_of(seaborn()) is figure


def test_nothing_of_the_users_own_is_called_to_find_a_figure() -> None:
    class Own:
        @property
        def figure(self) -> Any:
            raise AssertionError("called")

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("called")

    assert figures.figure_of(Own()) is None
    for value in (SimpleNamespace(figure=3), Figure, 3, object()):
        assert figures.figure_of(value) is None


@pytest.mark.parametrize(
    ("size", "pixels"), [((100, 100), (800, 800)), ((2, 1), (200, 100)), ((16, 4), (800, 200))]
)
def test_figures_of_all_sizes_are_drawn_at_a_modest_one(
    size: tuple[float, float], pixels: tuple[int, int]
) -> None:
    assert opened(picture_of(plotted(figsize=size))).size == pixels
    assert opened(picture_of(plotted(figsize=size, dpi=600))).size == pixels


def test_a_figure_of_no_height_to_speak_of_has_no_picture() -> None:
    assert picture_of(plotted(figsize=(5000, 1))) is None


def test_a_picture_that_is_too_large_is_drawn_with_fewer_dots() -> None:
    noise = np.random.default_rng(0).random((700, 700, 3))
    figure = Figure(figsize=(7, 7))
    figure.figimage(noise)
    assert len(saved_figure(figure)) > LIMIT
    image = opened(picture_of(figure))
    assert image.size in ((420, 420), (245, 245))
    assert figures.draw_figure(figure, 1000) is None


def saved_figure(figure: Any) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def test_settings_of_saved_figures_do_not_change_the_picture() -> None:
    import matplotlib

    settings: Any = {
        "savefig.bbox": "tight",
        "savefig.dpi": 1000,
        "savefig.transparent": True,
        "savefig.facecolor": "red",
        "savefig.format": "svg",
    }
    figure = plotted()
    figure.text(30, 30, "far outside")
    before = picture_of(figure)
    with matplotlib.rc_context(settings):
        assert picture_of(figure) == before


def heavy(kind: str) -> Any:
    figure = Figure()
    axes = figure.subplots()
    match kind:
        case "scatter":
            axes.scatter(np.zeros(60_000), np.zeros(60_000))
        case "markers":
            axes.plot(np.zeros(60_000), "o")
        case "line":
            axes.plot(np.zeros(2_000_000))
        case "image":
            axes.imshow(np.zeros((2000, 2000)))
        case "mesh":
            axes.pcolormesh(np.zeros((300, 300)))
        case "axes":
            figure.subplots(10, 10)
        case "latex":
            axes.set_title("x", usetex=True)
    return figure


@pytest.mark.parametrize("kind", ["scatter", "markers", "line", "image", "mesh", "axes", "latex"])
def test_a_figure_that_takes_long_to_draw_has_no_picture(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise AssertionError("drawn")

    figure = heavy(kind)
    monkeypatch.setattr(figures, "_drawn", fail)
    assert figures.draw_figure(figure, LIMIT) is None


def test_a_figure_that_cannot_be_drawn_is_no_failure(objects: MemoryObjectStore) -> None:
    figure = plotted()
    figure.axes[0].set_title("$\\nonsense$")
    encoded = encode(figure, objects)
    assert encoded.picture is None
    assert encoded.preview == "<Figure size 640x480 with 1 Axes>"


def test_what_is_wrong_with_a_drawing_is_not_told(recwarn: pytest.WarningsRecorder) -> None:
    figure = plotted(layout="tight", figsize=(0.3, 0.3))
    figure.axes[0].set_title("\u4e00 no such letter")
    opened(picture_of(figure))
    assert list(recwarn) == []


def test_figures_are_drawn_by_several_threads() -> None:
    made = [plotted(*range(number + 2)) for number in range(4)]
    alone = [picture_of(figure) for figure in made]
    found: dict[int, bytes | None] = {}

    def draw(number: int) -> None:
        found[number] = picture_of(made[number])

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == alone


# -- what holds for all pictures ----------------------------------------------------------------


def test_a_picture_is_as_durable_as_its_value(objects: MemoryObjectStore) -> None:
    upkeep = MemoryUpkeep(objects)
    array = np.zeros((8, 8), "u1")
    small = encode(array, objects, durable=False)
    assert small.picture is not None
    assert not small.is_volatile
    assert {found.name for found in upkeep.objects() if found.is_volatile} == {small.picture}
    again = encode(array, objects)
    assert again.picture == small.picture
    assert {found.name for found in upkeep.objects() if not found.is_volatile} == {again.picture}


def test_equal_pictures_are_one_object(objects: MemoryObjectStore) -> None:
    encoded = encode(np.zeros((600, 600), "u1"), objects)
    assert len(encoded.objects) == 2
    assert encode(np.zeros((600, 600), "u1"), objects) == encoded


def test_a_picture_that_finds_no_room_is_no_failure(
    objects: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise StorageFull(28, "there is no room")

    monkeypatch.setattr(objects, "put", full)
    encoded = encode(np.zeros((8, 8), "u1"), objects)
    assert encoded.picture is None
    assert encoded.objects == ()


def test_values_without_a_picture_say_so(objects: MemoryObjectStore) -> None:
    for value in (None, 3, "x", "x" * 10**5, (1,), np.zeros(3), pd.DataFrame({"a": [1]})):
        assert encode(value, objects).picture is None


def test_references_in_a_large_value_are_told(objects: MemoryObjectStore) -> None:
    ref = put(3, objects)
    text = preview([ref, StepRef("r", 1)], 10**6)
    assert text == f"[{ref!r}, <StepRef 1 of run 'r'>]"


SCRIPT = """
import sys
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.codecs.references import put
from weftline.codecs.values import encode
objects = MemoryObjectStore()
class Own:
    figure = 3
    shape = (1, 2)
for value in ((1,), b"x" * 10**5, {1: 2}, Own(), lambda: 1, b"\\x89PNG\\r\\n\\x1a\\n" + b"x" * 50):
    encode(value, objects)
put(3, objects)
heavy = {"numpy", "matplotlib", "PIL", "pandas", "polars", "pyarrow"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)

import numpy
assert encode(numpy.zeros((8, 8), "u1"), objects).picture
assert not (heavy - {"numpy"}) & set(sys.modules)

from matplotlib.figure import Figure
figure = Figure()
figure.subplots().plot([1, 2])
assert encode(figure, objects).picture
assert "matplotlib.pyplot" not in sys.modules
"""


def test_nothing_is_imported_for_values_of_other_kinds() -> None:
    environment = {**os.environ, "MPLBACKEND": "agg"}
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, env=environment)
