"""Figures carry alt text and show Chinese characters; heatmaps have a text twin; the palette survives greyscale."""

import base64
import io
import warnings

import numpy as np
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt

from utils import plots


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    monkeypatch.setattr(plots, "display", lambda data, metadata, raw: outputs.append((data, metadata)))
    plots.use_style()
    return outputs


ALT = "A straight line that rises from zero at the left to one at the right."


def test_show_stores_the_alt_text_in_metadata_and_as_text(shown):
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    plots.show(figure, alt=ALT)
    ((data, metadata),) = shown
    assert metadata["image/png"]["alt"] == ALT and ALT in data["text/plain"]
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert not plt.fignum_exists(figure.number)


def test_a_figure_without_proper_alt_text_is_refused(shown):
    with pytest.raises(ValueError, match=r"40 characters or more.*'a plot'"):
        plots.show(plt.figure(), alt="a plot")


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


def test_the_heatmaps_text_names_the_strongest_column_of_each_row(shown):
    _, axes = plt.subplots()
    text = plots.heatmap(axes, np.array([[0.1, 0.9], [0.8, 0.2]]), ["a", "b"], ["x", "y"], "Title", "weight")
    assert text.splitlines() == ["Title (weight)", "a: strongest at y (0.90)", "b: strongest at x (0.80)"]


def test_a_heatmap_with_wrong_labels_is_refused(shown):
    _, axes = plt.subplots()
    with pytest.raises(ValueError, match=r"shape \(2, 2\); the labels say \(1, 2\)"):
        plots.heatmap(axes, np.eye(2), ["a"], ["x", "y"], "t", "c")


def test_neighbouring_colours_differ_in_greyscale():
    def lightness(colour):
        return float(np.dot(colors.to_rgb(colour), [0.299, 0.587, 0.114]))

    first = list(plots.PALETTE.values())[:2]
    assert abs(lightness(first[0]) - lightness(first[1])) > 0.2
    assert len(set(plots.MARKERS)) >= len(plots.PALETTE)
