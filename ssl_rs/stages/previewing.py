"""Preview: the crops and views of one step of a pretraining as a picture; the same numbers as the run would draw."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.data.scene_crops import Crops
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError
from ssl_rs.files import make_folder, written_aside
from ssl_rs.messages import say_line
from ssl_rs.randomness import seed_step
from ssl_rs.reporting.views_figure import Row, draw_views
from ssl_rs.stages.pretraining_batches import crop_on_device, scene_crops, views_of
from ssl_rs.stages.pretraining_plan import Plan, draft, tell_of_unread
from ssl_rs.views.base import CROP, CorruptedView, TransformedView, View, ViewMaker, views_to_make
from ssl_rs.views.fused import TRANSFORMS

FILE = "views.png"

MOST = 32
"""Crops that one picture shows at most."""

USUAL = 5
"""Crops that it shows where nobody says how many, and the batch has as many."""

ROUNDED = 1e-3
"""By how much values may leave [0, 1] unnoticed."""


def preview(settings: Settings) -> Path:
    """Draw the views of some crops of a step; return the path of the picture.

    Raises:
        InputError: Names the key that is wrong.
    """
    wanted, step = settings.value("crops", int | None), settings.value("step", int)
    Processes.alone("preview")
    if (wanted is not None and not 1 <= wanted <= MOST) or step < 0:
        raise InputError(f"crops={wanted} step={step}: expected 1 to {MOST} crops, and a step from 0.")
    named, known = _named_views(settings), settings.names("views")
    values = {name: settings.values["views"][name] for name in named}  # a draft takes out what no task reads
    plan = draft(settings, planned=True)()
    shown = replace(plan, makers=_with_named(plan.makers, named))
    tell_of_unread(settings, [name for name in known if name not in shown.makers])
    more = {name: values[name] for name in shown.makers if name not in plan.makers}
    site = plan.site
    manifest, batch, steps = site.store.manifest, site.rows.total, site.trainer.max_steps
    count = min(USUAL, batch) if wanted is None else wanted
    if count > batch:
        raise InputError(f"crops={count}: a step has trainer.batch_size={batch}. Choose fewer crops or a larger batch.")
    if step >= steps:
        raise InputError(f"step={step}: the run has trainer.max_steps={steps}, counted from 0. Choose an earlier one.")
    digest = config_hash({"views": more}, {"run": plan.run.hash}) if more else plan.run.hash
    own = site.output_dir / "preview" / manifest.dataset / f"seed{site.seed}-{digest}"
    folder = Path(plan.recipe.run_dir) if plan.recipe.run_dir else own
    make_folder(folder)
    # As in the run, also what kornia draws from the global generator for a whole batch.
    seed_step(site.seed, step, 0)
    drawn = _rows(shown, scene_crops(plan, site.seed).batch(step, site.rows), step)
    picture = draw_views(drawn, count, manifest.bands, manifest.dtype != "uint8", _title(plan, step))
    content = io.BytesIO()
    picture.savefig(content, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    with written_aside(folder / FILE) as file:
        file.write(content.getbuffer())
    return folder / FILE


def _named_views(settings: Settings) -> dict[str, ViewMaker]:
    """Return the makers of all views that views=[...] of the command line names, also those that no task reads."""
    if not any(override.startswith("views=") for override in settings.overrides):
        return {}
    return {name: settings.build(f"views.{name}") for name in settings.names("views")}


def _with_named(read: Mapping[str, ViewMaker], named: Mapping[str, ViewMaker]) -> dict[str, ViewMaker]:
    """Add the named views to those that are read, behind them: what draws globally draws as in the run."""
    makers, order = {**named, **read}, tuple(read)
    for name in named:
        try:
            order = views_to_make(makers, (*order, name))
        except InputError as error:
            say_line(f"views.{name} is not shown: {error}")
    return {name: makers[name] for name in order}


def _title(plan: Plan, step: int) -> str:
    size = plan.site.dataset.crop_size
    return f"{plan.site.store.manifest.dataset}: crops of {size} px of step {step}, seed {plan.site.seed}"


def _rows(plan: Plan, stored: Crops, step: int) -> list[Row]:
    """Return the stored crops, then each view with the tasks that read it."""
    found = [Row(CROP, "as stored", crop_on_device(plan, stored))]
    classes: dict[str, Any] = {name: task.func for name, task in plan.tasks.items()}
    for name, view in views_of(plan, stored, step, plan.site.rows).items():
        readers = [task for task, kind in classes.items() if name in (*kind.views, *kind.momentum_views)]
        side = view.image.shape[-1]
        pixels = "" if side == plan.site.dataset.crop_size else f", {side} px"
        source = f"of {plan.makers[name].source}{pixels}"
        others = any(maker.source == name for maker in plan.makers.values())
        unread = "read by no task, made for others" if others else "read by no task"
        read = f"read by {', '.join(readers)}" if readers else unread
        found.append(Row(name, f"{source}; {read}", view, _captions(view)))
        _tell_of_values(name, view)
    return found


def _tell_of_values(name: str, view: View) -> None:
    """Warn of values that the picture would show as black or white, and that a run would go on with."""
    odd = ~((view.image >= -ROUNDED) & (view.image <= 1 + ROUNDED)).flatten(1).all(dim=1)  # [B]
    if odd.any():
        warnings.warn(
            f"views.{name}: values of {int(odd.sum())} of {len(odd)} images are NaN or outside of [0, 1], where the "
            "encoder expects them. Change its maker, e.g. by clamp(0, 1).",
            stacklevel=2,
        )


def _captions(view: View) -> tuple[str, ...]:
    """Say of each image what a task has to find out."""
    if isinstance(view, TransformedView):
        return tuple(TRANSFORMS[index] for index in view.transform.tolist())
    if isinstance(view, CorruptedView):
        changed = (view.image != view.clean).any(dim=1).float().mean(dim=(-2, -1))  # [B]
        return tuple(f"{100 * share:.0f} % changed" for share in changed.tolist())
    return ()
