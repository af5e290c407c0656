"""Every key counts in the hash or is named, none stays unread, and mistakes say what was meant."""

import copy
import importlib.metadata
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import pytest
import yaml

from ssl_rs import build as targets
from ssl_rs.command import main
from ssl_rs.config import FOLDERS, Settings, compose_config, resolve
from ssl_rs.config_files import conf_dir, options, search_in
from ssl_rs.config_hash import HASHED_AS, LATER, WITHOUT_EFFECT, config_hash, without_effect
from ssl_rs.errors import InputError
from ssl_rs.overrides import SWEEPING, quoted

PLUGINS = {"slurm": "hydra-submitit-launcher", "ray": "hydra-ray-launcher"}
INSTALLED = {distribution.name for distribution in importlib.metadata.distributions()}


@cache
def composed(command: str) -> dict[str, Any]:
    """Return the resolved default settings, which no test changes."""
    return resolve(compose_config(command, []))


# The hash of a config


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from leaves(child, (*path, name))
    else:
        yield path


def changed(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    other = copy.deepcopy(values)
    *folders, last = path
    node = other
    for name in folders:
        node = node[name]
    node[last] = "another" if not isinstance(node[last], int | float) else node[last] + 1
    return other


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_the_hash_ignores_what_cannot_change_a_result_and_nothing_else(command):
    values = composed(command)
    own = config_hash(values, {"manifest": "m"})
    paths = list(leaves(values))
    assert len(paths) > 40
    for path in paths:
        key = ".".join(path)
        ignored = key in HASHED_AS or any(key == each or key.startswith(f"{each}.") for each in WITHOUT_EFFECT)
        assert (config_hash(changed(values, path), {"manifest": "m"}) == own) == ignored, key


def test_what_is_ignored_is_where_and_how_a_run_computes_but_not_what():
    assert {key for key in WITHOUT_EFFECT if "." not in key} == {
        "run_dir", "output_dir", "store_dir", "logger", "trusted_packages",
    }  # fmt: skip
    assert {key for key in WITHOUT_EFFECT if "." in key} == {
        "dataset.root", "dataset.on_bad_scene", "dataset.scene_group", "initialization.run", "initialization.weights",
        "evaluation.window.batch_size", "evaluation.every_steps", "trainer.device", "trainer.num_workers",
        "trainer.resident", "trainer.cuda_graph",
        "trainer.keep_memory", "trainer.accept_other_versions", "trainer.on_collapse", "trainer.checkpoint_every_steps",
        "trainer.log_every_steps",
    }  # fmt: skip


def test_steps_that_may_be_left_out_are_hashed_as_none():
    """Two runs that end have left out the same steps, however many they might have; the hash of kept runs stays."""
    values = composed("pretrain")
    assert values["trainer"]["max_skipped_steps"] == 0
    more = copy.deepcopy(values)
    more["trainer"]["max_skipped_steps"] = 10
    assert config_hash(more, {}) == config_hash(values, {})
    assert without_effect("trainer.max_skipped_steps")


def test_every_ignored_key_is_one_of_a_command():
    present = {
        ".".join(path[:length])
        for command in ("pretrain", "finetune")
        for path in leaves(composed(command))
        for length in range(1, len(path) + 1)
    }
    assert set(WITHOUT_EFFECT) <= present


def test_all_labels_are_one_cell_however_they_are_written():
    hashes = []
    for given in ("label_fraction=100pct", "label_fraction.fraction=1", "label_fraction=10pct"):
        settings = Settings("finetune", resolve(compose_config("finetune", [given])))
        settings.build("label_fraction")
        hashes.append(config_hash(settings.values, {}))
    assert hashes[0] == hashes[1] != hashes[2]


def test_numbers_are_kept_as_what_reads_them_takes_them():
    values = {
        "lr": 1, "steps": 2,
        "loss": {"_target_": "ssl_rs.segmentation.loss.SegmentationLoss", "dice": 1, "balance": 0.5},
        "augmentation": {
            "_target_": "ssl_rs.segmentation.augmentation.SegmentationAugmentation", "scale": [1, 2],
            "horizontal_flip": 0, "vertical_flip": 0.5, "rotation": 1,
            "color": {"_target_": "ssl_rs.views.fused.ColorJitter", "brightness": [1, 1], "hue": [0, 0.5]},
        },
    }  # fmt: skip
    settings = Settings("finetune", values)
    settings.value("lr", float | None)
    settings.value("steps", int)
    settings.build("loss")
    built = settings.build("augmentation")
    assert json.dumps(settings.values["loss"]["dice"]) == "1.0"
    assert json.dumps(settings.values["augmentation"]["scale"]) == "[1.0, 2.0]"
    assert json.dumps(settings.values["augmentation"]["color"]["brightness"]) == "[1.0, 1.0]"
    assert json.dumps([settings.values["lr"], settings.values["steps"]]) == "[1.0, 2]"
    assert type(built.color.brightness[0]) is float


def nodes(values: Any) -> Any:
    """Yield every node with a target in the content of a YAML file."""
    if isinstance(values, dict):
        if str(values.get("_target_", "")).startswith(("ssl_rs.", "torch.")):
            yield values
        for value in values.values():
            yield from nodes(value)


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_options_are_written_as_what_reads_them_takes_them(path):
    for node in nodes(yaml.safe_load(path.read_text())):
        assert json.dumps(targets.spelled(node, path.stem)) == json.dumps(node)


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_defaults_are_written_as_what_reads_them_takes_them(command):
    """Else the hashes of results that are kept would change."""
    before = composed(command)
    values = Settings(command, copy.deepcopy(before))
    for key, node in before.items():
        if isinstance(node, dict) and "_target_" in node:
            values.build(key, made_later="_partial_" in node)
    assert json.dumps(values.values) == json.dumps(before)


def test_the_hash_depends_on_what_goes_in_and_not_on_the_order_of_keys():
    values = composed("pretrain")
    own = config_hash(values, {"manifest": "m", "encoder": None})

    def turned(node: Any) -> Any:
        return {name: turned(node[name]) for name in reversed(node)} if isinstance(node, dict) else node

    assert json.dumps(turned(values)) != json.dumps(values)
    assert config_hash(turned(values), {"encoder": None, "manifest": "m"}) == own
    assert config_hash(values, {"manifest": "n", "encoder": None}) != own
    assert config_hash(values, {"manifest": "m", "encoder": "e"}) != own
    assert config_hash(values, {"manifest": "m"}) != own
    assert len(own) == 12


def test_the_hash_takes_nothing_out_of_the_settings():
    values = composed("pretrain")
    before = copy.deepcopy(values)
    config_hash(values, {})
    assert values == before


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_key_that_came_later_leaves_earlier_runs_what_they_are(command):
    now = resolve(compose_config(command, ["dataset=folder"]))  # which has keys of its own
    earlier, other = copy.deepcopy(now), copy.deepcopy(now)
    own = {key: value for key, value in LATER.items() if key.partition(".")[0] in now}
    others = {key.partition(".")[0] for key in set(LATER) - set(own)}
    assert others == {"pretrain": {"loss", "evaluation"}, "finetune": {"views"}}[command]
    for key, value in own.items():
        *folders, last = key.split(".")
        for values in (now, earlier, other):
            node = values
            for name in folders:
                node = node[name]
            assert values is not now or node[last] == value, f"{key} must have its earlier value by default"
            if values is earlier:
                del node[last]
            elif values is other:
                node[last] = 0.5
    assert config_hash(now, {}) == config_hash(earlier, {})
    assert config_hash(other, {}) != config_hash(now, {})


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_null_is_hashed_as_what_stood_there_before(command):
    now = composed(command)
    assert now["initialization"]["parts"] is None
    own = config_hash(now, {})
    now["initialization"]["parts"] = "encoder"
    assert config_hash(now, {}) == own
    now["initialization"]["parts"] = "encoder_and_decoder"
    assert config_hash(now, {}) != own


def test_the_hash_of_known_settings_is_pinned():
    settings = {"seed": 0, "trainer": {"max_steps": 5, "device": "cpu"}, "logger": {"project": "x"}}
    assert config_hash(settings, {"manifest": "m"}) == "87dbb2b2a0c3"


# Settings


def settings() -> Settings:
    return Settings("pretrain", {"seed": 0, "trainer": {"lr": 1, "name": "a"}, "views": {}, "trusted_packages": []})


def test_a_key_that_nothing_reads_is_refused():
    values = settings()
    values.value("seed", int)
    values.value("trainer.lr", float)
    values.value("trusted_packages", list)
    with pytest.raises(InputError, match=r"trainer\.name: pretrain has no such key"):
        values.check_all_read()
    values.value("trainer.name", str)
    with pytest.raises(InputError, match="views: pretrain has no such key"):
        values.check_all_read()
    values.value("views", dict)
    values.check_all_read()


def test_a_key_that_nothing_reads_is_not_offered_itself():
    values = Settings("pretrain", {"trainer": {"max_steps": 1}})
    with pytest.raises(InputError, match=r"trainer\.max_steps: pretrain has no such key") as error:
        values.check_all_read()
    assert "mean 'trainer.max_steps'" not in str(error.value)


def test_a_key_beside_a_read_one_of_the_same_beginning_is_refused():
    values = Settings("pretrain", {"run": None, "run_of": None})
    values.value("run", str | None)
    with pytest.raises(InputError, match="run_of: pretrain has no such key"):
        values.check_all_read()


def test_building_a_node_reads_all_below_it():
    values = Settings("pretrain", {"schedule": {"_target_": "ssl_rs.training.schedule.Cosine", "final": 0.5}})
    assert values.build("schedule").final == 0.5
    values.check_all_read()


@pytest.mark.parametrize(
    ("node", "made_later", "said"),
    [
        (
            {"_target_": "torch.optim.SGD"},
            True,
            "here: SGD gets its last arguments from the code, .* Add `_partial_: tr",
        ),
        (
            {"_target_": "ssl_rs.training.schedule.Constant"},
            True,
            "here: Constant gets .* Add `_partial_: true` to its",
        ),
        (
            {"_target_": "ssl_rs.training.schedule.Cosine", "_partial_": True},
            False,
            "here: Cosine gets all its arguments from its YAML file. Take `_partial_: true` out of it",
        ),
        ({"_target_": "os.system"}, True, "here._target_=os.system is not admitted"),
        (3, True, "here: expected a node with _target_"),
    ],
)
def test_a_node_must_say_rightly_whether_the_code_gives_its_last_arguments(node, made_later, said):
    with pytest.raises(InputError, match=f"^{said}"):
        Settings("pretrain", {"here": node, "trusted_packages": []}).build("here", made_later)


def test_a_function_that_gets_some_of_its_arguments_may_be_a_component(tmp_path, monkeypatch):
    (tmp_path / "my_schedule.py").write_text("def scaled(step, max_steps, peak):\n    return peak\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "my_schedule.scaled", "_partial_": True, "peak": 0.5}
    schedule = Settings("pretrain", {"schedule": node, "trusted_packages": ["my_schedule"]}).build("schedule")
    assert schedule(0, 10) == 0.5


def test_values_are_checked_and_named():
    values = settings()
    assert values.value("trainer.lr", float) == 1.0
    assert type(values.value("trainer.lr", float)) is float
    with pytest.raises(InputError, match=r"trainer\.name must be a whole number or null, got 'a'"):
        values.value("trainer.name", int | None)
    with pytest.raises(InputError, match=r"views=\[...\] must name at least one of .*clean"):
        values.names("views")


def test_dropped_entries_count_as_nothing():
    values = Settings("pretrain", {"views": {"clean": {"a": 1}, "corrupted": {"a": 1}}})
    values.drop("views", ["corrupted"])
    assert values.values == {"views": {"clean": {"a": 1}}}


# Mistakes of the command line


@pytest.mark.parametrize(
    ("command", "overrides", "said"),
    [
        (
            "pretrain",
            ["pretext=simclr,byol"],
            "pretext=simclr,byol names several values: -m runs each of them. ",
        ),
        ("pretrain", ["pretext=simclr,byol"], "One run with all of them: pretext=[simclr,byol]."),
        ("finetune", ["seed=0,1"], "seed=0,1 names several values: -m runs each of them."),
        ("predict", ["images=a.tif,b.tif"], "of which one is expected. One run with all of them: images=[a.tif,b.tif]"),
        ("prepare", ["dataset=folder", "dataset.bands=red,nir"], "One run with all of them: dataset.bands=[red,nir]."),
        ("predict", ["bands=4,3"], "bands=4,3 names several values, of which one is expected. One run with all"),
        (
            "pretrain",
            ["seed=1", "trainer.max_steps", "5"],
            "trainer.max_steps has no value: write trainer.max_steps=5, ",
        ),
        (
            "pretrain",
            ["trainer.max_steps", "seed=1"],
            "trainer.max_steps has no value: write trainer.max_steps=VALUE, ",
        ),
        ("pretrain", ["backbone=resnt50"], "backbone=resnt50: there is no such option. Did you mean 'resnet50'?"),
        ("pretrain", ["backbone='resnt50'"], "backbone=resnt50: there is no such option."),
        ("pretrain", ["backbone=resnet101"], "Any other: backbone.name=..."),
        ("finetune", ["label_fraction=15pct"], "Did you mean '5pct'? Any other: label_fraction.fraction=..."),
        ("finetune", ["label_fraction=0.15"], "20pct, 2pct, 50pct, 5pct. Any other: label_fraction.fraction=..."),
        ("pretrain", ["views=[clean,tranformed]"], "views=tranformed: there is no such option. Did you mean 'transf"),
        ("pretrain", ["pretext=[contrastive,5]"], "pretext=5: there is no such option. Known: byol, contrastive"),
        ("finetune", ["label_fraction=20"], "label_fraction=20: there is no such option. Known: 100pct, 10pct"),
        ("pretrain", ["backbone=null"], "backbone=null: there is no such option."),
        (
            "pretrain",
            ["trainer.max_stps=1"],
            "trainer.max_stps: pretrain has no such key. Did you mean 'trainer.max_st",
        ),
        ("pretrain", ["bakbone=resnet50"], "bakbone: pretrain has no such key. Did you mean 'backbone'?"),
        ("pretrain", ["zzzz=1"], "zzzz: pretrain has no such key. `python -m ssl_rs.pretrain --cfg` prints every key."),
        ("finetune", ["pretext=[contrastive]"], "pretext: finetune has no such key."),
        (
            "pretrain",
            ["pretext=[simclr]", "pretext.inpainting.weight=5"],
            "inpainting is not among pretext=[simclr]. Add it there, or leave the key out.",
        ),
        ("pretrain", ["pretext.byol.weight=5"], "byol is not among pretext=[inpainting,transform_prediction,contrasti"),
        ("pretrain", ["pretext=[byol]", "pretext.byol.wieght=5"], "Did you mean 'pretext.byol.weight'?"),
        ("pretrain", ["views=[clean]", "views.corrupted.a=5"], "corrupted is not among views=[clean]."),
        ("finetune", ["pretext.byol.weight=5"], "pretext.byol.weight: finetune has no such key."),
        ("pretrain", ["optimizer=sgd", "optimizer.adam=5"], "optimizer.adam: pretrain has no such key. Did you mean"),
        ("pretrain", ["optimizer=adam", "optimizer.momentum=0.5"], "no such key. It is a key of optimizer=sgd: choose"),
        ("evaluate", ["probe.samples=500"], "It is a key of probe=knn and probe=linear: choose one that has it, or"),
        ("evaluate", ["probe=knn", "probe.iterations=5"], "It is a key of probe=linear: choose one that has it, or"),
        ("pretrain", ["optimizer=sgd", "optimizer.momentun=5"], "Did you mean 'optimizer.momentum'?"),
        ("pretrain", ["trainer.max_steps"], "trainer.max_steps has no value: write trainer.max_steps=VALUE"),
        ("pretrain", ["trainer={a"], "no viable alternative"),
        ("pretrain", ["seed=${nothing}"], "nothing"),
        ("pretrain", ["seed=???"], "seed"),
    ],
)
def test_a_mistake_names_what_was_meant(command, overrides, said):
    with pytest.raises(InputError) as error:
        resolve(compose_config(command, overrides))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert f"Did you mean '{overrides[-1].partition('=')[0]}'" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("dataset.bands=[red,", "no viable alternative at input '[red,'"),
        ("images", "missing EQUAL at '<EOF>'"),
        ("dataset.bands=['red", "LexerNoViableAltException"),
        ("dataset.root=[old] images", "dataset.root=[old] images"),
    ],
)
def test_what_hydra_cannot_read_is_told_with_quoting_that_it_reads(argument, said, capsys):
    assert main("pretrain", ["dataset=folder", argument]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{argument} cannot be read as KEY=VALUE: ")
    assert said in err
    typed = re.findall(r"e\.g\. ('[^']+')(?: or ('[^']+'))?", err)
    examples = [shlex.split(each)[0] for pair in typed for each in pair if each]
    values = [resolve(compose_config("pretrain", ["dataset=folder", quoted(each)]))["dataset"] for each in examples]
    assert [values[0]["bands"], *(each["root"] for each in values[1:])] == [
        ["red", "green"],
        "/data/my images",
        "[old] images",
    ]


@pytest.mark.parametrize(
    ("argument", "key", "text"),
    [
        ("dataset.name=2024", "name", "2024"),
        ("dataset.root=2024", "root", "2024"),
        ("dataset.name=true", "name", "true"),
        ("dataset.bands=[1,red]", "bands", ["1", "red"]),
        ("dataset.scene_group=[a-z]", "scene_group", "[a-z]"),
        ("dataset.scene_group=[0,1]", "scene_group", "[0,1]"),
    ],
)
def test_a_number_for_a_text_is_told_with_quotes_that_make_it_one(argument, key, text):
    with pytest.raises(InputError, match=f"dataset.{key} must be .*\\btext\\b.*, got ") as error:
        Settings("prepare", resolve(compose_config("prepare", ["dataset=folder", argument]))).build("dataset")
    typed = shlex.split(str(error.value).partition("Quotes make it a text: ")[2].removesuffix("."))
    values = resolve(compose_config("prepare", ["dataset=folder", *map(quoted, typed)]))
    assert values["dataset"][key] == text


def test_quotes_are_offered_only_where_they_help():
    values = Settings("pretrain", {"seed": 1.5, "logger": {"mode": 5, "label": None}, "run_dir": 2024})
    values.values["lists"] = [[1]]
    for key, kind in (("seed", int), ("logger.mode", Literal["online"]), ("logger.label", str), ("lists", str)):
        with pytest.raises(InputError) as error:
            values.value(key, kind)
        assert "Quotes" not in str(error.value)
    with pytest.raises(InputError, match=r"""got 2024\. .*: 'run_dir="2024"'\.$"""):
        values.value("run_dir", str | None)


def test_a_launcher_that_is_not_installed_names_its_extra():
    missing = [name for name, plugin in PLUGINS.items() if plugin not in INSTALLED]
    if not missing:
        pytest.skip("every launcher is installed")
    with pytest.raises(InputError, match=rf"launcher={missing[0]} needs a plugin.*ssl-rs\[{missing[0]}\]"):
        compose_config("finetune", ["launcher=local", f"launcher={missing[0]}"])


# A user's own folder of options


@pytest.fixture(params=["conf", "my conf, (old) [1]", "it's"])
def own_conf(request, tmp_path):
    folder = tmp_path / request.param
    (folder / "backbone").mkdir(parents=True)
    text = "# My own.\n_target_: ssl_rs.encoder.Backbone\nname: tu-convnext_atto\n"
    (folder / "backbone" / "mine.yaml").write_text(text)
    return folder


COMMANDS = sorted(path.stem for path in conf_dir().glob("*.yaml") if importlib.util.find_spec(f"ssl_rs.{path.stem}"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_that_are_said_to_run_sweeps_do(command):
    assert hasattr(importlib.import_module(f"ssl_rs.{command}"), "plan") == (command in SWEEPING)


def test_the_config_is_printed_as_hydras_own_argument_asks_for_it(capsys):
    assert main("pretrain", ["seed=7", "--cfg", "job"]) == 0
    assert "seed: 7" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_where_a_folder_is_to_be_is_refused_before_anything_is_done(command, tmp_path, capsys):
    (taken := tmp_path / "taken").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for key in FOLDERS:
        values = Settings(command, {key: str(taken / "below")})
        with pytest.raises(
            InputError, match=f"{key}={taken}/below is no folder and cannot become one: {taken} is a file. Choose"
        ):
            values.check_all_read()
    with pytest.raises(InputError, match="nowhere is a link to nothing"):
        Settings(command, {"run_dir": str(tmp_path / "nowhere")}).check_all_read()
    Settings(command, {key: str(tmp_path / "new" / "folder") for key in FOLDERS}).check_all_read()
    if command not in ("evaluate", "predict"):  # they first ask for the run
        assert main(command, [f"run_dir={taken}", *(["run=."] if command == "export" else [])]) == 2
        assert f"run_dir={taken} is no folder" in capsys.readouterr().err
    assert taken.read_text() == "mine"


def test_help_tells_of_the_users_own_options(own_conf, capsys):
    assert main("pretrain", ["--config-dir", str(own_conf), "--help"]) == 0
    assert re.search(r"^  mine +My own\.$", capsys.readouterr().out, re.MULTILINE)


def test_help_says_whether_its_values_are_the_defaults_and_no_word_of_hydras(capsys):
    assert main("pretrain", ["--help"]) == 0
    said = capsys.readouterr().out
    assert "\nKeys and their defaults:\n" in said
    assert "@package" not in said
    assert main("pretrain", ["seed=7", "--help"]) == 0
    assert "\nKeys and their values, with these arguments:\n" in capsys.readouterr().out


def test_several_values_without_a_sweep_are_refused_and_none_is_chosen(capsys):
    for more in (["--cfg"], []):
        assert main("pretrain", ["seed=3,4", *more]) == 2
        out, err = capsys.readouterr()
        assert (out, "seed=3,4" in err) == ("", True)


@pytest.mark.parametrize("given", ["launcher=local", "launcher='local'"])
def test_one_run_may_be_told_to_run_here(capsys, given):
    assert main("pretrain", [given, "--cfg"]) == 0
    assert "seed: 0" in capsys.readouterr().out


def test_packages_are_trusted_as_a_list_alone(capsys):
    assert main("pretrain", ["trusted_packages=my_package"]) == 2
    assert "trusted_packages" in (said := capsys.readouterr().err)
    assert "'my_package'" in said
    assert "m, y" not in said


def test_an_option_of_the_users_own_is_found(own_conf, capsys):
    assert main("pretrain", ["--config-dir", str(own_conf), "backbone=mine", "--cfg"]) == 0
    assert "name: tu-convnext_atto" in capsys.readouterr().out
    assert main("pretrain", ["backbone=mine", "--cfg"]) == 2
    assert "backbone=mine: there is no such option" in capsys.readouterr().err


def test_an_option_of_the_users_own_is_not_blamed_for_another_mistake(own_conf):
    with pytest.raises(InputError, match=r"trainer\.max_step: pretrain has no such key"):
        compose_config("pretrain", [*search_in(own_conf), "backbone=mine", "trainer.max_step=4"])
    with pytest.raises(InputError, match=r"backbone=mien: there is no such option. Did you mean 'mine'"):
        compose_config("pretrain", [*search_in(own_conf), "backbone=mien"])
    with pytest.raises(InputError, match="schedule=3: there is no such option"):
        compose_config("pretrain", [*search_in(own_conf), "backbone=mine", "schedule=3"])


def test_options_of_the_users_own_are_offered_for_lists_too(own_conf):
    (own_conf / "pretext").mkdir()
    (own_conf / "pretext" / "mean_color.yaml").write_text("# @package pretext.mean_color\nweight: 1.0\n")
    with pytest.raises(InputError, match=r"^pretext=mean_colr: there is no such option. Did you mean 'mean_color'\?$"):
        compose_config("pretrain", [*search_in(own_conf), "pretext=[contrastive,mean_colr]"])
    with pytest.raises(InputError, match=r"^pretext=zzz: there is no such option. Known: byol, .*, mean_color, "):
        compose_config("pretrain", [*search_in(own_conf), "pretext=[mean_color,zzz]"])


TASK = "task: {_target_: mine.Task, _partial_: true}\n"


@pytest.mark.parametrize(
    ("group", "text", "got"),
    [
        ("pretext", f"# Mine.\n{TASK}weight: 1.0\n", "# Mine."),
        ("pretext", f"# Mine.\n# @package pretext.mine\n{TASK}", "# Mine."),  # Hydra does not read it there
        ("pretext", f"# @package pretxt.mine\n{TASK}weight: 1.0\n", "# @package pretxt.mine"),
        ("pretext", f"# @package _global_\n{TASK}weight: 1.0\n", "# @package _global_"),
        ("pretext", f"# @package _group_.mine\n{TASK}", "# @package _group_.mine"),
        ("pretext", "", ""),
        ("views", "_target_: mine.Maker\nsource: clean\n", "_target_: mine.Maker"),
    ],
)
def test_a_task_or_view_of_ones_own_without_its_name_is_told_the_line(tmp_path, group, text, got):
    (tmp_path / group).mkdir()
    (path := tmp_path / group / "mine.yaml").write_text(text)
    for more in ([], [f"{group}.mine.weight=2"]):
        with pytest.raises(InputError) as error:
            compose_config("pretrain", [*search_in(tmp_path), f"{group}=[{options(group)[0]},mine]", *more])
        assert str(error.value).startswith(
            f"{path}: expected '# @package {group}.NAME' as its first line, got '{got}'."
        )
        assert str(error.value).endswith(f"write '# @package {group}.mine'.")


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("pretext", f"\n# @package pretext.mine\n{TASK}weight: 1.0\n"),
        ("pretext", "# @package pretext\nmine: {task: {a: 1}, weight: 1.0}\n"),
        ("pretext", "mine: {task: {a: 1}, weight: 1.0}\n"),
        ("pretext", "# @package _global_.pretext.mine\nweight: 1.0\n"),
        ("pretext", "# @package _global_\npretext: {mine: {task: {a: 1}, weight: 1.0}}\n"),
        ("pretext", "defaults: [contrastive]\n"),
        ("views", "mine: {_target_: a.B}\n"),
    ],
)
def test_a_task_or_view_of_ones_own_may_have_its_name_as_hydra_lets_it(tmp_path, group, text):
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(text)
    config = compose_config("pretrain", [*search_in(tmp_path), f"{group}=[mine]"])
    assert list(config[group]) == (["mine"] if "defaults" not in text else ["contrastive"])


def test_a_mistake_within_an_option_is_told_and_not_that_there_is_no_such_option(own_conf):
    (own_conf / "sweep").mkdir()
    text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    parms:\n      seed: 0,1\n"
    (own_conf / "sweep" / "misspelt.yaml").write_text(text)
    with pytest.raises(InputError) as told:
        compose_config("finetune", [*search_in(own_conf), "sweep=misspelt"])
    assert "parms" in str(told.value)
    assert "no such option" not in str(told.value)


def test_a_folder_of_options_that_is_not_there_is_named(capsys):
    assert main("pretrain", ["--config-dir", "nowhere"]) == 2
    assert "--config-dir nowhere: there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    ["/data/Pötsdam zip ünïcode", "/data/日本 語", "it's here", "~tilde", "/x/a=b", "a (copy)", " spaces ", "/a,b'c"],
)
def test_paths_with_any_letters_reach_the_settings_as_they_are(value):
    config = resolve(compose_config("prepare", [quoted(f"dataset.root={value}")]))
    assert config["dataset"]["root"] == value


def test_a_tilde_in_front_of_a_path_is_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["dataset=folder", "dataset.root=~/my data", "output_dir=~/out", "run_dir=~", "dataset.name=a~/b"]
    config = compose_config("pretrain", list(map(quoted, given)))
    values = resolve(config)
    assert values["dataset"]["root"] == f"{tmp_path}/my data"
    assert values["store_dir"] == f"{tmp_path}/out/stores"
    assert values["run_dir"] == str(tmp_path)
    assert values["dataset"]["name"] == "a~/b"
    assert config.hydra.sweep.dir == f"{tmp_path}/out/sweeps"
    images = resolve(compose_config("predict", ["run=x", "images=['~/a.tif',b.tif]"]))["images"]
    assert images == [f"{tmp_path}/a.tif", "b.tif"]
    (tmp_path / "own" / "backbone").mkdir(parents=True)
    (tmp_path / "own" / "backbone" / "mine.yaml").write_text("name: mine\n")
    assert main("pretrain", ["--config-dir=~/own", "backbone=mine", "--cfg"]) == 0
    assert "name: mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    "override",
    ["seed=3", "pretext=[a,b]", "dataset.root='it is'", "trainer.gradient_clip=null", "seed=1,2", "broken=[a", "x"],
)
def test_what_hydra_reads_stays_as_it_is(override):
    assert quoted(override) == override


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("images=[städte/a ä.tif, b.tif]", ["städte/a ä.tif", "b.tif"]),
        ("images=[7.tif,#1.tif,'~/ü.tif']", None),  # quotes in it are the user's own
        ("images=[a(1,2)ü.tif]", None),  # is it one item, or are they two?
        ("images=[(1)/ü.tif,#1.tif]", ["(1)/ü.tif", "#1.tif"]),
    ],
)
def test_items_of_a_list_get_the_quotes_that_they_need(override, expected):
    if expected is None:
        assert quoted(override) == override
    else:
        assert resolve(compose_config("predict", ["run=r", quoted(override)]))["images"] == expected


def test_the_keys_of_a_sweep_are_printed_and_nothing_runs(monkeypatch, capsys):
    monkeypatch.setattr("ssl_rs.sweep.run_sweep", lambda *given: pytest.fail("it ran"))
    assert main("pretrain", ["-m", "seed=3,4", "trainer.max_steps=7", "--cfg"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_steps"] == 7
