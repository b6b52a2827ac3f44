"""HTML is escaped and self-contained; figures are PNG of the size asked for."""

import re

import numpy as np
import pytest

from unisync_loss.utils.plotting import (
    draw_strip,
    draw_waveform,
    figure_png,
    html_image,
    html_note,
    html_page,
    html_table,
    html_text,
    moving_average,
    new_figure,
    style_axes,
)


def test_text_is_escaped_and_control_characters_are_written_out():
    assert html_text('<b> & "x"') == "&lt;b&gt; &amp; &quot;x&quot;"
    assert html_text("a\nb") == "&#x27;a\\nb&#x27;"
    assert html_text(3) == "3"


def test_a_table_escapes_every_cell():
    table = html_table(("name", "n"), [("<i>", 1), ("b", 2.5)])
    assert re.findall("<t[hd]>(.*?)</t[hd]>", table) == ["name", "n", "&lt;i&gt;", "1", "b", "2.5"]
    assert table.count("<tr>") == 3


def test_a_page_holds_title_style_and_body():
    page = html_page("a < b", html_note("careful"), "h3{color:red}")
    assert "<title>a &lt; b</title>" in page
    assert "h3{color:red}</style>" in page
    assert '<main>\n<p class="note">careful</p></main>' in page


def test_an_image_is_held_by_the_page_or_linked():
    assert 'src="data:image/png;base64,AAE="' in html_image(b"\x00\x01", "x")
    assert 'alt="&lt;x&gt;" src="a&amp;b.png"' in html_image("a&b.png", "<x>")


def test_a_moving_average_shrinks_at_the_ends():
    assert moving_average([1, 2, 3, 4, 5], 3).tolist() == [1.5, 2, 3, 4, 4.5]
    assert moving_average([1.0, 3.0, 5.0], 15).tolist() == [2, 3, 4]


def test_strip_and_waveform_are_drawn():
    figure = new_figure(4, 2)
    strip, wave = figure.subplots(2, 1)
    frames = [np.full((4, 6, 3), number, np.uint8) for number in range(10)]
    draw_strip(strip, frames, 4)
    drawn = strip.images[0].get_array()
    assert drawn.shape == (4, 24, 3)
    assert drawn[0, ::6, 0].tolist() == [0, 3, 6, 9]
    draw_strip(wave, frames[:2], 4, (0.0, 1.0, 0.0, 1.0))  # fewer frames than asked for
    assert wave.images[0].get_array().shape == (4, 12, 3)
    wave.clear()
    draw_waveform(wave, np.linspace(-1, 1, 16_000, dtype=np.float32), 16_000, start=2.0)
    assert wave.get_xlim() == (2.0, 3.0)
    style_axes(strip, "title", "label")
    assert (strip.get_title(loc="left"), strip.get_xlabel()) == ("title", "label")
    picture = figure_png(figure)
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"


def test_matplotlib_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"unisync_loss\[report\]"):
        new_figure(1, 1)
