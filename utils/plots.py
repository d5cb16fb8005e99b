"""One look for every figure: colour-blind-safe, readable in greyscale, on light and on dark pages.

Figures have an opaque white ground, so that dark pages show them as they are. `show` displays a figure with alt text
that HTML exports carry, and `heatmap` also returns its numbers as text for readers who cannot see the picture.
"""

import base64
import io
import logging
from importlib import resources

import matplotlib
import numpy as np
from IPython.display import display
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette (jfly.uni-koeln.de/color), ordered so that neighbours differ in lightness too.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "black": "#222222",
    "grey": "#8A8A8A",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # shape says what colour says


def use_style() -> None:
    """Set the course's matplotlib style; Chinese characters fall back to the bundled font."""
    font = resources.files("utils").joinpath("data", "NotoSansCJK-subset.otf")
    if not any("CJK" in entry.name for entry in font_manager.fontManager.ttflist):
        font_manager.fontManager.addfont(str(font))
    # The bundled font has one weight; matplotlib would say so beside every bold title.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    cjk = next(entry.name for entry in font_manager.fontManager.ttflist if "CJK" in entry.name)
    matplotlib.rcParams.update(
        {
            "axes.prop_cycle": matplotlib.cycler(color=list(PALETTE.values())),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.3,
            "figure.facecolor": "white",
            "figure.figsize": (8, 4.2),
            "figure.dpi": 110,
            "savefig.facecolor": "white",
            "font.family": ["DejaVu Sans", cjk],
            "font.size": 10.5,
            "legend.frameon": False,
            "image.cmap": "cividis",
        }
    )


def show(figure: Figure, alt: str) -> None:
    """Display a figure with alt text and close it.

    The text twin ("Figure: ...") stands in the output beside the picture; the alt text stands in its metadata, from
    where the HTML export takes it.

    Raises:
        ValueError: the alt text is too short to stand in for the picture.
    """
    alt = " ".join(alt.split())
    if len(alt) < 40:
        raise ValueError(f"alt text must say what the figure shows (40 characters or more); got {alt!r}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    picture = base64.b64encode(buffer.getvalue()).decode()
    display({"image/png": picture, "text/plain": f"Figure: {alt}"}, metadata={"image/png": {"alt": alt}}, raw=True)


def heatmap(axes: Axes, values: np.ndarray, rows: list[str], columns: list[str], title: str, colour_label: str) -> str:
    """Draw a labelled heatmap and return its text equivalent, one line a row.

    Args:
        axes: where to draw.
        values: shape (len(rows), len(columns)).
        rows, columns: labels.
        title: the finding.
        colour_label: what the colour means, with its unit.

    Raises:
        ValueError: the labels do not fit the shape of `values`.
    """
    values = np.asarray(values)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values have shape {values.shape}; the labels say ({len(rows)}, {len(columns)})")
    image = axes.imshow(values, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes, label=colour_label)
    strongest = (
        f"{row}: strongest at {columns[int(line.argmax())]} ({line.max():.2f})"
        for row, line in zip(rows, values, strict=True)
    )
    return "\n".join([f"{title} ({colour_label})", *strongest])
