"""Charts with one look, colour-blind-safe and readable in greyscale, and a text twin written from what is drawn.

A plotting cell asks for `panels`, fills each with `lines`, `bars`, `dots`, `spans` or `heatmap`, and ends with `show`.
`show` reads the drawn data back out of the figure: its text twin names every curve and bar with rounded numbers. So a
reader who cannot see the picture has its data, and a test that compares outputs compares them too. A bar or mark whose
name stands only on an axis carries it as matplotlib's group id (`gid`).

The chart helpers share these options, which `dress` applies: `title`, `x` and `y` (axis labels), `log` ("x", "y" or
"xy"), `xticks` and `yticks` (places, or place -> label), `xlim`, `ylim`, `across` and `upright` (label -> place of a
horizontal or vertical reference line), `legend` ("best", "right" for outside, or "" for none).
"""

import dataclasses
import itertools
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from IPython.display import display
from matplotlib import collections, container, cycler, font_manager, ticker
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.errors import InputError

# Okabe and Ito's palette (jfly.uni-koeln.de/color), ordered so that neighbours differ in lightness too.
PALETTE = {"blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "red": "#D55E00",
           "sky": "#56B4E9", "purple": "#CC79A7", "black": "#222222", "grey": "#8A8A8A"}  # fmt: skip
COLOURS = tuple(PALETTE.values())
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # shape says what colour says
HATCHES = ("", "//", "..", "xx", "--")
WRITTEN = "_written"  # label of a text that repeats drawn data, which the twin names already
CHINESE = "Chinese of the course"


def use_style() -> None:
    """Set the course's matplotlib style; Chinese characters fall back to the bundled font."""
    data, known = resources.files("utils").joinpath("data"), font_manager.fontManager.ttflist
    if CHINESE not in [font.name for font in known]:
        font_manager.fontManager.addfont(str(data.joinpath("NotoSansCJK-subset.otf")))
        known.append(dataclasses.replace(known.pop(), name=CHINESE))  # a name that no font of the system has
    # The bundled font has one weight; matplotlib would say so beside every bold title.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    plt.style.use(str(data.joinpath("course.mplstyle")))
    plt.rcParams.update({"axes.prop_cycle": cycler(color=COLOURS), "font.family": ["DejaVu Sans", CHINESE]})


Values = Sequence[float] | np.ndarray
Series = Values | tuple[Values, Values]


def panels(columns: int = 1, rows: int = 1, *, width: float = 8, height: float = 3.8, **options: Any) -> Any:
    """A figure's axes: one, or a flat array of `rows * columns`. `options` go to matplotlib's `subplots`."""
    _, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    return axes if rows * columns == 1 else axes.flatten()


def dress(axes: Axes, *, log: str = "", legend: str = "best", **options: Any) -> None:
    """Give axes their title, labels, scales, ticks, reference lines and legend; see the module for the options."""
    dashes = itertools.cycle(("--", ":", "-."))
    for draw, places in ((axes.axhline, options.pop("across", {})), (axes.axvline, options.pop("upright", {}))):
        for name, place in places.items():
            draw(place, color=PALETTE["grey"], linestyle=next(dashes), linewidth=1.5, label=name, zorder=1)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if name in log:
            axes.set(**{f"{name}scale": "log"})
        if (ticks := options.pop(f"{name}ticks", None)) is not None:
            texts = ticks.values() if isinstance(ticks, Mapping) else [f"{place:,g}" for place in ticks]
            axis.set_ticks(list(ticks), list(texts))
            axis.set_minor_locator(ticker.NullLocator())
    theirs = {"x": "xlabel", "y": "ylabel"}  # matplotlib's names
    axes.set(**{theirs.get(name, name): value for name, value in options.items()})
    if legend and axes.get_legend_handles_labels()[1]:
        axes.legend(**({"loc": "upper left", "bbox_to_anchor": (1, 1)} if legend == "right" else {"loc": legend}))


def lines(
    axes: Axes,
    series: Mapping[str, Series],
    at: Values | None = None,
    *,
    bands: Mapping[str, tuple[Values, Values]] | None = None,
    markers: bool = True,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> None:
    """Draw curves, each with its own colour, marker and line style. `options`: see `dress`.

    Args:
        series: label -> values, or label -> (places, values).
        at: places on the x axis of series that name none; without it 0, 1, 2, ...
        bands: label of a curve -> (low, high), drawn as a pale band.
        markers: a marker at each value; without it, line styles alone tell curves apart.
        styles: label -> options for matplotlib's `plot` of that curve.
    """
    for place, (name, values) in enumerate(series.items()):
        if not (isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]) == 1):
            values = (range(len(values)) if at is None else at), values
        places, values = map(np.asarray, values)
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": ("-", "--", "-.", ":")[place % 4], "linewidth": 2}
        if markers:
            style |= {"marker": MARKERS[place % len(MARKERS)], "linestyle": "-"}
        style |= (styles or {}).get(name, {})
        axes.plot(places, values, label=name, **style)
        if bands and name in bands:
            axes.fill_between(places, *map(np.asarray, bands[name]), color=style["color"], alpha=0.18, lw=0)
    dress(axes, **options)


def bars(
    axes: Axes,
    values: Mapping[str, float | Mapping[str, float]],
    *,
    errors: Mapping[str, tuple[float, float]] | None = None,
    text: str = "{:,.3g}",
    stacked: bool = False,
    standing: bool = False,
    highlight: Collection[str] = (),
    **options: Any,
) -> None:
    """Draw horizontal bars, first on top, each with its value beside it. `options`: see `dress`.

    Args:
        values: label -> length, or label -> {part: length} for grouped or stacked bars.
        errors: label -> (low, high), the ends of its interval.
        text: format of the written values; "" writes none.
        stacked: parts follow each other instead of standing side by side.
        standing: vertical bars.
        highlight: labels of bars in another colour and hatch.
    """
    groups = [value if isinstance(value, Mapping) else {"": value} for value in values.values()]
    thick = 0.8 if stacked else 0.8 / len(groups[0])
    draw, start = (axes.bar, "bottom") if standing else (axes.barh, "left")
    places, begins = np.arange(len(groups)), np.zeros(len(groups))
    for number, part in enumerate(groups[0]):
        lengths = np.array([group[part] for group in groups], dtype=float)
        shift = 0 if stacked else (number - (len(groups[0]) - 1) / 2) * thick
        style = {"color": COLOURS[number % len(COLOURS)], "hatch": HATCHES[number % len(HATCHES)], "edgecolor": "white"}
        drawn = draw(places + shift, lengths, thick, **{start: begins.copy()}, label=part or None, **style)
        for bar, name in zip(drawn, values, strict=True):
            bar.set_gid(name)
            if name in highlight:
                bar.set(facecolor=PALETTE["orange"], hatch="//")
        if stacked:
            begins += lengths
        elif text:
            for label in axes.bar_label(drawn, fmt=text.format, padding=3):
                label.set_label(WRITTEN)
    if errors:
        at = [place for place, name in enumerate(values) if name in errors]
        ends = np.array([errors[name] for name in values if name in errors], dtype=float).T
        mean, half = ends.mean(0), (ends[1] - ends[0]) / 2
        pair = (at, mean) if standing else (mean, at)
        axes.errorbar(*pair, **{"yerr" if standing else "xerr": half}, fmt="none", ecolor=PALETTE["black"], capsize=4)
    (axes.xaxis if standing else axes.yaxis).set_ticks(places, list(values))
    if not standing:
        axes.invert_yaxis()
    axes.grid(visible=False, axis="x" if standing else "y")
    if text and not stacked:
        axes.margins(**{"y" if standing else "x": 0.15})
    dress(axes, **options)


def dots(axes: Axes, series: Mapping[str, tuple[Values, Values]], *, size: float = 40, **options: Any) -> None:
    """Draw points: label -> (places on x, places on y). `options`: see `dress`."""
    for place, (name, (across, up)) in enumerate(series.items()):
        turn = place // len(COLOURS)  # with more series than colours, a colour comes again with another marker
        style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[(place + turn) % len(MARKERS)]}
        axes.scatter(np.asarray(across), np.asarray(up), s=size, label=name, alpha=0.85, zorder=3, **style)
    dress(axes, **options)


def spans(
    axes: Axes, rows: Mapping[str, Values], *, names: Sequence[str] = (), mean: bool = False, **options: Any
) -> None:
    """Draw rows of marks on a line, such as before and after, or a value for each seed; first row on top.

    Args:
        rows: label -> values.
        names: what the first, second, ... value of each row is, for the legend; alike rows use alike marks.
        mean: a stroke at each row's mean.
    """
    for place, (row, values) in enumerate(rows.items()):
        axes.plot([min(values), max(values)], [place, place], color=PALETTE["grey"], linewidth=2, zorder=1)
        for number, value in enumerate(values):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            named = names[number] if number < len(names) and place == 0 else None
            axes.plot([value], [place], linestyle="", markersize=8, label=named, gid=row, **style)
        if mean:
            axes.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color=PALETTE["red"], linewidth=2.5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    dress(axes, **options)


def heatmap(
    axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, colour: str, **options: Any
) -> None:
    """Draw a labelled heat map. `options`: `vmin` and `vmax`, the ends of the colour scale; and see `dress`.

    Args:
        values: shape (len(rows), len(columns)), else InputError.
        colour: what the colour means, with its unit.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise InputError(f"values have shape {values.shape}; the labels say ({len(rows)}, {len(columns)})")
    image = axes.imshow(values, aspect="auto", interpolation="nearest")
    image.set_clim(options.pop("vmin", None), options.pop("vmax", None))
    slanted = max(map(len, columns), default=0) > 3
    axes.set_xticks(range(len(columns)), columns, rotation=45 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes, label=colour)
    dress(axes, **options)


def show(drawn: Figure | Axes | Sequence[Axes], meaning: str, *, within: float = 0.02, crossings: bool = False) -> None:
    """Display a figure with its text twin, and close it.

    The twin stands in the output beside the picture: the sentence of meaning, then what `twin` reads out of the figure.
    The sentence with the titles is the picture's alt text, from where HTML exports take it.

    Args:
        drawn: the figure, or its axes.
        meaning: what the reader should see in the figure, in a sentence or two: 40 characters or more, else InputError.
        within: how far numbers may differ on another machine, as a share of the largest number of their line.
        crossings: name the places where two curves cross.
    """
    figure = drawn if isinstance(drawn, Figure) else np.ravel(drawn)[0].figure
    plt.close(figure)
    meaning = _flat(meaning)
    if len(meaning) < 40:
        raise InputError(f"meaning must say what the figure shows (40 characters or more); got {meaning!r}")
    text = "\n".join([f"Figure (numbers within {within:.0%}): {meaning}", *twin(figure, crossings=crossings)])
    if get_ipython() is None:  # a script has no place for a picture
        print(text)
        return
    picture = print_figure(figure, base64=True, metadata={"Software": None})
    titles = [axes.get_title(loc=loc) for axes in figure.axes for loc in ("left", "center") if axes.get_title(loc=loc)]
    alt = " ".join([meaning, *(f"{title}." for title in titles)]).replace("\n", " ")
    display({"image/png": picture, "text/plain": text}, metadata={"image/png": {"alt": alt}}, raw=True)


def twin(figure: Figure, *, crossings: bool = False) -> list[str]:
    """What a figure draws, in words, a line each: titles, curves, bars, points and heat maps with rounded numbers."""
    text: list[str] = []
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            continue
        title = axes.get_title(loc="left") or axes.get_title()
        axis_names = " | ".join(filter(None, (axes.get_xlabel(), axes.get_ylabel())))
        head = f"“{title}”" if title else "Panel"
        text.append(_flat(f"{head} [{axis_names}]") if axis_names else head)
        rows = [*_line_rows(axes, crossings), *_bar_rows(axes), *_point_rows(axes), *_map_rows(axes)]
        notes = [note.get_text() for note in axes.texts if note.get_label() != WRITTEN and note.get_text().strip()]
        text += [f"  {row}" for row in (*rows, *(f"note {_quoted(note)}" for note in notes))]
    return text


def _flat(text: str) -> str:
    return " ".join(text.split())


def _quoted(text: str) -> str:
    return f"“{_flat(text)}”"


def _label(drawn: Artist) -> str:
    """The label of something drawn; "" where it has none of its own."""
    label = str(drawn.get_label())
    return "" if label.startswith("_") else _quoted(label)


def _number(value: float) -> str:
    """Three significant digits, with commas for thousands."""
    value = float(f"{value:.3g}")
    return f"{value:,.12g}" if 1e-4 <= abs(value) < 1e15 or value == 0 else f"{value:.3g}"


def _curve(values: Any) -> str:
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) <= 8:
        return ", ".join(map(_number, values)) or "nothing"
    ends = f"{_number(values[0])} to {_number(values[-1])}"
    return f"{ends}, lowest {_number(values.min())}, highest {_number(values.max())}, {len(values)} values"


def _line_rows(axes: Axes, crossings: bool) -> Iterator[str]:
    marked = defaultdict(list)  # of `spans`: its other lines repeat these marks
    for line in axes.get_lines():
        if line.get_gid():
            marked[line.get_gid()] += list(line.get_xdata())
    yield from (f"“{name}”: {_curve(values)}" for name, values in marked.items())
    curves: list[tuple[str, np.ndarray, np.ndarray]] = []
    for line in axes.get_lines():
        name, (places, values) = _label(line), (np.asarray(side, dtype=float) for side in line.get_data(orig=False))
        if name and line.get_transform() != axes.transData:  # a reference line
            flat = len(set(values)) == 1 and set(places) == {0.0, 1.0}
            yield f"{name} at {_number(values[0] if flat else places[0])}"
        elif not marked and (name or (len(values) > 2 and not axes.containers)):
            yield f"{name or 'curve'}: {_curve(values)}"
            curves.append((name or "curve", places, values))
    for (name, places, values), (other, *theirs) in itertools.combinations(curves, 2) if crossings else ():
        gap = values - np.interp(places, *theirs)
        kept = np.flatnonzero(gap)  # a place where both are equal is crossed if the sign differs around it
        for i, j in itertools.pairwise(kept):
            if gap[i] * gap[j] < 0:
                place = places[i] + (places[j] - places[i]) * gap[i] / (gap[i] - gap[j])
                yield f"{name} crosses {other} at {_number(place)}"


def _bar_rows(axes: Axes) -> Iterator[str]:
    names = {}
    for group in axes.containers:
        if isinstance(group, container.ErrorbarContainer):  # drawn across the middle of bars with the same places
            side = int(not group.has_yerr)
            for ends in group.lines[2][0].get_segments():
                if name := names.get(round(float(ends[0, side]), 6)):
                    yield f"interval of “{name}”: {' to '.join(map(_number, ends[:, 1 - side]))}"
        if not isinstance(group, container.BarContainer):
            continue
        side = int(group.orientation == "horizontal")  # 1: the bars have their places on the y axis
        axis = (axes.xaxis, axes.yaxis)[side]
        ticks = dict(zip(np.round(axis.get_ticklocs(), 6), (t.get_text() for t in axis.get_ticklabels()), strict=False))
        words = []
        for bar in group.patches:
            corner, size = np.array(bar.get_xy()), np.array([bar.get_width(), bar.get_height()])
            middle, start, length = (corner + size / 2)[side], corner[1 - side], size[1 - side]
            near = min(ticks, key=lambda place, m=middle: abs(place - m), default=None)
            name = names[round(middle, 6)] = bar.get_gid() or ticks.get(near) or _number(middle)
            stands = len(axes.containers) == 1 and start != 0
            ends = f"{_number(start)} to {_number(start + length)}" if stands else _number(length)
            words.append(f"{_quoted(name)} {ends}")
        told = "; ".join(words) if len(words) <= 40 else f"bars: {_curve(group.datavalues)}"
        yield f"{_label(group)}: {told}" if _label(group) else told


def _point_rows(axes: Axes) -> Iterator[str]:
    for points in axes.collections:
        offsets = np.asarray(points.get_offsets(), dtype=float)
        if not isinstance(points, collections.PathCollection) or not len(offsets):
            continue
        told = "; ".join(f"({_number(a)}, {_number(b)})" for a, b in offsets)
        if len(offsets) > 6:
            across, up = (f"{_number(side.min())} to {_number(side.max())}" for side in offsets.T)
            told = f"{len(offsets)} points, {across} across, {up} up"
        yield f"{_label(points) or 'points'}: {told}"


def _map_rows(axes: Axes) -> Iterator[str]:
    for image in axes.images:
        values = np.asarray(image.get_array(), dtype=float)
        if values.ndim != 2:
            continue
        unit = image.colorbar.ax.get_ylabel() if image.colorbar else ""
        low, high, mean = map(_number, (np.nanmin(values), np.nanmax(values), np.nanmean(values)))
        size = f"{values.shape[0]} × {values.shape[1]}" + (f" ({unit})" if unit else "")
        yield f"map of {size}: {low} to {high}, mean {mean}"
        names, columns = ([tick.get_text() for tick in axis.get_ticklabels()] for axis in (axes.yaxis, axes.xaxis))
        if len(names) == len(values) <= 16 and len(columns) == values.shape[1]:
            for name, line in zip(names, values, strict=True):
                best = int(np.nanargmax(line))
                yield f"{_quoted(name)} is highest at {_quoted(columns[best])}: {_number(line[best])}"
