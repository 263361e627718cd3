"""Every shape of folder that people have: the same weights, whoever named them."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from t2v.models import Model, assembly, catalog
from t2v.models.assembly import weights as weights_of
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.contents import LOOK, MAX_FILES, contents, look
from t2v.models.dialects import tower_in
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D
from tests import layouts
from tests.fixtures import TEXT, one_clear_sentence, save_safetensors, save_zip
from tests.layouts import LAYOUTS, NAMES, write_configuration
from tests.networks import normal

TOKENS = torch.tensor([[49406, 320, 1000, 49407]])


def films(model: Model) -> list[torch.Tensor]:
    """What each network of a model makes of the same input, the next from that of the one before.

    The weights are copied before: how kernels round depends on the address at which a file has put them.
    """
    for network in (model.text, model.unet, model.vae):
        network.load_state_dict({key: weight.clone() for key, weight in network.state_dict().items()}, assign=True)
    with torch.inference_mode():
        context = model.text(TOKENS)
        x = model.unet(normal(1, 4, 3, 8, 8), torch.tensor([500.0]), context)
        return [context, x, model.vae.decode(x[:, :, 0]), model.vae.encode(normal(1, 3, 64, 64))]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[torch.dtype], Model]:
    def made(dtype: torch.dtype) -> Model:
        folder = tmp_path_factory.mktemp("reference") / "tiny"
        layouts.raw(folder, dtype)
        return catalog.load_model(folder, "tiny")

    models = {dtype: made(dtype) for dtype in (torch.float32, torch.float16)}
    return lambda dtype: models[dtype]


# ---- the same model ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_makes_the_same_film(
        layout: str, dtype: torch.dtype, reference: Callable[[torch.dtype], Model], tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "tiny", dtype)
    model, other = catalog.load_model(tmp_path / "tiny", "tiny"), reference(dtype)
    assert all(map(torch.equal, films(model), films(other)))
    assert model.hash == other.hash
    assert model.unet.state_dict().keys() == other.unet.state_dict().keys()
    assert torch.equal(model.schedule.alphas, other.schedule.alphas)
    assert model.defaults == other.defaults
    assert model.notes == ()
    assert next(model.unet.parameters()).dtype == dtype


def test_half_precision_is_taken_where_there_are_both(
        reference: Callable[[torch.dtype], Model], tmp_path: Path) -> None:
    layouts.both_precisions(tmp_path / "tiny", torch.float16)
    model = catalog.load_model(tmp_path / "tiny", "tiny")
    assert all(map(torch.equal, films(model), films(reference(torch.float16))))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_told_by_a_glance(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "tiny", torch.float16)
    assert catalog.find_models([tmp_path])["tiny"] == tmp_path / "tiny"
    described = catalog.describe(tmp_path / "tiny")
    assert described["precision"] == "fp16"
    assert described["kind"] == "small model"
    assert described["hash"] == ""
    found = contents(tmp_path / "tiny")
    assert all(found.holding(kind) for kind in (UNet3D, AutoencoderKL, TextTower))
    own = {path for kind in (UNet3D, AutoencoderKL, TextTower) for path in found.holding(kind)}
    assert described["size"] >= sum(path.stat().st_size for path in own)
    assert len(catalog.hash_of(tmp_path / "tiny")) == 10
    assert catalog.describe(tmp_path / "tiny")["hash"] == catalog.hash_of(tmp_path / "tiny")


# ---- what is missing is borrowed ----


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """models/ModelScope/t2v, whole, beside models/text2video."""
    layouts.raw(tmp_path / "models" / "ModelScope" / "t2v", torch.float32)
    (tmp_path / "models" / "text2video").mkdir()
    return tmp_path / "models"


def folders(models: Path) -> list[Path]:
    return [models / "ModelScope", models / "text2video", models]


@pytest.mark.parametrize("missing", ["vae", "text"])
@pytest.mark.parametrize("place", ["ModelScope", "text2video"])
def test_a_missing_network_is_that_of_another_model(
        missing: str, place: str, models: Path, reference: Callable[[torch.dtype], Model]) -> None:
    layouts.raw(models / place / "zeroscope", torch.float32)
    (models / place / "zeroscope" / NAMES[missing]).unlink()
    model = catalog.open_model("zeroscope", folders(models))
    assert all(map(torch.equal, films(model), films(reference(torch.float32))))
    (note,) = model.notes
    words = "autoencoder" if missing == "vae" else "text tower"
    assert note == f"It has no {words}; that of t2v/{NAMES[missing]} is used."
    assert catalog.describe(models / place / "zeroscope", folders(models))["notes"]


def test_what_is_there_and_broken_is_not_replaced_in_silence(models: Path) -> None:
    layouts.raw(models / "ModelScope" / "other", torch.float32)
    path = models / "ModelScope" / "other" / NAMES["vae"]
    path.write_bytes(path.read_bytes()[:1000])
    with one_clear_sentence(f"{NAMES['vae']}: is incomplete"):
        catalog.open_model("other", folders(models))


def test_a_broken_neighbour_is_passed_over(models: Path) -> None:
    shutil.copytree(models / "ModelScope" / "t2v", models / "ModelScope" / "a broken one")
    path = models / "ModelScope" / "a broken one" / NAMES["vae"]
    path.write_bytes(path.read_bytes()[:1000])
    layouts.raw(models / "text2video" / "zs", torch.float32)
    (models / "text2video" / "zs" / NAMES["vae"]).unlink()
    assert "that of t2v/" in catalog.open_model("zs", folders(models)).notes[0]


def test_a_lent_text_tower_may_have_kept_the_layer_that_is_not_used(
        models: Path, reference: Callable[[torch.dtype], Model], monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.write_pipeline(models / "text2video" / "zs")  # it speaks of one layer, and its neighbour has two
    (models / "text2video" / "zs" / "text_encoder" / "model.safetensors").unlink()
    monkeypatch.setattr(assembly, "tower_in", lambda _: TEXT)
    model = catalog.open_model("zs", folders(models))
    assert all(map(torch.equal, films(model), films(reference(torch.float32))))
    assert model.notes == (f"It has no text tower; that of t2v/{NAMES['text']} is used.",)


def test_a_text_tower_that_was_trained_with_its_model_is_not_lent(models: Path) -> None:
    (models / "ModelScope" / "t2v").rename(models / "ModelScope" / "potat1")
    layouts.raw(models / "ModelScope" / "zs", torch.float32)
    (models / "ModelScope" / "zs" / NAMES["vae"]).unlink()
    assert "that of potat1/" in catalog.open_model("zs", folders(models)).notes[0]
    (models / "ModelScope" / "zs" / NAMES["text"]).unlink()
    with one_clear_sentence(f"zs/{NAMES['text']}: is not there"):
        catalog.open_model("zs", folders(models))


@pytest.mark.parametrize("sign", ["cond_stage_model.transformer.text_model.", "conditioner.embedders.0.transformer."])
def test_other_text_towers_and_other_autoencoders_are_told_apart(sign: str, tmp_path: Path) -> None:
    state = {sign + name: torch.ones(1) for name in ("encoder.layers.0.x", "embeddings.token_embedding.weight")}
    save_zip(state | layouts.prefixed("first_stage_model.", layouts.weights()["vae"]), tmp_path / "sd.ckpt")
    assert look(tmp_path / "sd.ckpt").networks == ({AutoencoderKL} if sign.startswith("cond_stage") else set())


def test_a_missing_configuration_is_that_of_a_model_that_fits(
        models: Path, reference: Callable[[torch.dtype], Model]) -> None:
    layouts.raw(models / "text2video" / "zs", torch.float32)
    (models / "text2video" / "zs" / "configuration.json").unlink()
    model = catalog.open_model("zs", folders(models))
    assert all(map(torch.equal, films(model), films(reference(torch.float32))))
    assert model.notes == ("It has no configuration.json; that of t2v is used.",)


def test_where_nothing_will_do_the_missing_file_is_named(tmp_path: Path) -> None:
    layouts.raw(tmp_path / "t2v", torch.float32)
    (tmp_path / "t2v" / NAMES["text"]).unlink()
    with one_clear_sentence(f"{NAMES['text']}: is not there. Put the file there"):
        catalog.load_model(tmp_path / "t2v", "t2v")


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_any_autoencoder_in_the_folder_does(
        prefix: str, tmp_path: Path, reference: Callable[[torch.dtype], Model]) -> None:
    layouts.raw(tmp_path / "t2v", torch.float32)
    (tmp_path / "t2v" / NAMES["vae"]).unlink()
    others = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(3), "loss.logvar": torch.ones(1)}
    state = layouts.prefixed(prefix, layouts.weights()["vae"]) | (others if prefix else {})
    save_safetensors(state, tmp_path / "t2v" / "sd-1.5.safetensors")
    model = catalog.load_model(tmp_path / "t2v", "t2v")
    assert all(map(torch.equal, films(model), films(reference(torch.float32))))
    assert model.notes == ()


def test_comfyui_keeps_each_network_in_a_folder_of_its_kind(
        models: Path, reference: Callable[[torch.dtype], Model]) -> None:
    parts = layouts.weights()
    (models / "ModelScope" / "t2v" / NAMES["vae"]).unlink()  # it only lends its configuration here
    (models / "ModelScope" / "t2v" / NAMES["text"]).unlink()
    for folder in "clip", "vae":
        (models / folder).mkdir()
    save_zip(parts["unet"], models / "text2video" / "zeroscope.pth")
    save_safetensors(parts["vae"], models / "vae" / "sdxl_vae.safetensors")  # to be passed over: other latents
    save_zip({"a": torch.ones(1)}, models / "clip" / "a.bin")
    save_safetensors(layouts.prefixed("first_stage_model.", parts["vae"]), models / "vae" / "vae-ft-mse.safetensors")
    save_zip(parts["text"], models / "clip" / "open_clip_pytorch_model.bin")
    assert catalog.find_models(folders(models))["zeroscope"] == models / "text2video" / "zeroscope.pth"
    model = catalog.open_model("zeroscope", folders(models))
    assert all(map(torch.equal, films(model), films(reference(torch.float32))))
    assert model.notes == ("It has no configuration.json; that of t2v is used.",
                           "It has no autoencoder; that of vae/vae-ft-mse.safetensors is used.",
                           "It has no text tower; that of clip/open_clip_pytorch_model.bin is used.")


# ---- which models there are ----


def test_models_are_found_one_folder_further_down_and_as_files(models: Path) -> None:
    inner = models / "text2video" / "zeroscope_v2_1111models" / "zs2_XL"
    layouts.raw(inner, torch.float32)
    save_zip(layouts.weights()["unet"], models / "text2video" / "loose.ckpt")
    save_zip(layouts.weights()["vae"], models / "ModelScope" / "a file that is no UNet.pth")
    (models / "ModelScope" / ".t2v.download").mkdir()
    shutil.copy(models / "ModelScope" / "t2v" / "configuration.json", models / "ModelScope" / ".t2v.download")
    found = catalog.find_models(folders(models))
    found.pop("demo", None)
    assert found == {"t2v": models / "ModelScope" / "t2v", "zs2_XL": inner,
                     "loose": models / "text2video" / "loose.ckpt"}


def test_a_folder_of_the_list_may_be_a_model_itself(models: Path) -> None:
    assert catalog.find_models([models / "ModelScope" / "t2v"])["t2v"] == models / "ModelScope" / "t2v"
    for path in (models / "ModelScope" / "t2v").iterdir():
        path.rename(models / "ModelScope" / path.name)
    (models / "ModelScope" / "configuration.json").unlink()
    assert catalog.find_models(folders(models))["ModelScope"] == models / "ModelScope"


def test_a_lora_and_the_unet_of_an_image_model_are_no_models(models: Path) -> None:
    lora = {"input_blocks.1.0.temopral_conv.conv1.2.lora_A": torch.ones(2, 2)}
    image = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)}
    for name, state in {"lora": lora, "image": image}.items():
        (models / "text2video" / name).mkdir()
        save_safetensors(state, models / "text2video" / name / f"{name}.safetensors")
    assert catalog.find_models(folders(models)).keys() - {"demo"} == {"t2v"}


@pytest.mark.parametrize(("name", "kind", "width", "height", "frames"), [
    ("zeroscope_v2_576w", "zeroscope v2 576w", 576, 320, 24), ("zs2_XL", "zeroscope v2 XL", 1024, 576, 24),
    ("zeroscope_v2_30x448x256", "zeroscope v2 448w", 448, 256, 30), ("zs2_448w", "zeroscope v2 448w", 448, 256, 30),
    ("zeroscope_v1_320s", "zeroscope v1", 320, 320, 16), ("potat1", "potat1", 1024, 576, 24),
    ("animov-512x", "animov 512x", 512, 512, 16), ("animov-0.1.1", "animov", 384, 384, 16),
    ("text-to-video-ms-1.7b-legacy", "ModelScope 1.7B (legacy)", 256, 256, 16),
    ("t2v", "ModelScope 1.7B", 256, 256, 16),
])
def test_the_name_of_a_folder_suggests_the_settings(
        name: str, kind: str, width: int, height: int, frames: int, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "text2video_pytorch_model.pth").touch()
    described = catalog.describe(tmp_path / name)
    assert [described[key] for key in ("kind", "width", "height", "frames", "fps")] == [kind, width, height, frames, 8]
    assert bool(described["card"]) == (name != "t2v")
    (tmp_path / name / "configuration.json").write_text(json.dumps({"t2v": {"defaults": {"width": 640}}}))
    assert catalog.describe(tmp_path / name)["width"] == 640


def test_a_listing_reads_next_to_nothing(tmp_path: Path) -> None:
    """Twenty models of 12 GB on paper: files that are long, and have nothing behind the names of their weights."""
    for number in range(20):
        layouts.raw(tmp_path / "text2video" / f"model {number}", torch.float32)
        (tmp_path / "text2video" / f"model {number}" / "configuration.json").unlink()
        for name, size in zip(NAMES.values(), (5_645_549_049, 5_214_865_159, 3_944_000_000), strict=True):
            os.truncate(tmp_path / "text2video" / f"model {number}" / name, size)
    for _ in range(2):  # the second time nothing is read at all
        began = time.process_time()
        assert len(catalog.find_models([tmp_path / "text2video"]).keys() - {"demo"}) == 20
        assert time.process_time() - began < 2  # 0.03 s on a quiet machine


def test_hashes_are_looked_up_in_the_background(models: Path) -> None:
    (models / "text2video" / "broken").mkdir()
    (models / "text2video" / "broken" / "text2video_pytorch_model.pth").touch()
    catalog.look_up_hashes([models / "ModelScope", models / "text2video"]).join(60)
    described = catalog.describe(models / "ModelScope" / "t2v")
    assert described["hash"] == catalog.load_model(models / "ModelScope" / "t2v", "").hash
    assert catalog.describe(models / "text2video" / "broken")["hash"] == ""


@pytest.mark.parametrize(("layers", "skip"), [(24, 1), (23, 0), (12, 0)])
@pytest.mark.parametrize(("first", "name", "vision"), [
    ("token_embedding.weight", "transformer.resblocks.{}.ln_1.weight", "visual.transformer.resblocks.0.ln_1.weight"),
    ("text_model.embeddings.token_embedding.weight", "text_model.encoder.layers.{}.layer_norm1.weight",
     "vision_model.encoder.layers.0.layer_norm1.weight")], ids=["OpenCLIP", "transformers"])
def test_a_tower_that_lost_its_unused_layer_uses_all_it_has(
        first: str, name: str, vision: str, layers: int, skip: int, tmp_path: Path) -> None:
    names = [first, *(name.format(layer) for layer in range(layers)), vision]
    save_zip({name: torch.ones(1) for name in names}, tmp_path / "text")
    assert tower_in(tmp_path / "text") == TextConfig(layers=layers, skip_last=skip)


# ---- files from hell ----


def test_a_collection_of_files_is_no_model_and_is_not_looked_at(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 1):
        (tmp_path / f"{number}.safetensors").touch()
    assert contents(tmp_path).files == ()


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04", b"\x80\x02", b"\xff" * LOOK, b"{" * 5000,
                                     b"version https://git-lfs.github.com/spec/v1", b"\0" * 100])
def test_a_glance_at_anything_is_harmless(content: bytes, tmp_path: Path) -> None:
    for name in "a.pth", "b.safetensors", "c.index.json", "d.ckpt":
        (tmp_path / name).write_bytes(content)
        look(tmp_path / name)
    assert catalog.find_models([tmp_path]).keys() <= {"demo"}


def test_loops_folders_and_devices_in_the_place_of_files_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "t2v"
    layouts.raw(folder, torch.float32)
    (folder / "loop.pth").symlink_to("loop.pth")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    (folder / "vae").symlink_to(folder, target_is_directory=True)
    (folder / "dangling.ckpt").symlink_to("nowhere")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.bin")
    assert catalog.load_model(folder, "t2v").notes == ()
    assert catalog.find_models([tmp_path / "models"])["t2v"] == folder


def test_a_folder_in_the_place_of_a_weight_file_is_named(tmp_path: Path) -> None:
    layouts.raw(tmp_path / "t2v", torch.float32)
    (tmp_path / "t2v" / NAMES["vae"]).unlink()
    (tmp_path / "t2v" / NAMES["vae"]).mkdir()
    with one_clear_sentence(f"{NAMES['vae']}: is a folder, not a file"):
        catalog.load_model(tmp_path / "t2v", "t2v")


def test_nothing_in_a_checkpoint_is_run_when_it_is_looked_at(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    write_configuration(tmp_path / "t2v")
    torch.save({"input_blocks.0.0.weight": Trap(), "temopral_conv": Trap()}, tmp_path / "t2v" / NAMES["unet"])
    assert catalog.find_models([tmp_path])
    with one_clear_sentence(NAMES["unet"]):
        catalog.load_model(tmp_path / "t2v", "t2v")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("part", "words"), [
    ("../../secret.safetensors", "no file of its own"), ("/etc/passwd", "no file of its own"),
    ("..", "no file of its own"), ("missing.bin", "missing.bin: is not there"),
    ("i.index.json", "i.index.json: is not a weight file"), ("a" * 5000, "cannot be read"),
    ("a\0b", "cannot be read|is not there"), (3, "no index of weight files"), (None, "no index of weight files")])
def test_an_index_only_speaks_of_files_that_are_there(part: object, words: str, tmp_path: Path) -> None:
    layouts.write_pipeline(tmp_path / "t2v")
    (tmp_path / "t2v" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(layouts.pipeline_states(torch.float32)["unet"], part)}
    (tmp_path / "t2v" / "unet" / "i.index.json").write_text(json.dumps(index))
    save_safetensors({"x": torch.ones(1)}, tmp_path / "secret.safetensors")
    with one_clear_sentence(words):
        catalog.load_model(tmp_path / "t2v", "t2v")


@pytest.mark.parametrize("length", [0, 7, 8, 100, 5000, -100_000, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_part_that_is_cut_off_is_named(suffix: str, length: int, tmp_path: Path) -> None:
    layouts.write_pipeline(tmp_path / "t2v", suffix=suffix, parts=2)
    path = tmp_path / "t2v" / "unet" / f"diffusion_pytorch_model-00002-of-00002{suffix}"
    path.write_bytes(path.read_bytes()[:length])
    with one_clear_sentence("00002-of-00002"):
        catalog.load_model(tmp_path / "t2v", "t2v")


def test_every_byte_of_a_directory_may_be_wrong(tmp_path: Path) -> None:
    """The names in a file, spoilt at many places: a model, or one sentence about why not."""
    save_zip(layouts.weights()["unet"], tmp_path / "u.pth")
    whole = bytearray((tmp_path / "u.pth").read_bytes())
    write_configuration(tmp_path / "t2v")
    for place in range(60, 40_000, 1999):
        spoilt = whole.copy()
        spoilt[place] ^= 0xFF
        (tmp_path / "t2v" / NAMES["unet"]).write_bytes(spoilt)
        with one_clear_sentence():
            catalog.load_model(tmp_path / "t2v", "t2v")  # that has no autoencoder either


def test_the_file_that_the_configuration_names_goes_before_others(tmp_path: Path) -> None:
    layouts.raw(tmp_path / "t2v", torch.float32)
    save_safetensors(layouts.weights()["unet"], tmp_path / "t2v" / "another.safetensors")
    found = contents(tmp_path / "t2v")
    assert [path.name for path in found.holding(UNet3D)] == ["another.safetensors", NAMES["unet"]]
    assert weights_of(found, UNet3D, NAMES["unet"]).name == NAMES["unet"]
    assert weights_of(found, UNet3D, "none.pth").name == "another.safetensors"


def test_axes_of_length_one_make_no_difference_and_others_do(tmp_path: Path) -> None:
    state = layouts.weights()["unet"]
    for name, change, fits in (("flat", lambda tensor: tensor.squeeze(-1), True),
                               ("turned", lambda tensor: tensor.transpose(0, 1).contiguous(), False)):
        layouts.raw(tmp_path / name, torch.float32)
        changed = {key: change(tensor) if "0.1.proj_in.weight" in key else tensor for key, tensor in state.items()}
        save_zip(changed, tmp_path / name / NAMES["unet"])
        if fits:
            catalog.load_model(tmp_path / name, name)
        else:
            with one_clear_sentence("of another shape"):
                catalog.load_model(tmp_path / name, name)
