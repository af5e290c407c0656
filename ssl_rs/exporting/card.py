"""The page that lies beside exported weights: what they are, how images are normalized, how each form is loaded."""

import json
from collections.abc import Mapping
from typing import Any

from ssl_rs.exporting.forms import Form, Subject
from ssl_rs.weights_metadata import WeightsMetadata

TRAINED = {
    "dataset": "data set",
    "downsample": "pixels of a side that were averaged to one before the network saw them",
    "pretext": "pretext tasks",
    "start": "weights that training started from",
    "label_fraction": "share of the labels",
    "steps": "steps",
    "seed": "seed",
    "miou": "mean IoU",
    "split": "scored on",
    "protocol": "by the protocol",
}
"""What is told of the training, as far as it is known, and in which words."""


def write_card(
    subject: Subject, trained: Mapping[str, Any], forms: Mapping[str, Form], left_out: Mapping[str, str], seen: str = ""
) -> str:
    """Return the page as Markdown.

    Args:
        subject: What was exported.
        trained: The result of the run, `downsample` of its data, and what its weights started from.
        forms: What was written, by its name.
        left_out: Why a form was not.
        seen: The file that tells which images the weights have seen, where there is one.
    """
    metadata = subject.metadata
    classes = [f"- classes, in the order of the scores: {_quoted(metadata.classes)}"] if metadata.classes else []
    told = [f"- {words}: {_quoted(trained[key])}" for key, words in TRAINED.items() if key in trained]
    missing = [f"- {name}: {' '.join(reason.split())}" for name, reason in left_out.items()]
    lines = [
        f"# {metadata.backbone}, {'fine-tuned' if metadata.classes else 'pretrained'} by ssl_rs",
        f"- bands, in the order of the channels: {_quoted(metadata.bands)}",
        *classes, *told, *_windows(trained),
        f"- images: height and width in multiples of {subject.divisor}",
        "",
        "## Normalization",
        "ONNX has it inside. Everything else takes images that went through this; `images` is a float tensor",
        "[N, C, H, W] of the values as they are stored. Set pixels without data to 0 in all bands first, for ONNX too:",
        "training did so, and NaN would spread.",
        "```python", normalization(metadata), "```",
        *(line for form in forms.values() for line in _section(form)),
        *(["", "## Images seen", *_kept_beside(seen)] if seen else []),
        *(["", "## What is not here", *missing] if missing else []),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _windows(trained: Mapping[str, Any]) -> list[str]:
    """Return a line that says by which windows the mean IoU was found, where it is known."""
    known = trained.get("settings") or {}
    size, overlap, augmented = (
        known.get(f"evaluation.window.{key}") for key in ("size", "overlap", "test_time_augmentation")
    )
    if "miou" not in trained or size is None:
        return []
    turns = ", each the mean over its eight flips and rotations" if augmented else ""
    return [f"- windows of that score: of {size} px, blended where they overlap by {overlap} of their side{turns}"]


def _kept_beside(seen: str) -> list[str]:
    return [
        f"`{seen}` tells which images these weights have seen, and of which the labels. Keep it beside the weights:",
        "ssl_rs reads it there (`initialization=file`), so that nothing is scored on what it was trained on.",
    ]


def normalization(metadata: WeightsMetadata) -> str:
    """Return the lines of Python that normalize images."""
    std = [value if value > 0 else 1.0 for value in metadata.statistics.std]  # as encoder.Normalization does
    return "\n".join(
        [
            "import torch",
            f"mean = torch.tensor({list(metadata.statistics.mean)}).view(1, -1, 1, 1)",
            f"std = torch.tensor({std}).view(1, -1, 1, 1)",
            f"normalized = ((images / {metadata.value_scale!r}).clamp(0, 1) - mean) / std",
        ]
    )


def _section(form: Form) -> list[str]:
    lacking = ", ".join(f"`{name}`" for name in form.lacking)
    note = ["", f"Not in the file, so left as the library makes them: {lacking}."] if lacking else []
    return ["", f"## {form.title}", "```python", form.code, "```", *note]


def _quoted(value: Any) -> str:
    """Return a value as code of Markdown: names come from users' files."""
    text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return f"`{text.replace('`', '')}`"
