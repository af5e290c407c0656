"""Finished pretrainings on disk: which one is meant, is it whole, and what did it start from?"""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_rs.errors import InputError, MissingWeightsError, did_you_mean
from ssl_rs.files import sha256_of
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import label_of
from ssl_rs.several_pretrainings import SeveralPretrainingsError
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata

CARRIED: Mapping[str, type] = {
    "pretext": list, "initialization": str, "provenance": dict, "steps": int, "images_seen": int, "seed": int,
    "dataset": str, "transductive": bool, "splits": list, "final_losses": dict, "collapse": dict,
}  # fmt: skip
"""What a later run records of the pretraining that it started from, and of which type it is; its provenance records an
earlier one."""


@dataclass(frozen=True)
class Pretraining:
    """A finished pretraining whose files are those that it wrote.

    Args:
        run: Its folder.
        result: What its result.json says.
        metadata: Of the encoder's file.
        sha256: Of the encoder's file.
    """

    run: RunDirectory
    result: Mapping[str, Any]
    metadata: WeightsMetadata
    sha256: str

    @property
    def carried(self) -> dict[str, Any]:
        """What a later run records of it."""
        told = {"settings_hash": self.result["settings_hash"]} if "settings_hash" in self.result else {}
        before = (self.result["provenance"].get("pretraining") or {}).get("settings_hash")
        if told and before:  # its own says how it was trained, not from which run
            told = {"settings_hash": f"{told['settings_hash']} after {before}"}
        return {key: self.result[key] for key in CARRIED} | told  # an earlier version wrote no such hash

    @property
    def transductive(self) -> bool:
        """Whether it, or one that it started from, saw images of validation or test scenes."""
        return any(each.get("transductive") for each in chain(self.result))

    @property
    def label(self) -> str:
        """What came first, then its tasks: "imagenet, then inpainting + contrastive"."""
        return label_of(self.result["initialization"], self.result["provenance"]["label"], self.result["pretext"])


def find_pretraining(chosen: str | None, pretrainings: Path, wanted: str) -> RunDirectory:
    """Return the one finished pretraining that is meant.

    Args:
        chosen: A run's folder, or a folder or pattern below which one lies, from here or else from `pretrainings`;
            None: any.
        pretrainings: Folder of the pretrainings of this data set and backbone.
        wanted: Which they are, e.g. "resnet18 on potsdam".

    Raises:
        MissingWeightsError: There is none.
        SeveralPretrainingsError: There is more than one.
    """
    if chosen is None:
        found, asked = _finished_below([pretrainings]), "initialization=pretrained: there are"
        missing = (
            f"initialization=pretrained: there is no finished pretraining of {wanted} under {pretrainings}. "
            "Run `python -m ssl_rs.pretrain` with this data set and backbone first, or name a run: "
            "initialization.run=RUN."
        )
    else:
        direct = RunDirectory.named(chosen, "initialization.run")
        if any(path.is_file() for path in (direct.result, direct.encoder, direct.config)):
            return direct
        found = _finished_below(_matches(Path(), chosen)) or _finished_below(_matches(pretrainings, chosen))
        asked = f"initialization.run={chosen} stands for"
        missing = (
            f"initialization.run={chosen} holds no finished pretraining (result.json and encoder.safetensors), neither "
            f"here nor under {pretrainings}."
        )
    if len(found) == 1:
        return RunDirectory(found[0])
    if not found:
        known = _finished_below([pretrainings])
        others = [f"  initialization.run={path}" for path in known]
        meant = _meant(chosen, known, pretrainings)
        raise MissingWeightsError(
            "\n".join([f"{missing}{meant}", *([f"Those of {wanted} are:", *others] if others else [])])
        )
    raise SeveralPretrainingsError(asked, found, pretrainings)


def _meant(chosen: str | None, known: Sequence[Path], base: Path) -> str:
    """Return a sentence that offers what a misspelt name may stand for, empty where nothing is near.

    Args:
        chosen: As of `find_pretraining`.
        known: Folders of finished pretrainings.
        base: Folder below which they lie.
    """
    below = [path.relative_to(base) for path in known]
    names = {str(each) for path in (*below, *known) for each in (path, path.parent) if each != Path()}
    said = did_you_mean(chosen, names) if chosen else ""
    return f" {said}" if said else ""


def check_apart(chosen: str | None, pretrainings: Path, start: str, own: Path) -> None:
    """Refuse a name by which a pretraining would find itself as soon as it is finished.

    Args:
        chosen: As of `find_pretraining`.
        pretrainings: As of `find_pretraining`.
        start: The folder that it stands for now.
        own: The folder of the run that starts from there.

    Raises:
        InputError: It names the folder to name instead.
    """
    if chosen is not None and RunDirectory(Path(chosen)).result.is_file():
        return
    folders = [pretrainings] if chosen is None else [*_matches(Path(), chosen), *_matches(pretrainings, chosen)]
    if any(own.resolve().is_relative_to(folder.resolve()) for folder in folders):
        named = "initialization=pretrained" if chosen is None else f"initialization.run={chosen}"
        raise InputError(
            f"{named} would stand for this pretraining too, once it is finished. Name the folder of the run that it "
            f"starts from: initialization.run={start}"
        )


def read_pretraining(run: RunDirectory) -> Pretraining:
    """Read what a pretraining left.

    Raises:
        InputError: It is unfinished, of another version, or its encoder is not the one that it wrote.
    """
    result = run.read_result()
    if result is None or not run.encoder.is_file():
        hint = ""
        if result is not None and result.get("command") == "finetune":
            hint = " It is a fine-tuning: choose initialization=finetuned."
        raise MissingWeightsError(
            f"initialization.run={run.path} holds no finished pretraining (result.json and encoder.safetensors).{hint}"
        )
    check_record(run, result, CARRIED)
    sha256 = intact(run.encoder, result.get("encoder_sha256"), run.anew)
    return Pretraining(run, result, read_weights_metadata(run.encoder), sha256)


def check_record(run: RunDirectory, result: Mapping[str, Any], expected: Mapping[str, type | tuple[type, ...]]) -> None:
    """Refuse a training's result.json that does not hold what a later run records of it.

    Args:
        run: The training's folder.
        result: What its result.json says.
        expected: The keys that a later run reads, each with its types; `provenance` is among them.

    Raises:
        InputError: Names the keys that are missing or hold something else.
    """
    lacking = [key for key in expected if key not in result]
    if lacking:
        raise InputError(f"{run.result} lacks {lacking}: it was not written by this version. {run.anew}")
    odd = [f"{key}={result[key]!r:.40}" for key, kind in expected.items() if not isinstance(result[key], kind)]
    if not odd:
        odd = [f"a task {task!r:.40}" for task in result.get("pretext", ()) if not isinstance(task, str)]
        label, before = (result["provenance"].get(key) for key in ("label", "pretraining"))
        odd += [] if isinstance(label, str) else ["provenance without label"]
        odd += [] if isinstance(before, dict | None) else [f"provenance.pretraining={before!r:.40}"]
    if odd:
        raise InputError(f"{run.result} holds {', '.join(odd)}: it is damaged or was replaced. {run.anew}")


def intact(path: Path, expected: Any, remedy: str) -> str:
    """Return the sha256 of a run's file of weights.

    Args:
        path: The file.
        expected: The sha256 in its result.json.
        remedy: What to do where it is another.

    Raises:
        InputError: It is another.
    """
    sha256 = sha256_of(path)
    if sha256 != expected:
        raise InputError(f"{path} is not the file that its result.json names: it is damaged or was replaced. {remedy}")
    return sha256


def check_decoder(pretraining: Pretraining, decoder: str | None) -> str:
    """Return the sha256 of the decoder that a pretraining left for fine-tuning.

    Args:
        pretraining: Where it is to come from.
        decoder: Name of the decoder that is to take it; None: there is none.

    Raises:
        InputError: There is none to take or to give, it is another, or its file is not the one that was written.
    """
    parts, run, own = "initialization.parts=encoder_and_decoder", pretraining.run, pretraining.result.get("decoder")
    if decoder is None:
        raise InputError(f"{parts}: a pretraining has heads of its own; only fine-tuning takes a decoder over.")
    if own is None:
        raise InputError(
            f"{parts}: initialization.run={run.path} left no decoder that fine-tuning could use. Pretrain with "
            "pretext=[inpainting_unet,...] or [inpainting_fpn,...], or choose initialization.parts=encoder."
        )
    if own != decoder:
        raise InputError(
            f"{parts}: initialization.run={run.path} has a decoder {own}, this run has decoder={decoder}. "
            f"Choose decoder={own}, or initialization.parts=encoder."
        )
    if not run.decoder.is_file():
        raise InputError(f"{run.decoder} is missing. {run.anew} Or choose initialization.parts=encoder.")
    return intact(run.decoder, pretraining.result.get("decoder_sha256"), run.anew)


def _matches(base: Path, pattern: str) -> list[Path]:
    literal = base / pattern
    return (
        [literal] if literal.exists() else [base / name for name in glob.glob(pattern, root_dir=base, recursive=True)]
    )


def _finished_below(folders: Sequence[Path]) -> list[Path]:
    results = {result for folder in folders for result in folder.glob("**/result.json")}
    return sorted(path.parent for path in results if RunDirectory(path.parent).encoder.is_file())


def chain(result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a training's record and those of what it started from."""
    earlier: Mapping[str, Any] | None = result
    while earlier is not None:
        yield earlier
        provenance: Mapping[str, Any] = earlier.get("provenance") or {}  # an older version did not carry it on
        earlier = provenance.get("pretraining")
