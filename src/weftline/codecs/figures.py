"""Figures of matplotlib as PNG, drawn beside pyplot and whatever the user does with it.

Nothing is imported here before a value is a figure, and so matplotlib is there.
"""

import sys
import warnings
from io import BytesIO
from threading import Lock
from typing import Any

_SHOWN_PIXELS = 800
_DPI = 100
_MOST_ARTISTS = 2_000
_MOST_MARKS = 50_000  # of scatter plots; each is drawn by itself
_MOST_POINTS = 1_000_000  # of lines
_MOST_IMAGE_ITEMS = 1_500_000

_drawing = Lock()  # matplotlib is not made for several threads


def figure_of(value: Any) -> Any:
    """The figure that `value` is, is part of, or holds as its `figure`; None if there is none."""
    figure_class = _loaded("matplotlib.figure", "Figure")
    if figure_class is None:
        return None
    artist_class = _loaded("matplotlib.artist", "Artist")
    found = value
    if not isinstance(value, figure_class):
        module = type(value).__module__
        if isinstance(value, artist_class) or module.partition(".")[0] == "seaborn":
            found = value.figure
        else:
            # Nothing of the user's own is called to find out.
            found = getattr(value, "__dict__", {}).get("figure")
    if isinstance(found, artist_class) and not isinstance(found, figure_class):
        found = found.figure  # of a part of a figure, the whole
    return found if isinstance(found, figure_class) else None


def _loaded(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def draw_figure(figure: Any, most_bytes: int) -> bytes | None:
    """The figure as PNG of at most so many bytes; None if that cannot be, or would take long."""
    if not _is_quick(figure):
        return None
    width, height = figure.get_size_inches()
    dpi = min(_DPI, _SHOWN_PIXELS / max(width, height))
    for share in (1, 0.6, 0.35):
        if min(width, height) * dpi * share < 1:
            return None
        content = _drawn(figure, dpi * share)
        if len(content) <= most_bytes:
            return content
    return None


def _drawn(figure: Any, dpi: float) -> bytes:
    stream = BytesIO()
    with _drawing, warnings.catch_warnings():
        # The user has not asked for a drawing: whatever is wrong with it is not to be told.
        warnings.simplefilter("ignore")
        # All that settings of the user may say of saved figures is said here.
        figure.savefig(
            stream,
            format="png",
            backend="agg",
            dpi=dpi,
            facecolor=figure.get_facecolor(),
            edgecolor=figure.get_edgecolor(),
            transparent=False,
            bbox_inches=figure.bbox_inches,
            metadata={"Software": None},
        )
    return stream.getvalue()


def _is_quick(figure: Any) -> bool:
    """Whether so little is in the figure that it is drawn within a second or so."""
    line_class = _loaded("matplotlib.lines", "Line2D")
    collection_class = _loaded("matplotlib.collections", "Collection")
    text_class = _loaded("matplotlib.text", "Text")
    artists = marks = points = image_items = 0
    waiting = [figure]
    while waiting:
        artist = waiting.pop()
        waiting += artist.get_children()
        artists += 1
        if isinstance(artist, line_class):
            drawn = len(artist.get_xdata(orig=False))
            points += drawn
            marks += drawn if artist.get_marker() not in ("None", "none", None, " ", "") else 0
        elif isinstance(artist, collection_class):
            values = artist.get_array()
            if values is not None:
                marks += values.size
            else:
                marks += max(len(artist.get_offsets()), len(artist.get_paths()))
        elif isinstance(artist, text_class):
            if artist.get_usetex():  # drawn by a program that takes seconds
                return False
        elif (image := getattr(artist, "_A", None)) is not None:
            image_items += image.size
        if (
            artists > _MOST_ARTISTS
            or marks > _MOST_MARKS
            or points > _MOST_POINTS
            or image_items > _MOST_IMAGE_ITEMS
        ):
            return False
    return True
