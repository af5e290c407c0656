"""What --help says of each key stands behind it in a YAML file, or in the docstring of its class."""

import pytest
import yaml

from ssl_rs.config import compose_config, resolve
from ssl_rs.config_comments import commented
from ssl_rs.config_files import options, used_groups

COMMANDS = ("prepare", "pretrain", "finetune", "evaluate", "predict", "report", "export", "preview", "benchmark")
LISTS = ("pretext", "views")
NEED_PLUGINS = ("launcher",)
KORNIA = ("degrees", "scale", "brightness", "contrast", "saturation", "hue", "p")
RUNS = ("experiment", "sweep")
"""Groups whose options set keys of others."""


def choices(command: str) -> list[list[str]]:
    """Return overrides that choose every option of every group at least once: to compose them takes half a second."""
    groups = [group for group in used_groups(command) if group not in (*NEED_PLUGINS, *RUNS)]
    names = {group: options(group) for group in groups}
    return [
        [
            f"{group}=[{found[i % len(found)]}]" if group in LISTS else f"{group}={found[i % len(found)]}"
            for group, found in names.items()
        ]
        for i in range(max(map(len, names.values()), default=0))
    ]


def lines(command: str, *overrides: str) -> dict[str, str]:
    """Return what stands behind each key, by its name and value."""
    text = commented(command, resolve(compose_config(command, list(overrides))))
    return {key.strip(): said.strip() for key, _, said in (line.partition("  # ") for line in text.splitlines())}


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"preview"}))  # whose options are those of pretrain
def test_every_key_of_every_option_is_explained(command):
    for overrides in ([], *choices(command)):
        silent = [
            key
            for key, said in lines(command, *overrides).items()
            if not (said or key.endswith(":") or key.startswith(("_target_", "_partial_", "- ")))
        ]
        # Of kornia's own augmentations, kornia's documentation tells.
        known = KORNIA if "views=[kornia]" in overrides else ()
        assert not [key for key in silent if key.split(":")[0] not in known], f"{command} {overrides}: {silent}"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_explained_is_the_config(command):
    values = resolve(compose_config(command, []))
    assert yaml.safe_load(commented(command, values)) == values


def test_texts_that_look_like_comments_stay_values():
    values = {"label": "a  # b", "run": "a\nb", "encoder": ["#1\n", "c"], "dataset": {"root": "/data # 2\n# third"}}
    text = commented("evaluate", values)
    assert yaml.safe_load(text) == values
    assert "row of the report" in text


def test_explanations_come_from_where_the_key_is_defined():
    pretrain = lines("pretrain", "pretext=[byol,contrastive]")
    assert pretrain["tile_shift: 0.25"] == (
        "a crop may reach beyond its tile by this share of tile_size, at most by half of itself"
    )
    assert pretrain["weight: 1.0"] == "factor of its loss in the sum"
    # In the docstring of Contrastive, which help does not import:
    assert pretrain["temperature: 0.2"] == "divides the cosine; smaller values weigh the hardest candidates more"
    # On two lines of its file, which is about BYOL and not about the other methods that have a momentum network:
    assert pretrain["start: 0.97"].endswith("the authors' for their shortest run, 40 epochs (0.996 for 1,000)")
    assert "(0.996 for 1,000)" not in lines("pretrain", "pretext=[moco_v2]")["start: 0.99"]


def test_a_key_may_mean_something_else_to_another_command():
    assert lines("evaluate")["size: null"].startswith("pixels a side; null, here and below: as in training; ")
    assert lines("evaluate")["root: null"] == "folder of the data; null: where it was when the run was trained"


def test_lists_are_written_in_a_line():
    assert lines("finetune")["scale: [0.75, 1.25]"] == "magnification about the center"
