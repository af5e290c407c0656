import base64
import io
import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.figures import IGNORED, color_map, label_curve, lines_of, png_data_uri, spread
from ssl_rs.reporting.results import read_runs

CLIP = "{http://www.w3.org/2000/svg}clipPath"


def pixels_of(uri):
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def table_of(tmp_path):
    (table,), _ = compare(read_runs(tmp_path / "runs")[0])
    return table


def curve_of(table):
    return label_curve(table, lines_of([table]))


def texts_of(svg):
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_classes_are_painted_in_their_colors_and_everything_else_as_ignored():
    painted = color_map(np.array([[0, 1], [2, 255]], dtype=np.uint8), [(1, 2, 3), (4, 5, 6)])
    assert painted.dtype == np.uint8
    assert painted.tolist() == [[[1, 2, 3], [4, 5, 6]], [list(IGNORED), list(IGNORED)]]


def test_pictures_survive_the_way_into_the_page():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(pixels_of(png_data_uri(pixels, 256, smooth=True)), pixels)


def test_large_class_maps_shrink_without_new_colors():
    colors = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)
    pixels = colors[np.random.default_rng(0).integers(0, 2, (60, 90))]
    small = pixels_of(png_data_uri(pixels, 30, smooth=False))
    assert small.shape == (20, 30, 3)
    assert set(np.unique(small)) <= {0, 255}
    assert len(np.unique(pixels_of(png_data_uri(pixels, 30, smooth=True)))) > 2


def test_the_curve_names_rows_and_fractions_as_text(tmp_path, write_run):
    for index, (label, fraction) in enumerate([("random", 0.01), ("random", 1), ("a + b", 0.01), ("a + b", 0.375)]):
        write_run(str(index), label=label, fraction=fraction)
    texts = texts_of(curve_of(table_of(tmp_path)))
    assert {"random", "a + b", "1", "37.5", "100", "mIoU (%)"} <= set(texts)


def test_error_bars_are_drawn_only_where_there_are_several_runs(tmp_path, write_run):
    write_run("a", miou=0.4)
    single = curve_of(table_of(tmp_path))
    write_run("b", miou=0.6, seed=1)
    assert single.count("LineCollection") == 0
    assert curve_of(table_of(tmp_path)).count("LineCollection") > 0


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", "$x^2$", "costs $5", "_hidden", "a & b", "Übersee 海"])
def test_names_of_rows_are_text_whatever_they_hold(tmp_path, write_run, label):
    write_run("a", label=label)
    svg = curve_of(table_of(tmp_path))
    assert label in texts_of(svg)
    assert "<script" not in svg


def test_the_curve_is_the_same_each_time_and_needs_nothing_from_elsewhere(tmp_path, write_run):
    write_run("a")
    table = table_of(tmp_path)
    svg = curve_of(table)
    assert svg == curve_of(table)
    assert svg.startswith("<svg")
    assert 'href="http' not in svg
    assert "url(http" not in svg


def test_every_row_has_a_line_of_its_own_and_random_is_dashed(tmp_path, write_run):
    for label in ["random", *(f"row {index:02}" for index in range(14))]:
        write_run(label, label=label)
    lines = lines_of([table_of(tmp_path)])
    assert len(set(lines.values())) == 15
    assert lines["random"].style == "--"


def test_rows_that_share_a_color_have_other_markers(tmp_path, write_run):
    for label in ["random", *(f"row {index:02}" for index in range(30))]:
        write_run(label, label=label)
    lines = lines_of([table_of(tmp_path)])
    assert len({(line.color, line.marker) for line in lines.values() if line.style != "--"}) == 30


@pytest.mark.parametrize(("rows", "last", "has_legend"), [(3, 1.0, False), (3, 0.1, True), (12, 1.0, True)])
def test_names_stand_at_the_ends_of_few_lines_that_end_together(tmp_path, write_run, rows, last, has_legend):
    """Else in a legend: a line from a name to where its row ends would read as part of the curve."""
    for index in range(rows):
        for fraction in (0.01, 1.0 if index else last):
            write_run(f"{index} {fraction}", label=f"row {index:02}", fraction=fraction)
    svg = curve_of(table_of(tmp_path))
    assert ('id="legend_1"' in svg) == has_legend
    assert {f"row {index:02}" for index in range(rows)} <= set(texts_of(svg))


def test_no_word_of_a_name_is_broken(tmp_path, write_run):
    label = "random, augmentation.horizontal_flip=0.5, optimizer.weight_decay=0.05"
    for fraction in (0.1, 1.0):
        write_run(f"{fraction}", label=label, fraction=fraction)
    texts = texts_of(curve_of(table_of(tmp_path)))
    assert set(label.split()) <= set(" ".join(texts).split())


def test_of_several_rows_of_random_initialization_one_is_dashed(tmp_path, write_run):
    for label in ("random", "random, loss.dice=1.0", "imagenet"):
        write_run(label, label=label, initialization=label.partition(",")[0])
    lines = lines_of([table_of(tmp_path)])
    assert len(set(lines.values())) == 3
    assert [label for label, line in lines.items() if line.style == "--"] == ["random"]


def test_a_row_looks_alike_by_every_protocol(tmp_path, write_run):
    score = {"miou": 0.5, "overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5}
    write_run("a", label="a", protocols={"p": score})
    write_run("b", label="b", protocols={"p": score, "q": score})
    tables, _ = compare(read_runs(tmp_path / "runs")[0])
    lines = lines_of(tables)
    assert [table.labels for table in tables] == [["a", "b"], ["b"]]
    q = label_curve(tables[1], lines)
    assert lines["b"].color.lower() in q
    assert lines["a"].color.lower() not in q


def test_the_curve_names_its_protocol_as_text_and_shares_no_id_with_another(tmp_path, write_run):
    score = {"miou": 0.5, "overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5}
    write_run("a", protocols={"$p_1$": score, "q": score})
    tables, _ = compare(read_runs(tmp_path / "runs")[0])
    first, second = map(curve_of, tables)
    assert "protocol $p_1$" in texts_of(first)
    assert "protocol q" in texts_of(second)
    clips = [{part.get("id") for part in ElementTree.fromstring(svg).iter(CLIP)} for svg in (first, second)]
    assert clips[0]
    assert not clips[0] & clips[1]


def test_a_row_without_any_score_has_no_line(tmp_path, write_run):
    write_run("a")
    write_run("b", label="imagenet", miou=None)
    texts = texts_of(curve_of(table_of(tmp_path)))
    assert "random" in texts
    assert "imagenet" not in texts


def test_spread_keeps_order_and_gap():
    assert spread([0.1, 0.5, 0.9], [0.1] * 3) == [0.1, 0.5, 0.9]
    assert spread([0.5, 0.5], [0.2] * 2) == pytest.approx([0.4, 0.6])
    assert spread([0.5, 0.5], [0.1, 0.3]) == pytest.approx([0.4, 0.6])
    moved = spread([0.9, 0.1, 0.12, 0.11], [0.1] * 4)
    assert sorted(range(4), key=lambda index: moved[index]) == [1, 3, 2, 0]
    ordered = sorted(moved)
    assert all(high - low > 0.0999 for low, high in itertools.pairwise(ordered))
