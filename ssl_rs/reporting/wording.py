"""How numbers are written and said, alike on the page, in Markdown and in LaTeX."""

import math
from collections.abc import Callable, Iterator, Sequence

from ssl_rs.reporting.budgets import Budget, Change
from ssl_rs.reporting.cells import FailedRun, MissingCell, StaleRun
from ssl_rs.reporting.runs import LeftOut
from ssl_rs.reporting.statistics import Interval, LabelsSaved, Summary
from ssl_rs.reporting.study import FEWEST_SCENES, NEARLY_ALL, Study
from ssl_rs.reporting.tables import Table

OTHER_SEEDS = "Cells have different seeds: compare them by the paired differences, not by their means."
"""A seed stands for a subset of labels, too, and some are harder."""


OTHER_GROUPS = (
    "Runs differ in which test scenes lie together, as earlier ones do not know: between them there is no interval "
    "over scenes. `python -m ssl_rs.report scene_group=...` says it for all."
)


def share_text(fraction: float) -> str:
    """Return a fraction in (0, 1] as percent, e.g. '0.37 %'."""
    return f"{100 * fraction:.4g}\N{NO-BREAK SPACE}%"


def points_text(value: float) -> str:
    """Return a score in percent points with one decimal, e.g. '57.5'; of one below 0 as of differences."""
    return signed_points_text(value).removeprefix("+")


def signed_points_text(value: float) -> str:
    """Return a difference of scores in percent points, e.g. '+5.2' or '−0.3'; what rounds to nothing has no sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def duration_text(seconds: float) -> str:
    """Return a duration in the largest fitting unit, e.g. '3.2 min'."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f}\N{NO-BREAK SPACE}{unit}"
    return f"{seconds:.0f}\N{NO-BREAK SPACE}s"


def interval_text(interval: Interval | None, say: Callable[[float], str]) -> str:
    """Return the two ends, which no line break parts, e.g. '[55.5, 59.5]', or a dash."""
    return "–" if interval is None else f"[{say(interval.low)},\N{NO-BREAK SPACE}{say(interval.high)}]"


def summary_text(summary: Summary) -> str:
    """Return mean, deviation, interval and number, e.g. '57.5 ± 0.8 [55.5, 59.5], n = 3', none of them parted."""
    number = f"n = {summary.n}".replace(" ", "\N{NO-BREAK SPACE}")
    if summary.std is None:
        return f"{points_text(summary.mean)}, {number}"
    spread = f"{points_text(summary.mean)} ± {points_text(summary.std)}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{spread} {interval_text(summary.interval, points_text)}, {number}"


def headline(tables: Sequence[Table]) -> str:
    """Return what a page is about: labels that pretraining saves, where networks were trained for it on these data."""
    probes, others = (
        [table for table in tables if table.comparison.steps == 0],
        [table for table in tables if table.comparison.steps and table.trained_elsewhere],
    )
    if not tables or len(probes) + len(others) < len(tables):
        return "How many labels does pretraining save?"
    if not others:
        return "How well do probes read frozen encoders?"
    return "How do trained networks do on other data?" if not probes else "Probes, and scores on other data"


def doubts_of_means(table: Table) -> list[str]:
    """Say what speaks against reading the means and intervals of a table for more than they are."""
    said = [OTHER_SEEDS] if table.any_seeds_differ else []
    if table.rounded_shares:
        rounded = ", ".join(f"{share_text(each)} are {_share(share)}" for each, share in table.rounded_shares.items())
        said.append(
            f"Shares of so few labels are rounded to whole {table.comparison.label_unit}s: {rounded}. The curve and "
            "labels saved are over the labels that there were."
        )
    if table.any_groups_differ:
        said.append(OTHER_GROUPS)
    most = max(len(run.groups_of_scenes(table.protocol.labels)) for run in table.runs)
    if 0 < most < FEWEST_SCENES:
        lie = " that lie apart" if table.any_scenes_together else ""
        said.append(f"No interval over scenes: there are fewer than {FEWEST_SCENES} {scored_scenes(table)}{lie}.")
    if names := table.classes_of_some_runs:
        said.append(
            f"{', '.join(names)}: not in the {scored_scenes(table)}, and predicted there by some runs only, "
            "whose mIoU is a mean over more classes (with an IoU of 0) than that of the others."
        )
    said += [
        f"The runs of {label} were not all made alike: {'; '.join(differs)}."
        for label, differs in table.mixed_rows.items()
    ]
    if rows := table.of_one_pretraining:
        whose = rows[0] if len(rows) == 1 else f"each of these rows ({'; '.join(rows)})"
        said.append(
            f"All seeds of {whose} start from one pretraining: intervals over seeds hold for that one, and do not say "
            "how another would fare."
        )
    return said


def scored_scenes(table: Table) -> str:
    """Return what a table's runs were scored on, e.g. "test scenes"."""
    return "scenes" if table.comparison.split == "all" else f"{table.comparison.split} scenes"


def over_scenes(table: Table, study: Study) -> str:
    """Say what intervals over scenes are over."""
    scenes = scored_scenes(table)
    return f"{scenes}, those that lie together as one" if study.in_groups else scenes


def saved_sentences(table: Table, study: Study) -> list[str]:
    """Say of each row how many labels it saves, and what speaks against taking that for more than it is."""
    said = [saved_sentence(label, found) for label, found in study.saved.items() if label != study.random]
    return [*said, *saved_doubts(table, study)]


def saved_doubts(table: Table, study: Study) -> list[str]:
    """Say what speaks against reading labels saved for more than they are, and where they cannot be told."""
    own = study.saturation
    if table.random_label is None and table.random_labels:
        rows = ", ".join(sorted(table.random_labels))
        return [
            f"Labels saved cannot be computed: several rows start from random weights ({rows}). Label one of them "
            "random."
        ]
    if len(study.saved) < 2:
        return []
    said = []
    if own is not None:
        reached = f"{_share(own.fraction)} of the labels ({_saved_interval(own)})"
        said.append(
            f"Random initialization itself reaches with {reached} what it reaches with all: more labels did not show "
            "in these seeds. So a share above that saves no labels, and one below it saves fewer than it seems."
        )
    if study.budget is not None and study.budget.random is not None and study.budget.has_converged is False:
        said.append(
            f"{_who(study.budget.random)} has not converged after {study.budget.steps:,} steps: labels saved also "
            "measure how fast each initialization is optimized."
        )
    return said


def saved_sentence(label: str, found: LabelsSaved | None) -> str:
    """Say in one sentence how many labels an initialization needs to do as well as random initialization with all."""
    if found is None:
        return f"{label} shares no seed with random initialization with all labels: what it saves is not known."
    target = f"random initialization with all labels ({points_text(found.target)})"
    if not found.is_reached:
        said = f"{label} does not reach {target} with up to {_share(found.largest)} of the labels"
    elif found.fraction >= NEARLY_ALL and found.at_smallest:
        tried = "not all seeds have fewer" if found.tried_less else "fewer were not tried"
        said = f"{label} reaches {target} with all labels; {tried}"
    elif found.fraction >= NEARLY_ALL:
        said = f"{label} reaches {target} with all labels only"
    elif found.at_smallest:
        whose, better = ("that all seeds have", "") if found.tried_less else ("measured", ", or better")
        said = (
            f"{label} reaches {target} at the smallest share {whose}, {_share(found.fraction)} of the labels"
            f"{_times(found.fraction)}{better}"
        )
    else:
        said = f"{label} reaches {target} with {_share(found.fraction)} of the labels{_times(found.fraction)}"
    again = f", but is below it again at {_share(found.falls_below)}" if found.falls_below else ""
    return f"{said}{again} ({_saved_interval(found)})."


def budget_sentence(budget: Budget) -> str:
    """Say in a sentence or two whether the number of steps was enough for random initialization with all labels."""
    steps, longer, change = f"{budget.steps:,}", f"{budget.longer:,}", budget.random
    if change is None:
        return (
            f"Whether {steps} steps are enough is not known: no row of random initialization with equal "
            f"settings, seeds and labels was trained for {longer}, too, or several were and none is called random."
        )
    ends = "" if change.seeds.n == 1 else f" {interval_text(change.seeds.interval, signed_points_text)}"
    moved = f"{longer} move its mean by {signed_points_text(change.seeds.mean)} points{ends}, n = {change.seeds.n}"
    rule = f"allowed are {points_text(change.allowed)} (half a point or its standard error, whichever is larger)"
    who = _who(change)
    if budget.has_converged:
        return f"{who} has converged after {steps} steps: {moved}; {rule}.{_not_excluded(change)}"
    if budget.has_converged is None:
        lacks = [
            *(["one seed"] if change.seeds.n == 1 else []),
            *(["less than twice the steps"] if budget.longer < 2 * budget.steps else []),
            *(["not all labels"] if change.fraction < 1 else []),
        ]
        return f"{who} may have converged after {steps} steps: {moved}, but that is {' and '.join(lacks)}."
    return (
        f"{who} has not converged after {steps} steps: {moved}; {rule}. So the numbers above, labels saved too, also "
        "measure how fast each initialization is optimized."
    )


def _who(change: Change) -> str:
    """Say whose change it is."""
    share = "all" if change.fraction == 1 else f"{share_text(change.fraction)} of the"
    return f"Random initialization with {share} labels"


def _not_excluded(change: Change) -> str:
    """Say how far the mean may have moved for all that its interval tells, where that is more than is allowed."""
    ends = change.seeds.interval
    most = 0.0 if ends is None else max(abs(ends.low), abs(ends.high))
    return f" The interval does not exclude {points_text(most)} points." if most > change.allowed else ""


def cells_text(
    done: int, missing: Sequence[MissingCell], failures: Sequence[FailedRun], stale: Sequence[StaleRun],
    left_out: Sequence[LeftOut],
) -> Iterator[str]:  # fmt: skip
    """Say in lines how many cells are in which state, and for each that is not done the command that fills it."""
    others = f", {len(left_out)} left out" if left_out else ""
    yield f"Cells: {done} done, {len(failures)} failed, {len(missing)} missing, {len(stale)} stale{others}"
    yield from (f"  left out {each.path}: {each.reason}" for each in left_out)
    for failure in failures:
        first = (failure.error.strip().splitlines() or ["without a word"])[0]
        yield f"  failed   {failure.directory}: {first}\n           {failure.command}"
    for cell in missing:
        share = "pretraining" if cell.label_fraction is None else share_text(cell.label_fraction)
        if cell.is_planned:
            yield f"  missing  {cell.label}, {share}, seed {cell.seed}: {cell.state}\n           {cell.command}"
    if unplanned := unplanned_text(missing):
        yield f"  {unplanned}"
    for each in stale:
        command = f"\n           {each.command}" if each.command else ""
        yield f"  stale    {each.run.directory}: {each.reason}{command}"


def unplanned_text(missing: Sequence[MissingCell]) -> str:
    """Say how many missing cells no sweep planned, and where they are named; empty where there are none."""
    unplanned = [cell for cell in missing if not cell.is_planned]
    if not unplanned:
        return ""
    told = sum(cell.command is not None for cell in unplanned)
    if len(unplanned) == 1:
        place = "1 of the missing is a place of the tables that no sweep planned"
        return f"{place}: cells.csv names it{', with its command' * told}"
    commands = "" if not told else ", with commands" if told == len(unplanned) else f", {told} with commands"
    places = f"{len(unplanned)} of the missing are places of the tables that no sweep planned"
    return f"{places}: cells.csv names them{commands}"


def _share(fraction: float) -> str:
    return f"{100 * fraction:.2g}\N{NO-BREAK SPACE}%" if fraction < NEARLY_ALL else "100\N{NO-BREAK SPACE}%"


def _times(fraction: float) -> str:
    """Return how many times fewer labels that is, ": 3.7 times fewer"; empty where it would read as once."""
    times = f"{1 / fraction:.0f}" if fraction <= 0.1 else f"{1 / fraction:.2g}"
    return "" if times == "1" else f": {times} times fewer"


def _saved_interval(found: LabelsSaved) -> str:
    of_more = f" of {found.of_seeds}, the others lack a cell" if found.seeds < found.of_seeds else ""
    if found.interval is None:
        return f"n = 1{of_more}: no interval"
    ends = [_share(end) if math.isfinite(end) else "not reached" for end in found.interval]
    at_most = "at most " if found.interval.low == found.smallest else ""  # below it nothing counts
    said = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    return f"95 % interval {at_most}{said}, n = {found.seeds}{of_more or ' seeds'}"
