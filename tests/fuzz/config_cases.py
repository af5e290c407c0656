"""Command lines that nobody should type: each ends with exit code 0, 2 or 130 and, where it fails, one message."""

import contextlib
import io
import os
import resource
import tempfile
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from damage import Fuzz, within
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from ssl_rs.command import main
from ssl_rs.config import compose_config, resolve
from ssl_rs.config_files import groups, options, used_groups

COMMANDS = (
    *["pretrain"] * 4,
    *["finetune"] * 4,
    "prepare",
    "evaluate",
    "predict",
    "report",
    "export",
    "preview",
    "benchmark",
)

TREES = ("root", "run", "runs", "weights")
"""Keys of folders that are searched: no case may name one that is outside of its own."""

JUNK = (
    "", " ", "null", "true", "NO", "0", "-1", "1", "2", "0.5", "-0.0", "1.0", "1e400", "-1e308", "5e-324", "nan", "inf", "-inf",
    "1_000", "0x10", "007", "2147483648", "9223372036854775808", "-9223372036854775809", "1" + "0" * 400, "1" * 5000, "''",
    '""', "'null'", "'1'", "[]", "{}", "[[]]", "[null]", "[nan]", "{a:{b:{c:{}}}}", "{a:[1,{b:2}]}", "[1,2]", "[a,b]", "[0.5,0.5]",
    "[9,1]", "{'':1}", "{1:2}", "{null:1}", "{true:1}", "{_target_:os.system}", "{_target_:ssl_rs.encoder.Backbone,name:x}",
    "{_target_:torch.optim.SGD}", "{_target_:ssl_rs.pretext.base.PretextTask}", "ssl_rs", "ssl_rs.", ".", "..", "...",
    "ssl_rs.encoder.Backbone", "torch.optim.Adam", "torch.optim.adam", "kornia.augmentation.RandomAffine", "os.system",
    "builtins.eval", "ssl_rs.data.dataset.Dataset", "ssl_rs.errors.InputError", "ssl_rs.training.tracking.NoLogger",
    "segmentation_models_pytorch.Unet", "???", "${", "}", "$", "$$", "${}", "${seed}", "${nothing}", "${.}", "${..}", "${.seed}",
    "${..seed}", "${output_dir}", "${dataset}", "${trainer.max_steps}", "${optimizer}", "'${seed}${seed}'", "${${seed}}",
    "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${oc.env:NOT_THERE,null}", "${oc.env:}", "${no.resolver:1}", "${oc.decode:'[1'}",
    "${oc.create:{a:1}}", "${oc.dict.keys:trainer}", "${oc.dict.values:trainer}", "${oc.select:nothing,3}", "${oc.deprecated:seed}",
    "${hydra:run.dir}", "${hydra:}", "\\${seed}", "glob(*)", "glob([a*,b*])", "glob(*,exclude=r*)", "range(0,3)", "range(3,0)",
    "range(0,1,0)", "range(0,1e9)", "range(0,1000000000)", "choice()", "choice(1)", "choice(a,b,c)", "interval(0,1)", "shuffle(1,2)",
    "sort(3,1)", "sort(3,a)", "tag(x,1,2)", "int(x)", "int(1.5)", "float(nan)", "bool(2)", "str(1)", "str([1])", "json_str({a:1})",
    "extend_list(1,2)", "cast()", "1,2", "a,b", "1,", ",", "[],[1]", "'a,b'", "a=b", "a b", "a:b", "'", '"', "\\", "\\'", "(", ")",
    "[", "]", "{", "{a", "{a:", "[1,", "@", "~", "!", "%", "#", "&", "|", "<b>", "-", "--", "\0", "\n", "\t", "\x1b[31m", "\x7f",
    "ü", "日本", "💥", "\u202e", "\ufeff", "\udcff", "x" * 10_000, "[" * 500, "{a:" * 300, "[" * 300 + "]" * 300, "(" * 500,
    "[" + ",".join(["1"] * 5_000) + "]", "cuda:99", "meta", "mps", "cpu:7", "tu-resnet18", "tu-", "tu-nothing", "efficientnet-b0",
    "../../x", "~", "-inf,inf", "a.b.c", "_target_", "__class__", "hydra", "MULTIRUN", "RUN",
)  # fmt: skip
"""Values that break parsers, or the code that trusts them."""

HYDRA_KEYS = (
    "hydra", "hydra.mode", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweeper", "hydra.sweeper.params", "hydra.sweeper.params.seed",
    "hydra.sweeper.params.decoder", "hydra.sweeper._target_", "hydra.sweeper.max_batch_size", "hydra.launcher", "hydra.launcher._target_",
    "hydra.searchpath", "hydra.job.chdir", "hydra.job.name", "hydra.output_subdir", "hydra.overrides.task", "hydra.verbose", "hydra.help",
    "hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/help", "hydra/env", "hydra.runtime.cwd", "hydra.callbacks",
    "hydra.job.env_set", "hydra.nothing",
)  # fmt: skip

ODD_KEYS = (
    "", ".", "..", "seed.", ".seed", "seed..x", "seed.x", "trainer.", "trainer..max_steps", "dataset@x", "dataset@dataset", "@", "a@b@c",
    "dataset@_global_", "backbone@decoder", "/dataset", "dataset/", "dataset/folder", "override dataset", "defaults", "_self_", "0",
    "trainer[0]", "trainer.0", "trusted_packages.0", "trusted_packages[0]", "views.0", "null", "true", "${seed}", "a b", "ü", "日本", "a-b",
    "a:b", "'seed'", "x" * 3000, ".".join(["a"] * 400), "_target_", "optimizer._target_", "hydra", "-seed", "--seed", "sweep", "experiment",
)  # fmt: skip

EVERY_KIND = ("key", "key", "key", "likely", "group", "group", "hydra", "odd", "text")

EXTREME: dict[type, tuple[str, ...]] = {
    bool: ("true", "false"),
    int: ("0", "-1", "1", "2", "3", "7", "31", "33", "1000", "100000", "1000000000", "4611686018427387904", str(2**63), "1" + "0" * 30),
    float: ("0", "-0.0", "-1", "1", "1e-45", "1e-30", "1e30", "1e308", "0.999999", "nan", "inf", "-inf", "1000000000", str(10**400)),
    list: ("[]", "[0,0]", "[1,1]", "[0,1]", "[1,0]", "[-1,1]", "[nan,nan]", "[0,inf]", "[1e30,1e30]", "[1,2,3]", "[1000000000]",
           "[1000000000,1,1,1]", "[0,0,0,0]", "[1,1,1,1]", "[0.5,0.5]", "[red,green,blue]", "[r,r,r]", "[a]"),
    str: ("a", "''", "x y", "resnet34", "mobilenet_v2", "tu-resnet18", "tu-vit_tiny_patch16_224", "tu-swin_tiny_patch4_window7_224",
          "tu-convnext_atto", "tu-efficientnet_b0", "mit_b0", "dpn68", "cpu", "meta", "cuda", "crop", "clean", "transformed", "corrupted",
          "../x", "test", "val", "all_classes", "relu", "batch_norm_relu", "layer_norm", "-1", "ü", "x" * 300),
    type(None): ("0", "1", "-1", "a", "[1]", "nan", "1e-30", "1000000000", "[red,green,blue]", "[a,b]"),
}  # fmt: skip
"""Values of the right type, by that type."""

TARGETS = (
    "ssl_rs.encoder.Backbone", "ssl_rs.encoder.Encoder", "ssl_rs.encoder.nearest", "ssl_rs.command.main", "ssl_rs.errors.InputError",
    "ssl_rs.files.sha256_of", "ssl_rs.views.clean.CleanMaker", "ssl_rs.views.fused.ColorJitter", "ssl_rs.views.base.View",
    "ssl_rs.data.potsdam.Potsdam", "ssl_rs.data.folder.band_names", "ssl_rs.data.dataset.Dataset", "ssl_rs.initialization.Random",
    "ssl_rs.initialization.Target", "ssl_rs.training.tracking.NoLogger", "ssl_rs.training.settings.TrainerSettings",
    "ssl_rs.training.schedule.cosine", "ssl_rs.pretext.contrastive.Contrastive", "ssl_rs.pretext.base.PretextTask",
    "ssl_rs.pretext.decoder.AdditiveDecoder", "ssl_rs.data.label_subset.LabelFraction", "ssl_rs.segmentation.metrics.confusion_matrix",
    "torch.optim.SGD", "torch.optim.LBFGS", "torch.optim.Optimizer", "torch.optim.lr_scheduler.StepLR", "torch.optim.nothing",
    "segmentation_models_pytorch.Unet", "segmentation_models_pytorch.create_model", "kornia.augmentation.RandomAffine",
    "kornia.filters.gaussian_blur2d", "kornia", "ssl_rs", "os.system", "builtins.print", "a", "''", "1", "null", "[]", "{}",
)  # fmt: skip
"""What a component may be said to be: one of another kind, a function, nothing at all."""

FLAGS = (
    *[()] * 12,
    ("--cfg",),
    ("--cfg",),
    ("-m",),
    ("-m",),
    ("-h",),
    ("--config-dir", "."),
    ("--config-dir", "nowhere"),
    ("--nothing",),
    ("-m", "--cfg"),
)


class Reached(Exception):  # noqa: N818 - no error: the heavy work would begin
    """All settings were read and checked."""


def names_of(node: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all keys below a node."""
    items = node.items() if isinstance(node, dict) else ()
    return [name for key, child in items for name in (f"{prefix}{key}", *names_of(child, f"{prefix}{key}."))]


def value_of(settings: Any, name: str) -> Any:
    """Return what a dotted name leads to."""
    for part in name.split("."):
        settings = settings[part]
    return settings


@cache
def settings_of(command: str) -> dict[str, Any]:
    """Return the resolved default settings of a command."""
    return resolve(compose_config(command, []))


@st.composite
def values(draw: st.DrawFn, key: str) -> str:
    """Draw the text behind the equals sign."""
    text = draw(
        st.one_of(
            st.sampled_from(JUNK),
            st.sampled_from(JUNK),
            st.integers().map(str),
            st.floats().map(str),
            st.text(max_size=8),
            st.lists(st.sampled_from(JUNK[:40]), max_size=3).map(lambda items: f"[{','.join(items)}]"),
            st.sampled_from(JUNK[:40]).map("'{}'".format),
        )
    )
    searched = key.rpartition(".")[2] in TREES or key in ("dataset", "hydra", "initialization")
    return text.replace("/", "_").replace("..", "_").replace("oc.env", "oc_env").replace("~", "_") if searched else text


@st.composite
def overrides(draw: st.DrawFn, command: str, kinds: tuple[str, ...]) -> str:
    """Draw one override: of a key or group that is there, of one that is nearly there, or nonsense."""
    kind = draw(st.sampled_from(kinds))
    if kind == "likely":
        return draw(likely(command))
    if kind == "text":
        return draw(st.text(min_size=1, max_size=12).filter(lambda text: not text.startswith("-")))
    sign = draw(st.sampled_from(("", "", "", "", "", "+", "++", "~")))
    if kind == "group":
        group = draw(st.sampled_from(draw(st.sampled_from((used_groups(command) or groups(), groups())))))
        return f"{sign}{group}={draw(options_of(group))}" if sign != "~" else f"~{group}"
    names = {"key": names_of(settings_of(command)), "hydra": HYDRA_KEYS, "odd": ODD_KEYS}[kind]
    key = draw(st.sampled_from(names))
    if draw(st.integers(0, 9)) == 0:
        key += draw(
            st.sampled_from(
                (".x", ".0", "x", ".", "@x", ".a.b.c", "[0]", " ", "\t", "._target_", "._partial_", "._convert_")
            )
        )
    if sign == "~" and draw(st.booleans()):
        return f"~{key}"
    return f"{sign}{key}={draw(values(key))}"


@st.composite
def likely(draw: st.DrawFn, command: str) -> str:
    """Draw an override that gets as far as the code that reads it: a key that is there, and a value that YAML knows."""
    settings = settings_of(command)
    key = draw(st.sampled_from(names_of(settings)))
    if key.endswith("_target_"):
        return f"{key}={draw(st.sampled_from(TARGETS))}"
    if key in ("output_dir", "store_dir", "trusted_packages") or key.rpartition(".")[2] in TREES:
        return f"seed={draw(st.sampled_from(EXTREME[int]))}"
    kinds = EXTREME.get(type(value_of(settings, key)), ("null", "1", "a", "[]", "{}"))
    other = draw(st.sampled_from([value for each in EXTREME.values() for value in each]))
    return f"{key}={draw(st.sampled_from((*kinds, other, 'null', '{}', '{a:1}', '1.5', 'true')))}"


def options_of(group: str) -> SearchStrategy[str]:
    """Draw what a group is set to: options that are there, some of them, none, or junk."""
    there = st.sampled_from([*options(group), "nothing"])
    return st.one_of(
        there,
        there,
        st.lists(there, max_size=4).map(lambda names: f"[{','.join(names)}]"),
        st.lists(there, min_size=2, max_size=3).map(",".join),
        st.sampled_from(
            (
                "[]",
                "null",
                "glob(*)",
                "[null]",
                "[1]",
                "1",
                "1.5",
                "''",
                "[[]]",
                "{}",
                "../dataset/folder",
                "folder.yaml",
            )
        ),
        values(group),
    )


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """Draw a command and what stands behind it."""
    command = draw(st.sampled_from(COMMANDS))
    kinds = draw(st.sampled_from((("likely",), ("likely", "group"), EVERY_KIND)))
    given = draw(st.lists(overrides(command, kinds), min_size=1, max_size=3))
    return command, (*draw(st.sampled_from(FLAGS)), *given)


@cache
def tiny_images() -> Path:
    """Write a data set of three scenes of 32 px; it lives as long as the process."""
    root = Path(_folder().name)
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind, array in (("images", rng.integers(0, 256, (32, 32, 3))), ("masks", rng.integers(0, 2, (32, 32)))):
            (root / kind / split).mkdir(parents=True)
            Image.fromarray(array.astype(np.uint8)).save(root / kind / split / f"{split}.png")
    (root / "classes.yaml").write_text("classes: [{name: a, index: 0}, {name: b, index: 1}]")
    return root


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="fuzz-images-")


def usual(command: str) -> tuple[str, ...]:
    """Return the overrides that stand before what is drawn: the tiny data set, and no mirror of the logs."""
    own = {
        "dataset": ("dataset=folder", f"dataset.root={tiny_images()}", "dataset.crop_size=32"),
        "logger": ("logger=none",),
        "trainer": ("trainer.max_steps=1", "trainer.batch_size=2"),
    }
    return tuple(override for group in used_groups(command) for override in own.get(group, ()))


def confined(folder: str) -> tuple[str, ...]:
    """Return the overrides that stand behind what is drawn: nothing is written elsewhere."""
    return f"output_dir={folder}/outputs", f"store_dir={folder}/stores", f"hydra.sweep.dir={folder}/sweeps"


@contextlib.contextmanager
def at_home() -> Iterator[str]:
    """Work in a new folder that vanishes afterwards."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def ends_well(command: str, arguments: tuple[str, ...]) -> None:
    """Run a command in this process; fail where it raises, or ends otherwise than with a result or a message."""
    # As in a shell: what cannot be encoded stops the printing of a result, not that of a message.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: Any = main(command, arguments)
        except SystemExit as stopped:  # argparse, for what begins with a dash
            code = stopped.code
    out.flush()
    err.flush()
    told = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert code in (0, 2, 130), (code, told)
    assert "Traceback" not in told, told
    assert code == 0 or told.strip(), "it failed without a message"
    assert len(told) < 20_000, f"a message of {len(told)} characters"


def check_settings(line: tuple[str, tuple[str, ...]]) -> None:
    """Read and build everything that a command line says, up to where the heavy work would begin."""
    command, given = line
    heavy = (
        "ssl_rs.stages.site.SiteSettings.enter",
        "ssl_rs.stages.preparation.prepare_store",
        "ssl_rs.stages.preparation.verify",
        "ssl_rs.stages.report.write_report",
        "ssl_rs.stages.evaluate_run.finished_finetuning",
        "ssl_rs.stages.prediction.finished_finetuning",
        "ssl_rs.stages.exporting._finished",
        "ssl_rs.sweep._launch",
    )
    with at_home() as folder, contextlib.ExitStack() as stack, within(60):
        for name in heavy:
            stack.enter_context(mock.patch(name, side_effect=Reached))
        with contextlib.suppress(Reached):
            ends_well(command, (*usual(command), *given, *confined(folder)))
        assert {path.name for path in Path(folder).iterdir()} <= {"outputs", "stores", "sweeps"}


# Runs that would start: extreme values of the right type, for one step

NOT_RUN = ("dataset.root", "trainer.num_workers", "initialization.weights", "initialization.run", "output_dir", "store_dir", "run_dir",
           "trainer.compile", "logger", "trainer.max_steps", "trusted_packages")  # fmt: skip
"""Settings that search folders, start processes, take minutes, or reach a network."""

MEMORY = 3 * 2**30
"""Bytes of address space that such a run may take beyond those of the process it is forked from."""


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """Draw a command that trains, with one or two settings of the right type and any size."""
    command = draw(st.sampled_from(("pretrain", "finetune")))
    chosen = draw(st.sampled_from(STARTS[command]))
    settings = resolve(compose_config(command, [*usual(command), *chosen]))
    leaves = [name for name in names_of(settings) if not isinstance(value_of(settings, name), dict)]
    leaves = [name for name in leaves if not name.startswith(NOT_RUN) and not name.endswith("_")]
    given = []
    for name in draw(st.lists(st.sampled_from(leaves), min_size=1, max_size=2, unique=True)):
        kinds = EXTREME[type(value_of(settings, name))]
        given.append(f"{name}={draw(st.sampled_from(kinds))}")
    return command, (*chosen, *given)


METHODS = ("simclr", "moco_v2", "byol", "vicreg", "dense_contrastive")

STARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pretrain": (
        (),
        ("optimizer=sgd", "schedule=step_decay"),
        ("optimizer=adam", "schedule=constant", "pretext=[transform_prediction_pooled]"),
        ("pretext=[contrastive]", "views=[clean,kornia]"),
        ("backbone=mobilenet_v2", "encoder_pass=per_view"),
        *((f"pretext=[{name}]",) for name in METHODS),
        ("views=[clean,transformed,corrupted_block]",),
    ),
    "finetune": ((), ("decoder=fpn",), ("decoder=deeplabv3plus",), ("augmentation=none", "backbone=convnext_tiny"), ("label_fraction=1pct",)),
}  # fmt: skip


def check_run(line: tuple[str, tuple[str, ...]]) -> None:
    """Take one step of a run, in a process of its own with little memory."""
    command, given = line
    with at_home() as folder, tempfile.TemporaryFile("w+") as told:
        child = os.fork()
        if child == 0:
            _run_and_exit(command, (*usual(command), *given, "trainer.max_steps=1", *confined(folder)), told.fileno())
        _, status = os.waitpid(child, 0)
        told.seek(0)
        said = told.read()
    assert status == 0, f"{'killed by a signal' if os.WIFSIGNALED(status) else 'failed'} ({status})\n{said}"


def _run_and_exit(command: str, arguments: tuple[str, ...], output: int) -> None:
    """Be the child: run, tell the parent what went wrong, end."""
    import torch

    code = 1
    try:
        torch.set_num_threads(1)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, MEMORY))
        with within(60):
            ends_well(command, arguments)
        code = 0
    except BaseException:
        os.write(output, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


FUZZ = {
    "settings": Fuzz(command_lines(), check_settings, 30),
    "runs": Fuzz(runs(), check_run, 3),
}
