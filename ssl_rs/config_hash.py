"""The identity of a run: a hash over everything that can change its result."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WITHOUT_EFFECT = (
    "run_dir",
    "output_dir",
    "store_dir",
    "logger",
    "trusted_packages",
    "dataset.root",
    "dataset.on_bad_scene",
    "dataset.scene_group",
    "initialization.run",
    "initialization.weights",
    "evaluation.window.batch_size",
    "evaluation.every_steps",
    "trainer.device",
    "trainer.num_workers",
    "trainer.resident",
    "trainer.keep_memory",
    "trainer.cuda_graph",
    "trainer.accept_other_versions",
    "trainer.on_collapse",
    "trainer.checkpoint_every_steps",
    "trainer.log_every_steps",
)
"""Keys left out of the config hash: they change no weight and no score (groups of scenes only what stands beside the
scores), or do so only through a file whose sha256 is hashed. How often lines are logged decides over how many steps the
last line of a pretraining is a mean."""

_TURNS = {
    f"views.{method}_{place}.{key}": 0.0
    for method in ("simclr", "moco_v2", "byol", "vicreg")
    for place in ("first", "second")
    for key in ("vertical_flip", "rotation")
}
_SIZES = {key.rsplit(".", 1)[0] + ".size": None for key in _TURNS}
LATER = _TURNS | _SIZES | {
    "dataset.channels": None,
    "dataset.without_mask": "error",
    "evaluation.window.test_time_augmentation": False,
    "trainer.decay_norms_and_biases": True,
    "trainer.encoder_lr_factor": 1.0,
    "loss": {
        "_target_": "ssl_rs.segmentation.loss.SegmentationLoss", "balance": 0.0, "focusing": 0.0, "dice": 0.0,
    },
}  # fmt: skip
"""Keys and groups that came when results were kept already, each with the value that says what runs did before. At that
value they are left out of the config hash, so that those runs stay what they are."""


HASHED_AS = {"trainer.max_skipped_steps": 0}
"""Keys that change no result of a run that ends, but were hashed when results were kept already: hashed as this."""

NULL_MEANT = {"initialization.parts": "encoder"}
"""Keys that may be null only since results were kept, each with what stood there before; hashed as that."""


def without_effect(key: str) -> bool:
    """Tell whether a dotted key changes no result, so that the config hash is the same whatever it is."""
    return key in HASHED_AS or is_within(key, WITHOUT_EFFECT)


def is_within(name: str, names: Iterable[str]) -> bool:
    """Tell whether a dotted name, of a key or a module, is one of some names, or lies below one."""
    return any(name == each or name.startswith(f"{each}.") for each in names)


def leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{prefix}{name}"
        found |= leaves(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return found


NO_TEXT = r"null|true|false|[-+.\d][-+.\deE]*|[\[{].*|"
"""Texts that read as something else, or as nothing, where they stand without quotes."""


def value_text(value: Any) -> str:
    """Return a setting's value as one types it: null, true, [red,green]; a text that would read otherwise in quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_item_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_item_text, value))}]"
    return json.dumps(value) if isinstance(value, str) and re.fullmatch(NO_TEXT, value, re.IGNORECASE) else str(value)


def _item_text(value: Any) -> str:
    needs_quotes = isinstance(value, str) and re.search(r"[,\[\]{}:'\"]", value)
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value_text(value)


def setting_text(key: str, value: Any) -> str:
    """Return a setting in short: schedule=Constant for schedule._target_=ssl_rs.training.schedule.Constant."""
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}"
    return f"{key}={value_text(value):.40}"


def _at(node: Any, key: str) -> Any:
    """Return what stands at a dotted key; None where nothing does."""
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def config_hash(values: Mapping[str, Any], inputs: Mapping[str, str | None], without: Sequence[str] = ()) -> str:
    """Return 12 hex digits over everything that can change a result.

    Args:
        values: The resolved settings.
        inputs: The sha256 of what else goes in: manifest, encoder, label subset.
        without: Further keys that mean nothing to the command, or that are meant to differ.
    """
    kept = json.loads(json.dumps(values))
    as_before = [key for key, value in LATER.items() if _at(kept, key) == value]
    for key, meant in NULL_MEANT.items():
        group, name = key.split(".")
        if name in kept.get(group, {}) and kept[group][name] is None:
            kept[group][name] = meant
    for key, value in HASHED_AS.items():
        group, name = key.split(".")
        if name in kept.get(group, {}):
            kept[group][name] = value
    for key in (*WITHOUT_EFFECT, *as_before, *without):
        *path, last = key.split(".")
        node = kept
        for name in path:
            node = node.get(name) or {}
        node.pop(last, None)
    text = json.dumps({"config": kept, "inputs": dict(inputs)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
