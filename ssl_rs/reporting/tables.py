"""Runs put side by side: only what may be compared shares a table."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ssl_rs.reporting.protocols import Protocol
from ssl_rs.reporting.runs import LeftOut, Run, Score
from ssl_rs.reporting.starts import file_of, starts_of
from ssl_rs.reporting.statistics import Summary, means_by_key, summarize

KINDS = ("random", "imagenet", "file", "finetuned", "pretrained")
"""The order of rows; rows of one kind follow by their label."""


MEANT = ("seed", "label_fraction.fraction", "dataset.protocol")
"""Settings by which runs of one comparison differ on purpose, beside those of initialization."""


class Comparison(NamedTuple):
    """What runs must have in common to be compared; each has tables and pictures of its own."""

    dataset: str
    backbone: str
    decoder: str
    steps: int
    label_unit: str
    label_order: str
    manifest_sha256: str
    split: str

    @property
    def setting(self) -> str:
        """What tells it from others of its data set and network, e.g. "500 steps, test scenes, labels by tile"."""
        trained = f"{self.steps:,} steps" if self.steps else "frozen encoder"
        order = "" if self.label_order == "random" else f", {self.label_order} order"
        return f"{trained}, {self.split} scenes, labels by {self.label_unit}{order}"


class Place(NamedTuple):
    """Where a run stands in the table of its comparison, and which of several runs in that place it is."""

    label: str
    label_fraction: float
    seed: int
    weights_sha256: str


TRAINED = ("pretrained", "finetuned")
"""Initializations whose weights come from a training of ours, of which there could be others."""


@dataclass(frozen=True)
class Table:
    """The runs of one comparison, scored by one protocol.

    Args:
        comparison: What they have in common.
        protocol: How the scores were counted.
        runs: In the order of the rows.
        labels: The rows, by kind and name.
        fractions: The columns, ascending, in (0, 1].
        apart: What tells its data from that of another comparison that reads alike; empty where none does.
    """

    comparison: Comparison
    protocol: Protocol
    runs: Sequence[Run]
    labels: Sequence[str]
    fractions: Sequence[float]
    apart: str = ""

    @property
    def setting(self) -> str:
        """What tells it from others of its data set and network."""
        return ", ".join(filter(None, (self.comparison.setting, self.trained_elsewhere, self.apart)))

    @property
    def trained_elsewhere(self) -> str:
        """On which other data its networks were trained; empty where some were on its own: the other rows say it."""
        if any(run.trained_on in ("", run.manifest_sha256) for run in self.runs):
            return ""
        names = dict.fromkeys(run.trained_on_name or f"data {run.trained_on[:8]}" for run in self.runs)
        return f"trained on {' and '.join(sorted(names))}"

    def cell(self, label: str, fraction: float) -> list[Run]:
        """Return the runs of one cell; their seeds or their weights differ."""
        return [run for run in self.runs if run.label == label and run.label_fraction == fraction]

    def summary(self, label: str, fraction: float, value: Callable[[Score], float | None]) -> Summary | None:
        """Summarize one value over the seeds of a cell; None where no run has it.

        Runs of one seed from several pretrainings are averaged first: they share subset, crops and the weights of the
        decoder, so they are no further seeds.
        """
        values = [(run.seed, value(run.scores[self.protocol.name])) for run in self.cell(label, fraction)]
        known = means_by_key((seed, each) for seed, each in values if each is not None)
        return summarize(list(known.values())) if known else None

    def seeds_differ(self, fraction: float) -> bool:
        """Tell whether the cells of a column have different seeds: their means are then no measure of each other."""
        cells = [self.cell(label, fraction) for label in self.labels]
        return len({frozenset(run.seed for run in cell) for cell in cells if cell}) > 1

    @property
    def any_seeds_differ(self) -> bool:
        """Tell whether any of its cells have different seeds."""
        return len({frozenset(run.seed for run in cell) for cell in self._cells() if cell}) > 1

    def _cells(self) -> list[list[Run]]:
        return [self.cell(label, fraction) for label in self.labels for fraction in self.fractions]

    @property
    def any_groups_differ(self) -> bool:
        """Tell whether its runs know the same test scenes, and differ in which of them lie together."""
        found: dict[frozenset[str], set[tuple[tuple[str, ...], ...]]] = {}
        for run in self.runs:
            groups = run.groups_of_scenes(self.protocol.labels)
            found.setdefault(frozenset(scene for group in groups for scene in group), set()).add(groups)
        return any(len(each) > 1 for each in found.values())

    @property
    def classes_of_some_runs(self) -> list[str]:
        """Return the classes that the mIoU of some of its runs is a mean over, and that of others is not."""
        known = [run.scores[self.protocol.name].class_iou for run in self.runs]
        names = dict.fromkeys(name for each in known for name in each)
        absent = {name: [each[name] is None for each in known if name in each] for name in names}
        return [name for name, found in absent.items() if any(found) and not all(found)]

    @property
    def mixed_rows(self) -> dict[str, list[str]]:
        """Return the rows whose runs were meant alike and were not made alike, and what differs in each of them.

        The settings of `differing_settings`: where they were meant otherwise, rows are told apart.
        """
        rows = {label: [run for run in self.runs if run.label == label] for label in self.labels}
        found = {label: differing_settings(runs) for label, runs in rows.items()}
        return {
            label: [f"{key} ({', '.join(values)})" for key, values in each.items()]
            for label, each in found.items()
            if each
        }

    @property
    def of_one_pretraining(self) -> list[str]:
        """Return the rows of which several seeds start from the weights of one and the same training of ours."""
        rows = {label: [run for run in self.runs if run.label == label] for label in self.labels}
        return [
            label
            for label, runs in rows.items()
            if runs[0].initialization in TRAINED
            and len({run.seed for run in runs}) > 1
            and len({run.weights_sha256 for run in runs}) == 1
        ]

    def miou(self, label: str, fraction: float) -> Summary | None:
        """Summarize mIoU over the seeds of a cell."""
        return self.summary(label, fraction, lambda score: score.miou)

    def best(self, fraction: float) -> list[str]:
        """Return the labels with the highest mean mIoU of a column, where there are two to compare, of equal seeds."""
        if self.seeds_differ(fraction):
            return []
        means = {label: found.mean for label in self.labels if (found := self.miou(label, fraction))}
        return [label for label, mean in means.items() if mean == max(means.values())] if len(means) > 1 else []

    @property
    def random_labels(self) -> set[str]:
        """The rows of random initialization."""
        return {run.label for run in self.runs if run.initialization == "random"}

    @property
    def random_label(self) -> str | None:
        """The row of random initialization that others are measured by: the only one, or of several that called so."""
        labels = self.random_labels
        return next(iter(labels)) if len(labels) == 1 else "random" if "random" in labels else None

    def full_random(self) -> Summary | None:
        """Return the mIoU of random initialization with every label: what pretraining tries to reach with fewer."""
        return None if self.random_label is None else self.miou(self.random_label, 1.0)

    def reaches_full_random(self, label: str, fraction: float) -> bool:
        """Tell whether a cell of another initialization is at least as good as `full_random`, over the same seeds."""
        found, full = self.miou(label, fraction), self.full_random()
        if found is None or full is None or label in self.random_labels or self.random_label is None:
            return False
        seeds = [{run.seed for run in cell} for cell in (self.cell(label, fraction), self.cell(self.random_label, 1.0))]
        return seeds[0] == seeds[1] and found.mean >= full.mean


def comparison_of(run: Run) -> Comparison:
    """Return what a run may be compared within."""
    return Comparison(*(getattr(run, name) for name in Comparison._fields))


def compare(runs: Iterable[Run]) -> tuple[list[Table], list[LeftOut]]:
    """Sort runs into tables.

    Returns:
        A table a comparison and protocol, fine-tuning before probes, test scenes before validation scenes, the data
        set's own protocol first; and the runs whose settings differ from those of their row, or that would fill a
        place a second time (same label, fraction, seed and weights): a mean over them would mean nothing. An
        `evaluate` of a run gives way to the run's own scores without a word.
    """
    groups: dict[tuple[Comparison, Protocol], dict[Place, Run]] = defaultdict(dict)
    ordered = sorted(runs, key=lambda run: (run.command == "evaluate", str(run.directory)))
    left_out = _odd_ones(ordered)
    for run in ordered:
        if run.directory in left_out:
            continue
        place = Place(*(getattr(run, name) for name in Place._fields))
        scores = sorted(run.scores.values(), key=lambda score: score.protocol.name != run.protocol)
        own = [(comparison_of(run), score.protocol) for score in scores]
        there = [groups[key][place] for key in own if key in groups and place in groups[key]]
        if first := next((each for each in there if each.command == run.command), None):
            remedy = "" if run.command == "evaluate" else "give it a row of its own by initialization.label, or "
            left_out[run.directory] = (
                f"same label '{run.label}', label fraction and seed as {first.directory}, but other settings; "
                f"{remedy}delete one of the two"
            )
            continue
        for key in own:
            groups[key].setdefault(place, run)
    apart = _apart({comparison: list(places.values()) for (comparison, _), places in groups.items()})
    tables = [
        _table(*key, list(places.values()), apart[key[0]])
        for key, places in sorted(groups.items(), key=lambda item: _comparison_order(item[0][0]))
    ]
    return tables, [LeftOut(directory, reason) for directory, reason in left_out.items()]


def _odd_ones(runs: Sequence[Run]) -> dict[Path, str]:
    """Return the runs whose settings, or whose pretraining's, are not those of most runs of their row, and why."""
    rows: dict[tuple[Comparison, str], list[Run]] = defaultdict(list)
    for run in runs:
        rows[comparison_of(run), run.label].append(run)
    odd = {}
    for (_, label), row in rows.items():
        alike = _most(row, [run.row_hash for run in row])
        usual = _most(alike, starts_of(alike))
        same_settings, same_start = ({run.directory for run in kept} for kept in (alike, usual))
        for run in row:
            if run.directory not in same_settings:
                differs = "its settings are not those of"
            elif run.directory in same_start:
                continue
            elif run.initialization != usual[0].initialization:
                differs = f"its weights start from {run.initialization}, not as those of"
            elif file_of(run) != file_of(usual[0]):
                differs = "it starts from another file of weights, or takes others of it, than"
            else:
                differs = "the settings of its pretraining are not those of the pretrainings of"
            odd[run.directory] = (
                f"{differs} most other runs of the row '{label}'; give it a row of its own by initialization.label, or "
                "delete it"
            )
    return odd


def _most(runs: Sequence[Run], keys: Sequence[Hashable]) -> list[Run]:
    """Return the runs with the key that most of them have; of keys that as many have, the first."""
    common = Counter(keys).most_common(1)
    return [run for run, key in zip(runs, keys, strict=True) if key == common[0][0]]


def is_compared(key: str) -> bool:
    """Tell whether runs of one comparison should have a setting in common."""
    return key not in MEANT and not key.startswith("initialization.")


def differing_settings(runs: Iterable[Run]) -> dict[str, dict[str, list[str]]]:
    """Return the settings that are not those of all rows, though a table compares them: by key, each value's rows.

    What a comparison is meant to vary is not among them, nor what some row does not tell.
    """
    values: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        for key, value in run.settings.items():
            if is_compared(key):
                values[key][str(value)][run.label] = None
    return {
        key: {value: list(labels) for value, labels in found.items()}
        for key, found in sorted(values.items())
        if len(found) > 1
    }


def _apart(groups: Mapping[Comparison, Sequence[Run]]) -> dict[Comparison, str]:
    """Name what differs between comparisons that read alike: settings of their data, or else its manifest."""
    alike: dict[Comparison, list[Comparison]] = defaultdict(list)
    for comparison in groups:
        alike[comparison._replace(manifest_sha256="")].append(comparison)
    settings = {comparison: _settings_of_data(runs) for comparison, runs in groups.items()}
    told, data = {}, {}
    for comparison in groups:
        others = alike[comparison._replace(manifest_sha256="")]
        differing = differing_settings(run for other in others for run in groups[other])
        named = ", ".join(
            f"{key}={next(iter(values))}"
            for key, values in settings[comparison].items()
            if key in differing and all(len(settings[other].get(key, ())) <= 1 for other in others)
        )
        data[comparison] = _data(comparison, groups, others)
        told[comparison] = "" if len(others) == 1 else named or data[comparison]
    texts = Counter((comparison._replace(manifest_sha256=""), text) for comparison, text in told.items())
    return {
        comparison: text
        if not text or texts[comparison._replace(manifest_sha256=""), text] == 1
        else f"{text}, {data[comparison]}"
        for comparison, text in told.items()
    }


def _settings_of_data(runs: Sequence[Run]) -> dict[str, set[str]]:
    """Return the values that some runs have of each setting of their data, ordered by its key."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for key in sorted(run.settings):
            if key.startswith("dataset."):
                found[key].add(str(run.settings[key]))
    return dict(sorted(found.items()))


def _data(
    comparison: Comparison, groups: Mapping[Comparison, Sequence[Run]], others: Sequence[Comparison]
) -> str:  # fmt: skip
    """Name the data of a comparison: by their manifest, and by what differs between them and those of others."""
    manifest = f"data {comparison.manifest_sha256[:8]}"
    if len(others) == 1:
        return manifest
    shared = set.intersection(*({run.label_fraction for run in groups[each]} for each in others))
    counted = [_counts_of_data(groups[each], max(shared, default=None)) for each in others]
    own = counted[others.index(comparison)]
    said = [text for key, text in own.items() if len({each.get(key) for each in counted}) > 1]
    return f"{manifest} ({', '.join(said)})" if said else manifest


def _counts_of_data(runs: Sequence[Run], fraction: float | None) -> dict[str, str]:
    """Return how many scenes and pixels runs were scored on, and how many units a share of the labels is, in words.

    Args:
        runs: Of one comparison.
        fraction: The share, in (0, 1]; None: none that others have too.
    """
    split, found = "" if runs[0].split == "all" else f"{runs[0].split} ", {}
    if scored := next((run.scene_confusions["full"] for run in runs if run.scene_confusions.get("full")), None):
        pixels = sum(int(counts.sum()) for counts in scored.values())
        found = {
            "scenes": f"{len(scored)} {split}scene{'s' * (len(scored) != 1)}",
            "pixels": f"{pixels:,} {split}pixels",
        }
    trained_here = [run for run in runs if run.trained_on == run.manifest_sha256 and run.label_fraction == fraction]
    units = {run.labeled_units for run in trained_here}
    if fraction is not None and len(units) == 1:
        count, unit = units.pop(), runs[0].label_unit
        share = "all" if fraction == 1 else f"{100 * fraction:.4g}\N{NO-BREAK SPACE}% of the"
        found["units"] = f"{share} labels: {count:,} {unit}{'s' * (count != 1)}"
    return found


def _table(comparison: Comparison, protocol: Protocol, runs: Sequence[Run], apart: str) -> Table:
    kinds: Mapping[str, str] = {run.label: run.initialization for run in runs}
    labels = sorted(kinds, key=lambda label: (*_kind_order(kinds[label]), label))
    ordered = sorted(runs, key=lambda run: (labels.index(run.label), run.label_fraction, run.seed, run.weights_sha256))
    return Table(comparison, protocol, ordered, labels, sorted({run.label_fraction for run in runs}), apart)


def _comparison_order(comparison: Comparison) -> tuple[object, ...]:
    """Sort data sets by name, in each fine-tuning before probes of frozen encoders, and test scenes before others."""
    return (comparison.dataset, comparison.steps == 0, comparison.split != "test", comparison)


def _kind_order(kind: str) -> tuple[int, str]:
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)
