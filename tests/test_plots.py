"""Figures carry alt text and show Chinese characters; heatmaps have a text twin; the palette survives greyscale."""

import base64
import io
import warnings

import numpy as np
import pytest
from figures import same_twin
from matplotlib import colors
from matplotlib import pyplot as plt

from utils import plots
from utils.errors import InputError


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    monkeypatch.setattr(plots, "display", lambda data, metadata, raw: outputs.append((data, metadata)))
    monkeypatch.setattr(plots, "get_ipython", object)
    plots.use_style()
    return outputs


MEANING = "A straight line that rises from zero at the left to one at the right."


def test_show_stores_the_alt_text_in_metadata_and_the_data_as_text(shown):
    axes = plots.panels()
    plots.lines(axes, {"rise": [0, 0.5, 1]}, title="It rises", x="step", y="loss")
    plots.show(axes, MEANING, within=0.05)
    ((data, metadata),) = shown
    assert metadata["image/png"]["alt"] == f"{MEANING} It rises."
    assert data["text/plain"].splitlines() == [
        f"Figure (numbers within 5%): {MEANING}",
        "“It rises” [step | loss]",
        "  “rise”: 0, 0.5, 1",
    ]
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert not plt.get_fignums()


def test_a_figure_without_its_meaning_is_refused_and_closed(shown):
    with pytest.raises(InputError, match=r"40 characters or more.*'a plot'"):
        plots.show(plots.panels(), "a plot")
    assert not plt.get_fignums()


def test_outside_of_a_notebook_the_twin_is_printed(shown, monkeypatch, capsys):
    monkeypatch.setattr(plots, "get_ipython", lambda: None)
    plots.show(plots.panels(), MEANING)
    assert MEANING in capsys.readouterr().out and not shown


def words(draw, **options) -> list[str]:
    axes = plots.panels()
    draw(axes)
    return plots.twin(axes.figure, **options)[1:]


def test_the_twin_of_curves_has_ends_extremes_references_and_crossings():
    places = np.arange(11)

    def draw(axes):
        plots.lines(
            axes, {"up": places * 1000.0, "down": 9000 - places * 800.0}, across={"floor": 100}, upright={"turn": 5}
        )

    assert words(draw, crossings=True) == [
        "  “up”: 0 to 10,000, lowest 0, highest 10,000, 11 values",
        "  “down”: 9,000 to 1,000, lowest 1,000, highest 9,000, 11 values",
        "  “floor” at 100",
        "  “turn” at 5",
        "  “up” crosses “down” at 5",
    ]


def test_a_curve_may_name_its_places():
    assert words(lambda axes: plots.lines(axes, {"a": ([1, 10, 100], [3, 2, 1])}, log="x")) == ["  “a”: 3, 2, 1"]


def test_the_twin_of_bars_names_each_bar():
    assert words(lambda axes: plots.bars(axes, {"LoRA": 0.5, "full": 0.75}, errors={"full": (0.7, 0.8)})) == [
        "  “LoRA” 0.5; “full” 0.75",
        "  interval of “full”: 0.7 to 0.8",
    ]
    grouped = {"LoRA": {"time": 1, "memory": 2}, "full": {"time": 3, "memory": 4}}
    expected = ["  “time”: “LoRA” 1; “full” 3", "  “memory”: “LoRA” 2; “full” 4"]
    for options in ({}, {"stacked": True}, {"standing": True}):
        assert words(lambda axes, options=options: plots.bars(axes, grouped, **options)) == expected


def test_the_twin_of_points_spans_and_notes():
    assert words(lambda axes: plots.dots(axes, {"head": ([1, 2], [3, 4])})) == ["  “head”: (1, 3); (2, 4)"]
    many = words(lambda axes: plots.dots(axes, {"heads": (np.arange(9), np.arange(9) / 8)}))
    assert many == ["  “heads”: 9 points, 0 to 8 across, 0 to 1 up"]
    assert words(lambda axes: plots.spans(axes, {"a": [1, 2], "b": [3, 4]}, names=["before", "after"], mean=True)) == [
        "  “a”: 1, 2",
        "  “b”: 3, 4",
    ]
    assert words(lambda axes: plots.spans(axes, {"a": [1, 2]}, upright={"dense": 3}))[-1] == "  “dense” at 3"
    assert words(lambda axes: axes.text(0, 0, "over\nhere")) == ["  note “over here”"]


def test_the_twin_of_a_heat_map_names_the_highest_column_of_each_row():
    values = np.array([[0.1, 0.9], [0.8, 0.2]])
    rows = words(lambda axes: plots.heatmap(axes, values, ["a", "b"], ["x", "y"], colour="weight"))
    assert rows == [
        "  map of 2 × 2 (weight): 0.1 to 0.9, mean 0.5",
        "  “a” is highest at “y”: 0.9",
        "  “b” is highest at “x”: 0.8",
    ]


@pytest.mark.parametrize(
    ("find", "put", "same"),
    [
        ("0.5, 1", "0.51, 1.04", True),
        ("0, 0.5, 1", "0.03, 0.5, 1", True),
        ("0.5", "0.52", True),  # within 5 % of 1, the largest number of the line
        ("0.5", "0.56", False),
        ("“rise”", "“fall”", False),
        ("0.5, 1", "1", False),
        ("It rises", "It falls", False),
        ("3 %", "4 %", False),
        ("within 5%", "within 90%", False),
    ],
)
def test_twins_are_compared_word_for_word_and_number_by_number(find, put, same):
    saved = f"Figure (numbers within 5%): {MEANING} At 3 %.\n“It rises”\n  “rise”: 0, 0.5, 1"
    assert find in saved
    assert same_twin(saved, saved.replace(find, put)) is same


def test_chinese_characters_have_glyphs(shown):
    figure, axes = plt.subplots()
    axes.set_title("深度求索模型的参数 医疗 法律")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns for each missing glyph
        figure.savefig(io.BytesIO())


def test_a_missing_glyph_would_be_noticed(shown):
    figure, axes = plt.subplots()
    axes.set_title("\U00013000")  # a hieroglyph, which no font of the course has
    with pytest.warns(UserWarning, match="Glyph"):
        figure.savefig(io.BytesIO())


def test_a_heatmap_with_wrong_labels_is_refused(shown):
    _, axes = plt.subplots()
    with pytest.raises(InputError, match=r"shape \(2, 2\); the labels say \(1, 2\)"):
        plots.heatmap(axes, np.eye(2), ["a"], ["x", "y"], colour="c")


def test_neighbouring_colours_differ_in_greyscale():
    def lightness(colour):
        return float(np.dot(colors.to_rgb(colour), [0.299, 0.587, 0.114]))

    first = list(plots.PALETTE.values())[:2]
    assert abs(lightness(first[0]) - lightness(first[1])) > 0.2
    assert len(set(plots.MARKERS)) >= len(plots.PALETTE)
