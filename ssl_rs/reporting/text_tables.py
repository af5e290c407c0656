r"""The tables of a report for a paper: Markdown, and LaTeX with booktabs. Points are percent of mIoU."""

import re
from collections.abc import Sequence
from typing import Literal

from ssl_rs.reporting.budgets import Budget
from ssl_rs.reporting.study import Study
from ssl_rs.reporting.tables import Comparison, Table
from ssl_rs.reporting.wording import (
    budget_sentence,
    doubts_of_means,
    interval_text,
    over_scenes,
    points_text,
    saved_sentences,
    share_text,
    signed_points_text,
    summary_text,
)

Kind = Literal["markdown", "latex"]

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "[": "{[}", "*": "{*}", "|": r"\textbar{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
"""What means something to LaTeX; a bracket and a star do behind the end of a row."""

SYMBOLS = {"±": r"$\pm$", "–": "--", "−": r"$-$", "≤": r"$\le$", "\N{NO-BREAK SPACE}": "~"}
"""What we write and LaTeX's default fonts lack."""

LONG, LABEL = 32, r"0.4\linewidth"
"""Letters above which the name of a row is broken in LaTeX, and the width that it then has."""

OVER_SCENES = "95 % bootstrap intervals of mIoU in %, of the mean over these seeds, over {}"

SHRINK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Starts what is made smaller where it is wider than a line."""


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it stands, in one line; spaces that must not break stay such."""
    return "".join(SPECIAL.get(letter, SYMBOLS.get(letter, letter)) for letter in _one_line(text))


def escape_markdown(text: str) -> str:
    """Return text that Markdown prints as it stands, also inside of a table; spaces that must not break stay such."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", _one_line(text))
    return re.sub(r"^(\d+[.)]|[-+])(?= )", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", escaped)  # else a list


def _one_line(text: str) -> str:
    return re.sub(r"[ \t\r\n\f\v]+", " ", text).strip(" ")


def tables_text(studies: Sequence[tuple[Table, Study]], kind: Kind) -> str:
    """Return every table, its paired differences and labels saved."""
    parts = [_markdown(*each) if kind == "markdown" else _latex(*each) for each in studies]
    head = "" if kind == "markdown" else "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n"
    return head + "\n".join(parts)


def _title(table: Table) -> str:
    comparison: Comparison = table.comparison
    named = (comparison.dataset, comparison.backbone, comparison.decoder)
    return f"{', '.join(named)}; {table.setting}; protocol {table.protocol.name}"


def _scores(table: Table) -> list[list[str]]:
    head = ["initialization", *(share_text(fraction) for fraction in table.fractions)]
    rows = [[label, *(_cell(table, label, fraction) for fraction in table.fractions)] for label in table.labels]
    return [head, *rows]


def _cell(table: Table, label: str, fraction: float) -> str:
    found = table.miou(label, fraction)
    return "–" if found is None else summary_text(found)


def _over_scenes(table: Table, study: Study) -> list[list[str]]:
    """Return the interval over test scenes of each cell; nothing where no run tells its scenes apart."""
    found = {(each.label, each.fraction): each.scenes for each in study.cells if each.scenes is not None}
    if not found:
        return []
    rows = [
        [label, *(interval_text(found.get((label, fraction)), points_text) for fraction in table.fractions)]
        for label in table.labels
    ]
    return [_scores(table)[0], *rows]


def _differences(study: Study) -> list[list[str]]:
    rows = [
        [each.label, each.reference, share_text(each.fraction), signed_points_text(each.seeds.mean),
         interval_text(each.seeds.interval, signed_points_text), str(each.seeds.n),
         interval_text(each.scenes, signed_points_text)]
        for each in study.first_differences
    ]  # fmt: skip
    return [["initialization", "minus", "labels", "difference", "95 % over seeds", "n", "95 % over scenes"], *rows]


def _changes(budget: Budget) -> list[list[str]]:
    rows = [
        [each.label, share_text(each.fraction), signed_points_text(each.seeds.mean),
         interval_text(each.seeds.interval, signed_points_text), str(each.seeds.n)]
        for each in budget.changes
    ]  # fmt: skip
    return [["initialization", "labels", "change", "95 % over seeds", "n"], *rows]


def _others(study: Study) -> str:
    """Say where the pairs are that the text leaves out."""
    count = len(study.other_differences)
    return f" ({count} more, between other rows, are in differences.csv)" if count else ""


def _markdown(table: Table, study: Study) -> str:
    parts = [f"### {escape_markdown(_title(table))}", "", "mIoU in %: mean ± standard deviation [95 % interval].", ""]
    parts += [_markdown_table(_scores(table)), ""]
    for doubt in doubts_of_means(table):
        parts += [escape_markdown(doubt), ""]
    if scenes := _over_scenes(table, study):
        parts += [f"{OVER_SCENES.format(over_scenes(table, study))}:", "", _markdown_table(scenes), ""]
    if study.differences:
        parts += [f"Paired differences in points{_others(study)}:", "", _markdown_table(_differences(study)), ""]
    said = saved_sentences(table, study)
    parts += [*(f"- {escape_markdown(each)}" for each in said), ""]
    if study.budget:
        parts += [f"{study.budget.longer:,} steps instead of {study.budget.steps:,}, in points:", ""]
        parts += [_markdown_table(_changes(study.budget)), "", escape_markdown(budget_sentence(study.budget)), ""]
    return "\n".join(parts)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(escape_markdown, row))} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])


def _latex(table: Table, study: Study) -> str:
    said = saved_sentences(table, study)
    caption = f"{_title(table)}. mIoU in %: mean ± standard deviation [95 % interval over n seeds]. {' '.join(said)}"
    caption += "".join(f" {doubt}" for doubt in doubts_of_means(table))
    scores = _scores(table)
    if len(table.fractions) > 1:  # else the table would be made smaller
        scores = [[cell.replace(" [", "\n[", 1) for cell in row] for row in scores]
    parts = [_latex_table(scores, caption)]
    if scenes := _over_scenes(table, study):
        parts.append(_latex_table(scenes, f"{_title(table)}. {OVER_SCENES.format(over_scenes(table, study))}."))
    if study.differences:
        caption = f"{_title(table)}. Paired differences of mIoU in points{_others(study)}."
        parts.append(_latex_table(_differences(study), caption))
    if study.budget:
        told = f"{study.budget.longer:,} steps instead of {study.budget.steps:,}, change of mIoU in points"
        parts.append(_latex_table(_changes(study.budget), f"{_title(table)}. {told}. {budget_sentence(study.budget)}"))
    return "\n".join(parts)


def _latex_label(text: str, columns: int) -> str:
    """Return the first cell of a row: broken into lines where it would make a table of many columns small."""
    broken = len(text) > LONG and columns > 2
    return f"\\parbox[t]{{{LABEL}}}{{\\raggedright {escape_latex(text)}\\strut}}" if broken else escape_latex(text)


def _latex_cell(text: str) -> str:
    """Return a cell; a line break in it stays one."""
    lines = r" \\ ".join(map(escape_latex, text.split("\n")))
    return f"\\begin{{tabular}}[t]{{@{{}}r@{{}}}}{lines}\\end{{tabular}}" if "\n" in text else lines


def _latex_table(rows: Sequence[Sequence[str]], caption: str) -> str:
    cells = [[_latex_label(first, len(rows[0])), *map(_latex_cell, rest)] for first, *rest in rows]
    lines = [f"{' & '.join(row)} \\\\{'[2pt]' if any('[t]' in cell for cell in row) else ''}" for row in cells]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{escape_latex(caption)}}}",
            r"\vspace{4pt}",
            SHRINK,
            f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )
