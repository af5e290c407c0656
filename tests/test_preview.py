"""The preview command: its picture shows the numbers that a run's step would draw."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.randomness import Rows
from ssl_rs.reporting.views_figure import NO_DATA, Row, draw_views
from ssl_rs.stages import previewing
from ssl_rs.stages.pretraining import read_plan, scene_crops, views_of
from ssl_rs.views.base import crop_view
from ssl_rs.views.fused import TRANSFORMS


def images_of(figure):
    """Return what each cell shows, row by row from the top."""
    return [axis.images[0].get_array() for axis in figure.axes]


def test_the_picture_shows_the_views_of_the_runs_own_step(command, tiny, monkeypatch):
    drawn = {}

    def keep(rows, *arguments):
        drawn.update({"rows": rows, "figure": draw_views(rows, *arguments)})
        return drawn["figure"]

    monkeypatch.setattr(previewing, "draw_views", keep)
    code, out, err = command("preview", *tiny, "crops=3", "step=2", "seed=5")
    assert code == 0, err
    picture = Image.open(out.splitlines()[-1])
    assert picture.format == "PNG"

    plan = read_plan(Settings("pretrain", resolve(compose_config("pretrain", [*tiny, "seed=5"]))))
    rows = Rows(0, 4, 4)  # the whole batch, as the run makes it
    stored = scene_crops(plan, 5).batch(2, rows)
    views = views_of(plan, stored, 2, rows)
    assert [row.name for row in drawn["rows"]] == ["crop", *views]
    shown = images_of(drawn["figure"])
    assert len(shown) == 3 * (1 + len(views))
    for index in range(3):
        np.testing.assert_allclose(shown[index], stored.images[index].movedim(0, -1).numpy() / 255, atol=1e-6)
        for place, view in enumerate(views.values(), start=1):
            np.testing.assert_array_equal(shown[3 * place + index], view.image[index].movedim(0, -1).numpy())
    (transformed,) = [row for row in drawn["rows"] if row.name == "transformed"]
    assert list(transformed.captions) == [TRANSFORMS[each] for each in views["transformed"].transform]
    (corrupted,) = [row for row in drawn["rows"] if row.name == "corrupted"]
    changed = [
        (view != clean).any(0).float().mean()
        for view, clean in zip(views["corrupted"].image, views["clean"].image, strict=True)
    ]
    assert list(corrupted.captions) == [f"{share:.0%} changed" for share in changed]
    assert corrupted.about == "of clean; read by inpainting"


def test_only_what_the_tasks_read_is_drawn_and_equal_commands_write_equal_bytes(command, tiny):
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


def test_views_of_kornia_are_those_of_the_run_too(command, tiny):
    line = ("preview", *tiny, "pretext=[contrastive]", "views=[clean,kornia]", "crops=2")
    path = Path(command(*line)[1].splitlines()[-1])
    content = path.read_bytes()
    torch.manual_seed(123)
    assert Path(command(*line)[1].splitlines()[-1]).read_bytes() == content


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
    plain, _ = images_of(draw_views(rows, 1, ("nir", "swir"), False, ""))
    np.testing.assert_allclose(plain[1:], image[0, [0, 1, 0]].movedim(0, -1).numpy()[1:], atol=1e-6)
    assert (plain[0, 0] == np.float32(NO_DATA)).all()
    shown, more = images_of(draw_views(rows, 1, ("nir", "swir"), True, ""))
    low, high = np.percentile(image[0, [0, 1, 0]].movedim(0, -1)[valid[0, 0]].numpy(), (2, 98))
    np.testing.assert_allclose(
        shown[4], np.clip((image[0, [0, 1, 0], 4].T.numpy() - low) / (high - low), 0, 1), atol=1e-5
    )
    np.testing.assert_allclose(
        more[4], np.clip((image[0, [0, 1, 0], 4].T.numpy() + 0.05 - low) / (high - low), 0, 1), atol=1e-5
    )
