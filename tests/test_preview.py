"""The preview command: its picture shows the numbers that a run's step would draw."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_rs.reporting.views_figure import NO_DATA, Row, draw_views
from ssl_rs.stages import pretraining, previewing
from ssl_rs.views.base import crop_view
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.fused import TRANSFORMS


def images_of(figure):
    """Return what each cell shows, row by row from the top."""
    return [axis.images[0].get_array() for axis in figure.axes]


@pytest.fixture
def drawn(monkeypatch):
    """What the last preview drew: its rows, and what its cells show."""
    kept = {}

    def draw(rows, *arguments):
        kept["rows"], figure = rows, draw_views(rows, *arguments)
        kept["cells"] = images_of(figure)
        return figure

    monkeypatch.setattr(previewing, "draw_views", draw)
    return kept


@pytest.fixture
def trained_on(monkeypatch):
    """The views that the steps of a training were given, by step."""
    kept = {}

    def batch_making(plan):
        make_batch, complete = training_batches(plan)

        def make_and_keep(stored, step):
            batch = make_batch(stored, step)
            kept[step] = stored, complete(batch)
            return batch

        return make_and_keep, complete

    training_batches = pretraining.batch_making
    monkeypatch.setattr(pretraining, "batch_making", batch_making)
    return kept


@pytest.mark.parametrize(
    "chosen",
    [
        (),
        ("pretext=[inpainting,contrastive]", "views=[clean,corrupted,kornia]"),
        ("pretext=contrastive", "views=kornia"),
        ("pretext=[byol]",),
    ],
)
def test_the_picture_shows_what_the_run_itself_is_given(command, tiny, drawn, trained_on, chosen):
    line = (*tiny, "seed=5", *chosen)
    assert command("pretrain", *line)[0] == 0
    assert sorted(trained_on) == [0, 1, 2, 3]
    stored, views = trained_on[2]
    code, out, err = command("preview", *line, "crops=3", "step=2")
    assert code == 0, err
    assert Image.open(out.splitlines()[-1]).format == "PNG"
    assert [row.name for row in drawn["rows"]] == ["crop", *views]
    assert len(drawn["cells"]) == 3 * (1 + len(views))
    for index in range(3):
        shown = drawn["cells"][index::3]
        np.testing.assert_allclose(shown[0], stored.images[index].movedim(0, -1).numpy() / 255, atol=1e-6)
        for cell, view in zip(shown[1:], views.values(), strict=True):
            np.testing.assert_array_equal(cell, view.image[index].movedim(0, -1).numpy())


def test_captions_say_what_a_task_has_to_find_out(command, tiny, drawn, trained_on):
    assert command("pretrain", *tiny)[0] == 0
    assert command("preview", *tiny, "crops=3", "step=1")[0] == 0
    views, rows = trained_on[1][1], {row.name: row for row in drawn["rows"]}
    assert list(rows["transformed"].captions) == [TRANSFORMS[each] for each in views["transformed"].transform]
    clean, corrupted = views["clean"].image.numpy(), views["corrupted"].image.numpy()
    shares = [np.mean((one != other).any(axis=0)) for one, other in zip(clean, corrupted, strict=True)]
    assert list(rows["corrupted"].captions) == [f"{100 * share:.0f} % changed" for share in shares]
    assert rows["corrupted"].about == "of clean; read by inpainting"
    assert rows["clean"].about == "of crop; read by transform_prediction, contrastive"


def test_only_what_the_tasks_read_is_drawn_and_equal_commands_write_equal_bytes(command, tiny):
    assert command("preview", *tiny)[0] == 0  # all four of the batch, which are fewer than the usual five
    line = ("preview", *tiny, "pretext=[inpainting]", "crops=2")
    first = command(*line)[1].splitlines()[-1]
    content = Path(first).read_bytes()
    assert command(*line)[1].splitlines()[-1] == first
    assert Path(first).read_bytes() == content
    other = command(*line, "step=1")[1].splitlines()[-1]
    assert other != first
    assert Path(other).read_bytes() != content
    both = Image.open(command("preview", *tiny, "crops=2")[1].splitlines()[-1])
    assert both.height > Image.open(first).height  # three views instead of two


def test_views_smaller_than_the_crops_tell_their_size(command, tiny, drawn):
    given = ("pretext=[simclr]", "dataset.crop_size=48", "views.simclr_first.size=32", "views.simclr_second.size=32")
    assert command("preview", *tiny, *given, "crops=2")[0] == 0
    assert [row.about for row in drawn["rows"]] == ["as stored", *["of crop, 32 px; read by simclr"] * 2]
    assert [cell.shape[:2] for cell in drawn["cells"]] == [(48, 48)] * 2 + [(32, 32)] * 4


def test_views_that_the_command_line_names_are_shown_also_where_no_task_reads_them(command, tiny, drawn, trained_on):
    chosen = (*tiny, "pretext=[simclr]", "views=[clean,simclr,masked]")
    assert command("pretrain", *chosen)[0] == 0
    code, out, err = command("preview", *chosen, "crops=2", "step=1")
    assert code == 0, err
    rows = {row.name: row for row in drawn["rows"]}
    assert list(rows) == ["crop", "simclr_first", "simclr_second", "clean", "corrupted"]
    assert rows["clean"].about == "of crop; read by no task, made for others"
    assert rows["corrupted"].about == "of clean; read by no task"
    for name, view in trained_on[1][1].items():
        assert torch.equal(rows[name].view.image, view.image)
    read_alone = command("preview", *tiny, "pretext=[simclr]", "crops=2", "step=1")[1].splitlines()[-1]
    assert [row.name for row in drawn["rows"]] == ["crop", "simclr_first", "simclr_second"]
    other = command("preview", *chosen, "views.corrupted.share=0.2", "crops=2", "step=1")[1].splitlines()[-1]
    assert len({read_alone, out.splitlines()[-1], other}) == 3


def test_views_named_besides_leave_what_kornia_draws_as_in_the_run(command, tiny, drawn, trained_on):
    chosen = (*tiny, "pretext=contrastive", "views=[corrupted,kornia,simclr]")
    assert command("pretrain", *chosen)[0] == 0
    assert command("preview", *chosen, "step=2")[0] == 0
    rows = {row.name: row for row in drawn["rows"]}
    assert set(rows) == {"crop", "clean", "transformed", "corrupted", "simclr_first", "simclr_second"}
    assert torch.equal(rows["transformed"].view.image, trained_on[2][1]["transformed"].image)


def test_a_setting_of_a_view_that_is_not_shown_is_told(command, tiny, recwarn):
    given = (*tiny, "pretext=[contrastive]", "views.corrupted.num_blocks=3", "crops=2")
    with pytest.warns(UserWarning, match=r"views\.corrupted\.num_blocks=3 has no effect: no task of pretext="):
        assert command("preview", *given)[0] == 0
    recwarn.clear()
    assert command("preview", *given, "views=[clean,transformed,corrupted]")[0] == 0
    assert not [each for each in recwarn if "has no effect" in str(each.message)]


@pytest.mark.parametrize("odd", [float("nan"), 2.0, -0.1])
def test_values_of_a_view_that_no_encoder_expects_are_told(command, tiny, monkeypatch, odd):
    """A picture would show them as black or white."""

    def view(self, source, *drawn):
        image = source.image.clone()
        image[1, 0, 2, 3] = odd
        return replace(source, image=image)

    monkeypatch.setattr(CleanMaker, "make", view)
    with pytest.warns(UserWarning, match=r"views\.clean: values of 1 of 4 images are NaN or outside of \[0, 1\]"):
        assert command("preview", *tiny, "pretext=[contrastive]", "views=[clean,transformed]")[0] == 0


def test_a_named_view_that_nobody_can_make_is_told_and_left_out(command, tiny, drawn):
    code, _, err = command("preview", *tiny, "pretext=[simclr]", "views=[simclr,masked]")
    assert code == 0
    assert "views.corrupted is not shown: views.corrupted.source=clean: nobody makes that view." in err
    assert [row.name for row in drawn["rows"]] == ["crop", "simclr_first", "simclr_second"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("crops=0",), "crops=0 step=0: expected 1 to 32 crops"),
        (("crops=33",), "crops=33 step=0: expected 1 to 32 crops"),
        (("step=-1",), "step=-1: expected 1 to 32 crops, and a step from 0"),
        (("crops=2", "step=4"), "step=4: the run has trainer.max_steps=4, counted from 0"),
        (("crops=5",), "crops=5: a step has trainer.batch_size=4"),
        (("crop=2",), "Did you mean 'crops'?"),
        (("pretext=[inpainting]", "views=[clean]"), "reads the view 'corrupted'"),
    ],
)
def test_mistakes_are_told(command, tiny, given, said):
    code, _, err = command("preview", *tiny, *given)
    assert code == 2
    assert said in err


def test_missing_pixels_are_gray_and_wide_values_are_stretched_alike_in_all_rows():
    image = torch.linspace(0.1, 0.3, 2 * 64).view(1, 2, 8, 8)  # two bands
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[0, 0, 0, 0] = False
    first, brighter = crop_view(image, valid=valid), crop_view(image + 0.05, valid=valid)
    rows = [Row("crop", "as stored", first), Row("other", "", brighter, ("caption",))]
    assert draw_views(rows, 1, ("nir", "swir"), True, "Views")._suptitle.get_text() == "Views\nband nir, stretched"
    plain, _ = images_of(draw_views(rows, 1, ("nir", "swir"), False, ""))
    np.testing.assert_allclose(plain[1:], image[0, [0, 0, 0]].movedim(0, -1).numpy()[1:], atol=1e-6)
    assert (plain[0, 0] == np.float32(NO_DATA)).all()
    shown, more = images_of(draw_views(rows, 1, ("nir", "swir"), True, ""))
    low, high = np.percentile(image[0, [0, 0, 0]].movedim(0, -1)[valid[0, 0]].numpy(), (2, 98))
    np.testing.assert_allclose(
        shown[4], np.clip((image[0, [0, 0, 0], 4].T.numpy() - low) / (high - low), 0, 1), atol=1e-5
    )
    np.testing.assert_allclose(
        more[4], np.clip((image[0, [0, 0, 0], 4].T.numpy() + 0.05 - low) / (high - low), 0, 1), atol=1e-5
    )
