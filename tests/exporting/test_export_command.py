"""The export command: what its page tells to do gives the run's own numbers, in every form."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import load_file

import ssl_rs
from ssl_rs.build import build
from ssl_rs.command import main
from ssl_rs.data.sampling import to_unit
from ssl_rs.encoder import Backbone, Normalization, Statistics
from ssl_rs.errors import InputError
from ssl_rs.exporting import onnx_graph
from ssl_rs.exporting.forms import Subject, write_as_onnx, write_smp
from ssl_rs.files import sha256_of
from ssl_rs.locks import hold
from ssl_rs.run_directory import RunDirectory, read_metadata, save_tensors
from ssl_rs.segmentation.network import build_segmentation_model
from ssl_rs.stages import exporting
from ssl_rs.stages.finished_run import stored_config
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata

QUICK = ("dataset.crop_size=32", "trainer.batch_size=4", "trainer.max_steps=3", "logger=none")


def train(command, root, folder, *overrides):
    threads = torch.get_num_threads()
    given = ("dataset=folder", f"dataset.root='{root}'", *QUICK, *overrides)
    assert main(command, [*given, f"output_dir={folder}", f"run_dir={folder / 'run'}"]) == 0
    torch.set_num_threads(threads)
    return RunDirectory(folder / "run")


@pytest.fixture(scope="module")
def pretrained(folder_dataset, tmp_path_factory):
    return train("pretrain", folder_dataset, tmp_path_factory.mktemp("pretrained"), "pretext=[inpainting]")


@pytest.fixture(scope="module")
def tuned(folder_dataset, tmp_path_factory):
    return train("finetune", folder_dataset, tmp_path_factory.mktemp("tuned"), "evaluation.window.size=32")


@pytest.fixture
def exported(command, tmp_path, monkeypatch):
    """Export a run into the working directory: the folder that is printed."""
    monkeypatch.chdir(tmp_path)

    def export(run, *overrides):
        code, out, err = command("export", f"run={run.path}", *overrides)
        assert code == 0, err
        return tmp_path / out.splitlines()[-1]

    return export


@pytest.fixture
def refused(command, tmp_path, monkeypatch):
    """Export what cannot be: the message."""
    monkeypatch.chdir(tmp_path)

    def export(run, *overrides):
        code, _, err = command("export", *([f"run={run}"] if run else []), *overrides)
        assert code == 2, err
        return err

    return export


@pytest.fixture
def images():
    """Two images of 64 x 96 px as a file stores them, [2, 3, 64, 96]; some values are beyond the scale of 255."""
    return torch.randint(0, 300, (2, 3, 64, 96), generator=torch.Generator().manual_seed(3)).float()


def follow(folder, images, monkeypatch):
    """Run the lines of Python on the page of an export, in its folder; return what each form leaves, by title."""
    page = (folder / "README.md").read_text()
    monkeypatch.chdir(folder)
    first, *others = re.findall(r"## ([^\n]*)\n(?:[^`#\n][^\n]*\n)*```python\n(.*?)```", page, flags=re.DOTALL)
    names = {"images": images}
    exec(first[1], names)
    made = {}
    for title, code in others:
        here = {**names, "images": images.numpy()}
        exec(code, here)
        made[title.split(",")[0]] = here
    return names["normalized"], made


def own_encoder(run):
    metadata = read_weights_metadata(run.encoder)
    encoder = Backbone(metadata.backbone).build(3)
    encoder.load_state_dict(load_file(run.encoder))
    return encoder.eval(), Normalization(metadata.statistics)


@torch.no_grad()
def deepest_of(model, normalized):
    """Return the map that a model of torchvision or timm has before it pools."""
    if hasattr(model, "forward_features"):
        return model.eval().forward_features(normalized)
    return torch.nn.Sequential(*list(model.eval().children())[:-2])(normalized)


@pytest.mark.slow
def test_a_pretrained_encoder_gives_its_features_in_every_form(exported, pretrained, images, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install 'ssl-rs[export]'")
    folder = exported(pretrained)
    encoder, normalization = own_encoder(pretrained)
    with torch.no_grad():
        expected = encoder(normalization(to_unit(images, 255)))[-1]
    normalized, made = follow(folder, images, monkeypatch)
    torch.testing.assert_close(normalized, normalization(to_unit(images, 255)))
    assert list(made) == [
        "The encoder in torchvision", "The encoder in timm", "The encoder in segmentation-models-pytorch", "ONNX",
    ]  # fmt: skip
    for title in ("The encoder in torchvision", "The encoder in timm"):
        torch.testing.assert_close(deepest_of(made[title]["model"], normalized), expected, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        smp = made["The encoder in segmentation-models-pytorch"]["model"].encoder.eval()(normalized)[-1]
    torch.testing.assert_close(smp, expected)
    onnx = made["ONNX"]
    np.testing.assert_allclose(onnx["features"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(onnx["embedding"], expected.mean(dim=(2, 3)), rtol=1e-3, atol=1e-4)
    about = json.loads((folder / "export.json").read_text())
    assert about["weights_sha256"] == sha256_of(pretrained.encoder)
    assert about["files"] == {
        name: sha256_of(folder / name)
        for name in (
            "README.md",
            "encoder.onnx",
            "images_seen.json",
            "smp_encoder.safetensors",
            "timm.safetensors",
            "torchvision.pth",
        )
    }
    assert about["left_out"] == {}
    page = (folder / "README.md").read_text()
    assert "left as the library makes them: `fc.weight`, `fc.bias`." in page
    assert "- images: height and width in multiples of 32" in page
    assert '- weights that training started from: `"random"`' in page
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f".{folder.name}.lock"}


@pytest.mark.slow
def test_a_fine_tuned_model_gives_its_probabilities_in_every_form(exported, tuned, images, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install 'ssl-rs[export]'")
    folder = exported(tuned, "formats=[smp,onnx]")
    metadata, config = read_weights_metadata(tuned.model), stored_config(tuned)
    model = build_segmentation_model(build(config["decoder"], "decoder"), metadata.backbone, 3, 3)
    model.load_state_dict(load_file(tuned.model))
    with torch.no_grad():
        expected = model.eval()(Normalization(metadata.statistics)(to_unit(images, 255)))
    normalized, made = follow(folder, images, monkeypatch)
    with torch.no_grad():
        torch.testing.assert_close(made["The model in segmentation-models-pytorch"]["model"](normalized), expected)
    np.testing.assert_allclose(made["ONNX"]["probabilities"], expected.softmax(dim=1), rtol=1e-3, atol=1e-5)
    said = made["ONNX"]["session"].get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == ["a", "b", "c"]
    assert json.loads(said["bands"]) == ["red", "green", "blue"]
    assert json.loads(said["value_scale"]) == 255
    assert json.loads(said["side_multiple_of"]) == 32
    page = (folder / "README.md").read_text()
    assert '- classes, in the order of the scores: `["a", "b", "c"]`' in page
    assert {path.name for path in (folder / "smp").iterdir()} == {
        "config.json",
        "images_seen.json",
        "model.safetensors",
    }


def test_an_export_that_is_there_is_left_alone_and_a_damaged_one_made_again(exported, pretrained):
    folder = exported(pretrained, "formats=[timm,smp]")
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert exported(pretrained, "formats=[timm,smp]") == folder
    assert {path: path.stat().st_mtime_ns for path in written} == written
    whole = (folder / "timm.safetensors").read_bytes()
    (folder / "timm.safetensors").write_bytes(whole[:100])
    assert exported(pretrained, "formats=[timm,smp]") == folder
    assert (folder / "timm.safetensors").read_bytes() == whole
    assert exported(pretrained, "formats=[timm]") != folder


def test_four_bands_leave_out_torchvision_unless_it_was_asked_for(
    exported, refused, pretrained, tmp_path, folder_dataset
):
    root = tmp_path / "four"
    shutil.copytree(folder_dataset, root)
    for path in (root / "images").rglob("*.png"):
        image = Image.open(path)
        image.putalpha(255)
        image.convert("CMYK").save(path.with_suffix(".tif"))
        path.unlink()
    run = train("pretrain", root, tmp_path / "runs", "pretext=[inpainting]", "dataset.bands=[a,b,c,d]")
    bands = len(read_weights_metadata(run.encoder).bands)
    assert bands == 4
    folder = exported(run, "formats=[timm]")
    assert load_file(folder / "timm.safetensors")["conv1.weight"].shape[1] == 4
    assert "cannot be exported as torchvision: torchvision's models read 3 bands, this one reads 4" in refused(
        run.path, "formats=[torchvision]"
    )


def test_a_form_that_there_is_none_of_is_left_out_with_the_reason(command, exported, refused, pretrained, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    folder = exported(pretrained)
    reason = "onnxruntime is not installed (pip install 'ssl-rs[export]')"
    assert json.loads((folder / "export.json").read_text())["left_out"] == {"onnx": reason}
    assert f"- onnx: {reason}" in (folder / "README.md").read_text()
    assert not list(folder.glob("*.onnx"))
    shutil.rmtree(folder)
    assert f"onnx is left out: {reason}" in command("export", f"run={pretrained.path}")[2]
    everything = "formats=[torchvision,timm,smp,onnx]"
    assert f"cannot be exported as onnx: {reason}. Leave it out." in refused(pretrained.path, everything)


def test_what_is_installed_later_makes_another_export(exported, pretrained, monkeypatch):
    installed = exporting.version_of
    monkeypatch.setattr(exporting, "version_of", lambda name: None if name == "onnxruntime" else installed(name))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    folder = exported(pretrained)
    monkeypatch.setattr(exporting, "version_of", lambda name: "1.0" if name == "onnxruntime" else installed(name))
    assert exported(pretrained) != folder


def test_forms_are_a_set(exported, pretrained):
    folder = exported(pretrained, "formats=[timm,smp]")
    assert exported(pretrained, "formats=[smp,timm,smp]") == folder


def test_other_weights_of_a_run_of_the_same_name_are_another_export(exported, pretrained, tmp_path):
    folder = exported(pretrained, "formats=[timm]")
    other = RunDirectory(tmp_path / "other" / pretrained.path.name)
    shutil.copytree(pretrained.path, other.path)
    weights = load_file(pretrained.encoder)
    weights["conv1.weight"] *= -1
    save_tensors(other.encoder, weights, read_metadata(pretrained.encoder))
    other.result.write_text(json.dumps(other.read_result() | {"encoder_sha256": sha256_of(other.encoder)}))
    again = exported(other, "formats=[timm]")
    assert again != folder
    assert torch.equal(load_file(again / "timm.safetensors")["conv1.weight"], weights["conv1.weight"])


def subject_of(model):
    metadata = WeightsMetadata(
        "resnet18", ("red", "green", "blue"), 255.0, Statistics((0.4,) * 3, (0.2,) * 3, ""), ("a",)
    )
    return Subject(metadata, model.encoder, model, 32)


def test_models_that_smp_cannot_make_again_are_refused(tmp_path):
    plain = smp.Unet("resnet18", encoder_weights=None, classes=1).eval()
    write_smp(subject_of(plain), tmp_path)
    assert {path.name for path in (tmp_path / "smp").iterdir()} == {"config.json", "model.safetensors"}
    shutil.rmtree(tmp_path / "smp")
    other_head, toned = (smp.Unet("resnet18", encoder_weights=None, classes=1).eval() for _ in range(2))
    other_head.segmentation_head = torch.nn.Conv2d(16, 1, 1)
    toned.segmentation_head.append(torch.nn.Tanh())  # all tensors have the names that smp gives them
    for model in (other_head, toned):
        with pytest.raises(InputError, match="makes another network of its settings"):
            write_smp(subject_of(model), tmp_path)
        assert not (tmp_path / "smp").exists()


def test_models_of_other_libraries_have_no_form_in_smp(tmp_path):
    class Own(smp.Unet):
        """A decoder of a user's own."""

    with pytest.raises(InputError, match="Own is no model of segmentation-models-pytorch"):
        write_smp(subject_of(Own("resnet18", encoder_weights=None, classes=1).eval()), tmp_path)


@pytest.mark.slow
def test_a_network_that_has_no_form_in_onnx_leaves_no_file(tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install 'ssl-rs[export]'")
    pools_to_fixed_grids = smp.PSPNet("resnet18", encoder_weights=None, classes=1).eval()
    with pytest.raises(InputError, match=r"onnxruntime cannot run it|sides that are free"):
        write_as_onnx(subject_of(pools_to_fixed_grids), tmp_path)
    assert not list(tmp_path.iterdir())


class Scaling(torch.nn.Module):
    """Multiplies images by a factor."""

    outputs = ("products",)

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        return (self.factor * images,)


def test_a_graph_of_onnx_that_computes_other_values_is_refused(monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install 'ssl-rs[export]'")
    onnx = pytest.importorskip("onnx")
    shape = ["batch", 3, "height", "width"]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("images", "products")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["images"], ["products"])], "g", ends[:1], ends[1:]
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    program = SimpleNamespace(model=SimpleNamespace(metadata_props={}), model_proto=proto)
    monkeypatch.setattr(onnx_graph, "_translated", lambda *given: program)
    examples = [torch.rand(1, 3, 8, 8), torch.rand(2, 3, 8, 16)]
    assert onnx_graph.as_onnx(Scaling(1.0), examples, {}) == proto.SerializeToString()
    for factor in (1.01, torch.nan):
        with pytest.raises(InputError, match=r"onnxruntime computes other products of images of \(1, 3, 8, 8\)"):
            onnx_graph.as_onnx(Scaling(factor), examples, {})


def test_the_page_is_told_of_pixels_that_were_averaged_and_of_the_start(tmp_path):
    run = RunDirectory(tmp_path)
    for factor, told in ((1, {}), (2, {"downsample": 2})):
        run.config.write_text(f"dataset: {{downsample: {factor}}}\n")
        assert exporting._training(run, {"seed": 1}) == {"seed": 1, **told}
    result = {"provenance": {"label": "theirs"}}
    assert exporting._training(run, result) == {**result, "downsample": 2, "start": "theirs"}


def test_nothing_that_no_export_wrote_is_overwritten(exported, refused, pretrained, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years")
    assert "mine holds thesis.txt, which no export wrote" in refused(pretrained.path, f"run_dir={folder}")
    (folder / "thesis.txt").unlink()
    assert exported(pretrained, f"run_dir={folder}", "formats=[timm]") == folder
    for extra in (folder / "thesis.txt", folder / "data"):
        extra.write_text("years") if extra.suffix else extra.symlink_to(tmp_path)
        assert f"holds {extra.name}" in refused(pretrained.path, f"run_dir={folder}", "formats=[smp]")
        extra.unlink()
    (folder / "empty").mkdir()
    assert "holds empty" in refused(pretrained.path, f"run_dir={folder}", "formats=[smp]")
    (folder / "empty").rmdir()
    assert exported(pretrained, f"run_dir={folder}", "formats=[smp]") == folder
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "export.json", "images_seen.json", "smp_encoder.safetensors"
    }  # fmt: skip


def test_what_a_kill_left_is_cleared_and_two_at_once_are_refused(exported, refused, pretrained, tmp_path):
    folder, aside = tmp_path / "out", tmp_path / ".out.partial"
    aside.mkdir()
    (aside / "timm.safetensors").write_bytes(b"half")
    with hold(tmp_path / ".out.lock", "it", "wait"):
        assert "out is in use by process" in refused(pretrained.path, f"run_dir={folder}", "formats=[smp]")
    assert not folder.exists()
    assert exported(pretrained, f"run_dir={folder}", "formats=[smp]") == folder
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "export.json", "images_seen.json", "smp_encoder.safetensors"
    }  # fmt: skip
    assert "`images_seen.json` tells" in (folder / "README.md").read_text()
    assert not aside.exists()


def test_places_that_cannot_be_replaced_are_refused(refused, pretrained, tmp_path):
    (tmp_path / "file").write_text("")
    for place, said in (
        (".", "is the working directory"),
        ("/", "is the working directory, or one above"),
        ("file", "is no folder"),
    ):
        assert f"run_dir={place} {said}" in refused(pretrained.path, f"run_dir={place}", "formats=[smp]")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("result.json", '"image_size": 32', '"image_size": 0'),
        ("result.json", '"image_size": 32', '"image_size": [1]'),
        ("result.json", '"dataset": "folder"', '"dataset": "/tmp/elsewhere"'),
        ("result.json", '"dataset": "folder"', '"dataset": 3'),
    ],
)
def test_damaged_files_of_a_run_are_named(refused, pretrained, tmp_path, file, old, new):
    copy = tmp_path / "copy"
    shutil.copytree(pretrained.path, copy)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    key = old.split('"')[1]
    assert f"{copy / file} has {key}=" in refused(copy, "formats=[smp]")


def test_results_from_before_have_the_size_of_their_crops(exported, refused, pretrained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(pretrained.path, copy)
    result = json.loads((copy / "result.json").read_text())
    del result["image_size"]
    (copy / "result.json").write_text(json.dumps(result))
    assert (exported(RunDirectory(copy), "formats=[smp]") / "export.json").is_file()
    text = (copy / "config.yaml").read_text()
    for crop_size in ("0", "[1]"):
        (copy / "config.yaml").write_text(text.replace("crop_size: 32", f"crop_size: {crop_size}"))
        assert f"{copy / 'config.yaml'} has dataset.crop_size=" in refused(copy, "formats=[smp]", "run_dir=again")


OURS = "ssl_rs.segmentation.sliding_window.WindowSettings"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (OURS, "segmentation_models_pytorch.encoders.timm_universal.TimmUniversalEncoder", "is not admitted"),
        (OURS, "ssl_rs.encoder.Backbone", f"expected a {OURS}: it is damaged"),
        ("overlap: 0.5", "overlap: {_target_: segmentation_models_pytorch.Unet}", f"expected a {OURS}: it is damaged"),
    ],
)
def test_nothing_but_windows_is_built_of_what_a_config_says_of_them(
    refused, tuned, tmp_path, monkeypatch, old, new, said
):
    """The folder of a run may come from a stranger, and an encoder may download what its name says."""
    copy = tmp_path / "copy"
    shutil.copytree(tuned.path, copy)
    text = (copy / "config.yaml").read_text()
    assert old in text
    (copy / "config.yaml").write_text(text.replace(old, new))

    def asked(*arguments, **more):
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr("socket.getaddrinfo", asked)
    assert said in refused(copy, "formats=[smp]")


def test_what_other_code_needs_to_know_goes_with_the_files(pretrained, tuned, tmp_path):
    names = {"timm.safetensors": pretrained, "smp_encoder.safetensors": pretrained, "smp/model.safetensors": tuned}
    for name, run in names.items():
        folder = tmp_path / name.replace("/", "_")
        assert main("export", [f"run={run.path}", "formats=[timm,smp]", f"run_dir={folder}"]) == 0
        metadata = read_weights_metadata(folder / name)
        about = json.loads((folder / "export.json").read_text())
        assert (about["bands"], about["value_scale"]) == ([*metadata.bands], metadata.value_scale)
        assert about["mean"] == [*metadata.statistics.mean]
        assert about["std"] == [*metadata.statistics.std]
        assert about.get("classes") == (["a", "b", "c"] if run is tuned else None)
        assert about["versions"]["ssl_rs"] == ssl_rs.__version__


def test_what_is_no_finished_run_is_refused(refused, pretrained, tuned, tmp_path):
    assert "run is not set" in refused(None)
    assert "holds no finished pretraining or fine-tuning" in refused(tmp_path)
    assert "Did you mean 'formats'?" in refused(pretrained.path, "format=[timm]")
    assert "one of torchvision, timm, smp, onnx" in refused(pretrained.path, "formats=[tim]")
    assert "formats=[] leaves nothing to write" in refused(pretrained.path, "formats=[]")
    for run, weights in ((pretrained, "encoder.safetensors"), (tuned, "model.safetensors")):
        copy = tmp_path / weights
        shutil.copytree(run.path, copy)
        tensors = load_file(copy / weights)
        save_tensors(
            copy / weights, {name: value + 1 for name, value in tensors.items()}, read_metadata(copy / weights)
        )
        assert "is not the file that its result.json names" in refused(copy, "formats=[timm]")
        (copy / weights).unlink()
        assert f"{weights} is missing" in refused(copy, "formats=[timm]")
    assert not list(tmp_path.rglob("*.partial"))


def test_an_export_made_before_its_run_told_what_it_saw_is_made_again(exported, pretrained, tmp_path):
    run, folder = shutil.copytree(pretrained.path, tmp_path / "run"), tmp_path / "out"
    seen = (run / "images_seen.json").read_text()
    (run / "images_seen.json").unlink()
    chosen = (f"run_dir={folder}", "formats=[smp]")
    exported(RunDirectory(run), *chosen)
    assert not (folder / "images_seen.json").exists()
    assert "images_seen" not in (folder / "README.md").read_text()
    (run / "images_seen.json").write_text(seen)
    exported(RunDirectory(run), *chosen)
    assert (folder / "images_seen.json").read_text() == seen
