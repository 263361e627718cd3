"""LoRAs of every format change what they should, by how much they should, and leave nothing behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers.utils.peft_utils import get_peft_kwargs
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from t2v.errors import ModelError, RequestError
from t2v.extra import Strength, listed
from t2v.models import Model
from t2v.models.lora import read_lora
from t2v.models.lora.merge import Use, changes_of, mixed
from t2v.models.lora.parts import Change, Layers
from t2v.models.modelscope import load
from t2v.models.names import unet_layers
from t2v.models.unet import UNet3D
from tests.fixtures import make_model
from tests.loras import NAMED, Pairs, diffusers_name, drawn, numbered, positional, product, split
from tests.mappings import unet_to_diffusers
from tests.networks import assert_equal, normal
from tests.peers import diffusers_unet, transformers_text

ONE = Strength()
# One layer of every kind: stem, time, spatial and temporal transformer, its projection, a block's, up, down, out.
SOME = [
    "conv_in", "time_embedding.linear_1", "transformer_in.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.temp_attentions.0.proj_in", "down_blocks.0.attentions.0.proj_in",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.1.resnets.0.conv1", "down_blocks.1.resnets.0.conv_shortcut", "down_blocks.1.resnets.0.time_emb_proj",
    "mid_block.temp_convs.1.conv3.3", "up_blocks.0.upsamplers.0.conv", "down_blocks.0.downsamplers.0.conv",
    "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj", "conv_out",
]
TEXT = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.v_proj", "encoder.layers.1.self_attn.k_proj",
        "encoder.layers.0.self_attn.out_proj", "encoder.layers.1.mlp.fc1", "encoder.layers.0.mlp.fc2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def layers(model: Model) -> Layers:
    return Layers(model)


@pytest.fixture(scope="module")
def twin(model: Model) -> Any:
    """diffusers' UNet with our weights, in memory of its own."""
    return diffusers_unet(model.unet)


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every linear layer and convolution of a network of diffusers or transformers, in its order."""
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d)
    return {name: tuple(module.weight.shape) for name, module in network.named_modules() if isinstance(module, kinds)}


@pytest.fixture(scope="module")
def shapes(model: Model, twin: Any) -> dict[str, tuple[int, ...]]:
    used = {f"text_encoder:{name.removeprefix('text_model.')}": shape
            for name, shape in shapes_of(transformers_text(model.text)).items()}
    last = {name.replace("layers.0", "layers.1"): shape for name, shape in used.items()}  # which is in our tower only
    return shapes_of(twin) | used | last


def chosen(shapes: dict[str, tuple[int, ...]], names: list[str]) -> dict[str, tuple[int, ...]]:
    return {name: shapes[name] for name in names}


def applied(model: Model, path: Path, layers: Layers, strength: Strength = ONE) -> Iterator[dict[str, Tensor]]:
    """The weights of UNet and text tower with the LoRA in `path`, by our names."""
    use = Use(read_lora(path, path.stem, layers), strength, strength)
    with mixed(model.unet, changes_of([use], "unet")) as unet, mixed(model.text, changes_of([use], "text")) as text:
        unet.at(0)
        text.at(0)
        yield {name: weight.clone() for name, weight in unet_to_diffusers(model.unet.state_dict(),
                                                                           model.unet.config).items()}
        yield {name: weight.clone() for name, weight in model.text.state_dict().items()}


def text_layer(state: dict[str, Tensor], name: str) -> Tensor:
    """The weight of one of transformers' layers in the state of our tower."""
    _, _, number, *inside = name.split(".")
    ours = f"transformer.resblocks.{number}."
    if inside[1] in ("q_proj", "k_proj", "v_proj"):
        return state[f"{ours}attn.in_proj_weight"].chunk(3)["qkv".index(inside[1][0])]
    return state[ours + {"out_proj": "attn.out_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}[inside[1]] + ".weight"]


def assert_added(model: Model, path: Path, layers: Layers, pairs: Pairs) -> None:
    """The LoRA in `path` adds the product of each of `pairs` to its layer, and nothing to others."""
    before = unet_to_diffusers(model.unet.state_dict(), model.unet.config)
    before_text = dict(model.text.state_dict())
    unet, text = applied(model, path, layers)
    of_unet, of_text = split(pairs)
    for key, weight in before.items():
        pair = of_unet.get(key.removesuffix(".weight"))
        assert_equal(unet[key], weight + product(*pair), 2e-5) if pair else None
        assert pair or torch.equal(unet[key], weight), key
    for name, pair in of_text.items():
        assert_equal(text_layer(text, name), text_layer(before_text, name) + product(*pair), 2e-5)
    changed = [key for key, weight in before_text.items() if not torch.equal(weight, text[key])]
    assert len(changed) <= len(of_text)
    assert bool(changed) == bool(of_text)


# ---- names ----


def test_every_layer_has_the_name_and_the_place_it_has_in_diffusers(model: Model, twin: Any) -> None:
    pairs = list(unet_layers(model.unet, model.unet.config))
    assert [theirs for _, theirs in pairs] == list(shapes_of(twin))
    assert all(diffusers_name(f"{ours}.weight", model.unet.config) == theirs for ours, theirs in pairs)


def test_the_order_holds_at_full_size() -> None:
    from diffusers import UNet3DConditionModel

    with torch.device("meta"):
        ours, theirs = UNet3D(), UNet3DConditionModel()
    assert [name for _, name in unet_layers(ours, ours.config)] == list(shapes_of(theirs))


def test_a_layer_is_found_by_any_of_its_names(layers: Layers) -> None:
    target = layers.unet["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"]
    for name in ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
                 "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
                 "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
                 "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
                 "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
                 "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"):
        assert layers.named(name) == target, name
    third = layers.text["encoder.layers.1.self_attn.v_proj"]
    for name in ("text_encoder.text_model.encoder.layers.1.self_attn.v_proj", "resblocks.1.attn.v_proj",
                 "lora_te_text_model_encoder_layers_1_self_attn_v_proj", "lora_te1_encoder_layers_1_self_attn_v_proj"):
        assert layers.named(name) == third, name
    assert layers.named("lora_unet_elsewhere") is None


def test_no_two_layers_share_a_name(layers: Layers) -> None:
    assert len(set(layers.by_name.values())) == len(layers.unet) + len(layers.text)


# ---- formats ----


@pytest.mark.parametrize("name", NAMED)
def test_files_with_names_add_their_products(
    model: Model, layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path, name: str
) -> None:
    kernels = {"stable.safetensors": 2}.get(name, 5)  # Stable LoRA has another way with kernels
    names = [layer for layer in SOME if len(shapes[layer]) <= kernels]
    if name != "peft":
        names += [f"text_encoder:{layer}" for layer in TEXT]
    pairs = drawn(chosen(shapes, names))
    NAMED[name](pairs, tmp_path / name)
    assert_added(model, tmp_path / name, layers, pairs)


def test_the_oldest_files_of_diffusers_name_attention_processors(
    model: Model, layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    block = "mid_block.attentions.0.transformer_blocks.0.attn1"
    pairs = drawn(chosen(shapes, [f"{block}.to_v", f"{block}.to_out.0"]))
    tensors = {}
    for (up, down), name in zip(pairs.values(), ("to_v", "to_out"), strict=True):
        tensors |= {f"{block}.processor.{name}_lora.down.weight": down, f"{block}.processor.{name}_lora.up.weight": up}
    save_file(tensors, tmp_path / "old.safetensors")
    assert_added(model, tmp_path / "old.safetensors", layers, pairs)


def test_stable_lora_for_web_uis_has_names_of_three_kinds(model: Model, layers: Layers, tmp_path: Path) -> None:
    """Ours, those of diffusers where its converter knew none, and the text's; projections have an axis more."""
    unet, text = model.unet.state_dict(), model.text.state_dict()
    table = {"input_blocks.1.1.transformer_blocks.0.attn1.to_q": "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
             "input_blocks.1.2.proj_in": "input_blocks.1.2.proj_in",
             "input_blocks.1.1.proj_out": "input_blocks.1.1.proj_out",
             "time_embedding.linear_1": "time_embed.0"}
    tensors, expected = {}, {}
    for seed, (name, ours) in enumerate(table.items()):
        weight = unet[f"{ours}.weight"]
        a, b = normal(3, weight.shape[1], seed=seed), normal(weight.shape[0], 3, seed=seed + 50)
        more = (1,) if "proj_" in name else ()
        tensors[f"{name}.lora_A"] = a.reshape(*a.shape, *more).half()
        tensors[f"{name}.lora_B"] = b.reshape(*b.shape, *more).half()
        expected[f"{ours}.weight"] = weight + (b.half().float() @ a.half().float()).reshape(weight.shape)
    a, b = normal(3, 32, seed=90), normal(32, 3, seed=91)
    tensors |= {"resblocks.1.attn.k_proj.lora_A": a, "resblocks.1.attn.k_proj.lora_B": b}
    words, dims = normal(2, 49408, seed=92), normal(32, 2, seed=93)
    tensors |= {"text_model.embeddings.token_embedding.lora_A": words,
                "text_model.embeddings.token_embedding.lora_B": dims}
    save_file(tensors, tmp_path / "webui.safetensors", {"stable_lora_text_to_video": "v1"})
    use = Use(read_lora(tmp_path / "webui.safetensors", "webui", layers), ONE, ONE)
    with mixed(model.unet, changes_of([use], "unet")) as mixture:
        mixture.at(0)
        for key, weight in expected.items():
            assert_equal(model.unet.state_dict()[key], weight)
    with mixed(model.text, changes_of([use], "text")) as mixture:
        mixture.at(0)
        changed = model.text.state_dict()
        key = "transformer.resblocks.1.attn.in_proj_weight"
        assert_equal(changed[key][32:64] - text[key][32:64], b @ a)
        assert torch.equal(changed[key][:32], text[key][:32])
        assert torch.equal(changed[key][64:], text[key][64:])
        assert_equal(changed["token_embedding.weight"], text["token_embedding.weight"] + (dims @ words).T)


def test_stable_lora_spreads_kernels_over_its_matrices(model: Model, layers: Layers, tmp_path: Path) -> None:
    """As its layers compute: the product viewed as the kernel, and along time the mean over an axis too many."""
    plain, time = model.unet.input_blocks[1][0].in_layers[2], model.unet.input_blocks[1][0].temopral_conv.conv2[3]
    a, b = normal(6, 96), normal(96, 6, seed=1)
    c, d = normal(6, 96, seed=2), normal(96, 6, seed=3)
    save_file({"down_blocks.0.resnets.0.conv1.lora_A": a, "down_blocks.0.resnets.0.conv1.lora_B": b,
               "down_blocks.0.temp_convs.0.conv2.3.lora_A": c, "down_blocks.0.temp_convs.0.conv2.3.lora_B": d},
              tmp_path / "kernels.safetensors")
    before = plain.weight.clone(), time.weight.clone()
    use = Use(read_lora(tmp_path / "kernels.safetensors", "k", layers), ONE, ONE)
    with mixed(model.unet, changes_of([use], "unet")) as mixture:
        mixture.at(0)
        assert_equal(plain.weight, before[0] + (b @ a).view(32, 32, 3, 3))
        assert_equal(time.weight, before[1] + torch.mean((d @ c).view(32, 32, 3, 3, 1), dim=-2, keepdim=True))


CLASSES = {
    "UNet3DConditionModel": lambda _: True,
    "TransformerTemporalModel": lambda name: "temp_attentions." in name or name.startswith("transformer_in."),
    "Transformer2DModel": lambda name: ".attentions." in name,
    "ResnetBlock2D, Attention": lambda name: ".resnets." in name or ".attn1." in name or ".attn2." in name,
}


@pytest.mark.parametrize("classes", CLASSES)
def test_lists_without_names_find_the_layers_of_the_trained_classes(
    model: Model, layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path, classes: str
) -> None:
    """MotionDirector trains the second and the third; in this small model their layers have all the same shapes."""
    pairs = drawn({name: shape for name, shape in shapes.items() if ":" not in name and CLASSES[classes](name)}, 8)
    positional(pairs, tmp_path / "150_unet.pt")
    assert_added(model, tmp_path / "150_unet.pt", layers, pairs)


def test_the_names_of_the_classes_are_those_of_diffusers(twin: Any) -> None:
    for wanted in ("TransformerTemporalModel", "Transformer2DModel"):
        inside = {f"{name}.{inner}" for name, module in twin.named_modules() if type(module).__name__ == wanted
                  for inner in shapes_of(module)}
        assert inside == {name for name in shapes_of(twin) if CLASSES[wanted](name)}


def test_a_list_of_the_text_encoder_is_in_its_order(
    model: Model, layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    pairs = drawn({name: shape for name, shape in shapes.items() if ":" in name})
    positional(pairs, tmp_path / "150_text_encoder.pt")
    assert_added(model, tmp_path / "150_text_encoder.pt", layers, pairs)


def test_numbered_files_hold_both_networks(
    model: Model, layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    pairs = drawn(shapes)
    numbered(pairs, tmp_path / "both.safetensors")
    assert_added(model, tmp_path / "both.safetensors", layers, pairs)


def test_a_list_with_layers_left_out_is_read_if_it_fits_in_one_way_only(
    model: Model, layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    clear = drawn(chosen(shapes, ["conv_in", "time_embedding.linear_1", "conv_out"]))
    positional(clear, tmp_path / "clear.pt")
    assert_added(model, tmp_path / "clear.pt", layers, clear)
    positional(drawn(chosen(shapes, ["mid_block.attentions.0.proj_in"])), tmp_path / "unclear.pt")
    with pytest.raises(RequestError, match="'unclear' does not fit the model tiny"):
        read_lora(tmp_path / "unclear.pt", "unclear", layers)


# ---- peers ----


@pytest.mark.parametrize("settings", [
    {"r": 4, "lora_alpha": 6}, {"r": 4, "lora_alpha": 6, "use_rslora": True},
    {"r": 4, "lora_alpha": 4, "alpha_pattern": {"attn1.to_q": 9}, "rank_pattern": {"conv1": 2}}])
def test_a_folder_of_pefts_gives_what_pefts_own_merge_gives(
    model: Model, layers: Layers, tmp_path: Path, settings: dict[str, Any]
) -> None:
    twin = diffusers_unet(model.unet)
    for parameter in twin.parameters():
        parameter.data = parameter.data.clone()
    layer = r".*(to_q|to_k|to_v|to_out\.0|proj_in|resnets\.\d\.conv1|conv1\.2|linear_2|ff\.net\.2)"
    config = peft.LoraConfig(target_modules=layer,
                             init_lora_weights=False, **settings)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(twin, config)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    merged = adapted.merge_and_unload().state_dict()
    original = unet_to_diffusers(model.unet.state_dict(), model.unet.config)
    unet, _ = applied(model, tmp_path / "adapter", layers)
    assert unet.keys() == merged.keys()
    changed = [key for key in merged if not torch.equal(merged[key], original[key])]
    assert len(changed) > 40
    for key in merged:
        torch.testing.assert_close(unet[key], merged[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["diffusers.safetensors", "older.safetensors"])
def test_a_network_with_a_lora_computes_what_that_of_diffusers_computes(
    model: Model, layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path, name: str
) -> None:
    """With the adapter beside its layers, not merged; the loader is that of diffusers' other networks, this one has
    lost its own."""
    pairs = {layer: (up / 8, down / 8) for layer, (up, down) in drawn(chosen(shapes, SOME)).items()}
    NAMED[name](pairs, tmp_path / name)
    state = {key.removeprefix("unet."): tensor for key, tensor in load_file(tmp_path / name).items()}
    state = convert_unet_state_dict_to_peft(state)
    twin = diffusers_unet(model.unet)
    config = peft.LoraConfig(**get_peft_kwargs({key: t.shape[1] for key, t in state.items() if ".lora_B." in key},
                                               None, state))
    peft.inject_adapter_in_model(config, twin)
    outcome = peft.set_peft_model_state_dict(twin, state)
    assert not outcome.unexpected_keys

    x, context, t = normal(1, 4, 3, 8, 8), normal(1, 7, 32, seed=1), torch.tensor([500.0])
    use = Use(read_lora(tmp_path / name, name, layers), ONE, ONE)
    plain = model.unet(x, t, context)
    with mixed(model.unet, changes_of([use], "unet")) as mixture:
        mixture.at(0)
        ours = model.unet(x, t, context)
    assert (ours - plain).std() > 0.1
    assert_equal(ours, twin(x, t, context).sample)


def test_the_header_of_diffusers_tells_alpha(
    model: Model, layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    pairs = drawn(chosen(shapes, ["conv_in", "text_encoder:" + TEXT[0]]))
    tensors = {}
    for name, prefix, factor in (("conv_in", "unet.", 2), ("text_encoder:" + TEXT[0], "text_encoder.text_model.", 5)):
        up, down = pairs[name]
        tensors |= {f"{prefix}{name.removeprefix('text_encoder:')}.lora_A.weight": down,
                    f"{prefix}{name.removeprefix('text_encoder:')}.lora_B.weight": up / factor}
    facts = {"unet.lora_alpha": 6, "unet.r": 3, "text_encoder.lora_alpha": 15, "text_encoder.r": 3}
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(facts)})
    assert_added(model, tmp_path / "x.safetensors", layers, pairs)


# ---- on, off, on ----


@pytest.fixture
def two(layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> list[Use]:
    """Two LoRAs that share layers, with strengths below 0 and above 1."""
    NAMED["kohya.safetensors"](drawn(chosen(shapes, SOME[:9])), tmp_path / "a.safetensors")
    NAMED["older.safetensors"](drawn(chosen(shapes, SOME[5:]), rank=2), tmp_path / "b.safetensors")
    return [Use(read_lora(tmp_path / f"{name}.safetensors", name, layers), Strength.constant(s), Strength.constant(s))
            for name, s in (("a", -0.7), ("b", 1.6))]


def delta_of(change: Change) -> Tensor:
    """What a change adds at strength 1, by hand."""
    return (change.scale * change.up @ change.down).reshape(change.target.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_off_on_leaves_every_bit_as_it_was(model: Model, two: list[Use], dtype: torch.dtype) -> None:
    kept = {name: weight.data for name, weight in model.unet.named_parameters()}
    try:
        model.unet.to(dtype)
        places = {name: weight.data_ptr() for name, weight in model.unet.state_dict().items()}
        values = {name: weight.clone() for name, weight in model.unet.state_dict().items()}
        seen = []
        for _ in range(2):
            with mixed(model.unet, changes_of(two, "unet")) as mixture:
                mixture.at(0)
                seen.append({name: weight.clone() for name, weight in model.unet.state_dict().items()})
            for name, weight in model.unet.state_dict().items():
                assert weight.data_ptr() == places[name]
                assert torch.equal(weight, values[name])
                assert seen[-1][name].dtype == dtype
        assert all(torch.equal(seen[0][name], seen[1][name]) for name in values)
        assert sum(not torch.equal(seen[0][name], values[name]) for name in values) == len(SOME)
    finally:
        for name, weight in model.unet.named_parameters():
            weight.data = kept[name]


def test_an_error_inside_leaves_every_bit_as_it_was_too(model: Model, two: list[Use]) -> None:
    before = {name: weight.data_ptr() for name, weight in model.unet.state_dict().items()}
    with pytest.raises(KeyError), mixed(model.unet, changes_of(two, "unet")) as mixture:  # noqa: PT012
        mixture.at(0)
        raise KeyError
    assert {name: weight.data_ptr() for name, weight in model.unet.state_dict().items()} == before


def test_several_add_up_each_with_its_weight(model: Model, two: list[Use]) -> None:
    name = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"  # in both
    before = model.unet.state_dict()[name].clone()
    changes = [change for use in two for change in use.lora.changes if change.target.weight == name]
    first, second = map(delta_of, changes)
    with mixed(model.unet, changes_of(two, "unet")) as mixture:
        mixture.at(0)
        assert_equal(model.unet.state_dict()[name], before - 0.7 * first + 1.6 * second)


def test_a_strength_over_the_steps_is_mixed_from_the_originals_each_time(model: Model, two: list[Use]) -> None:
    (wish,) = listed("x:0@0,2@0.5")
    ramp = [use._replace(unet=wish.unet) for use in two[:1]]
    name = "input_blocks.0.0.weight"
    before = model.unet.state_dict()[name]
    delta = delta_of(next(c for c in two[0].lora.changes if c.target.weight == name))
    with mixed(model.unet, changes_of(ramp, "unet")) as mixture:
        mixture.at(0)
        assert model.unet.state_dict()[name].data_ptr() == before.data_ptr()  # strength 0: nothing was mixed
        for part, strength in ((0.25, 1.0), (0.5, 2.0), (0.1, 0.4)):
            mixture.at(part)
            assert_equal(model.unet.state_dict()[name], before + strength * delta)
        there = model.unet.state_dict()[name].data_ptr()
        mixture.at(0.1)
        assert model.unet.state_dict()[name].data_ptr() == there  # nothing had changed
        mixture.at(0)
        assert torch.equal(model.unet.state_dict()[name], before)


def test_copies_of_another_precision_are_replaced_by_mixtures_of_the_originals(model: Model, two: list[Use]) -> None:
    """As on a GPU, where `placed` has put copies in float16."""
    weight, changes = model.unet.input_blocks[0][0].weight, changes_of(two, "unet")
    original = weight.data
    delta = delta_of(next(c for c in two[0].lora.changes if c.target.weight == "input_blocks.0.0.weight"))
    with mixed(model.unet, changes) as mixture:
        weight.data = torch.zeros_like(original, dtype=torch.float16)  # what it holds must not matter
        mixture.at(0)
        torch.testing.assert_close(weight, (original - 0.7 * delta).half(), atol=1e-6, rtol=2**-10)
    assert weight.data_ptr() == original.data_ptr()


# ---- what is refused ----


def kohya_pair(name: str, o: int, i: int) -> dict[str, Tensor]:
    return {f"{name}.lora_down.weight": torch.zeros(4, i), f"{name}.lora_up.weight": torch.zeros(o, 4)}


def peft_pair(name: str, o: int, i: int) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": torch.zeros(4, i), f"{name}.lora_B.weight": torch.zeros(o, 4)}


def test_a_lora_of_another_model_is_refused_with_what_it_is_for(layers: Layers, tmp_path: Path) -> None:
    path, block = tmp_path / "other.safetensors", "down_blocks_0_attentions_0_transformer_blocks_0"
    for tensors, words in (
            (kohya_pair(f"lora_unet_{block}_attn2_to_k", 320, 768),
             r"It is for Stable Diffusion 1\.x, which reads text 768 wide; this model reads 32"),
            (peft_pair("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v", 640, 2048),
             "It is for Stable Diffusion XL"),
            (kohya_pair("lora_te2_text_model_encoder_layers_0_mlp_fc1", 5120, 1280), "It is for Stable Diffusion XL"),
            (peft_pair("down_blocks.0.motion_modules.0.x", 8, 8), "It is for AnimateDiff"),
            (peft_pair("diffusion_model.blocks.0.self_attn.q", 8, 8), "It is for Wan"),
            (peft_pair("unet.conv_in", 64, 9), r"1 of its 1 layers are not in this model: unet\.conv_in \(9 to 64\)"),
            (peft_pair("unet.nowhere", 64, 9),
             r"1 of its 1 layers are not in this model: unet\.nowhere \(9 to 64\)")):
        save_file(tensors, path)
        with pytest.raises(RequestError, match=r"loras: 'other' does not fit the model tiny\. " + words) as caught:
            read_lora(path, "other", layers)
        assert len(str(caught.value).splitlines()) == 1


def test_t2v_turbo_is_refused_by_name(layers: Layers, shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    unet = {name: shape for name, shape in shapes.items() if ":" not in name}
    first = dict(list(unet.items())[:2])
    pairs = drawn(first | {"cond_proj": (32, 256)} | {name: unet[name] for name in unet if name not in first})
    positional(pairs, tmp_path / "unet_lora.pt")
    with pytest.raises(RequestError, match="It is T2V-Turbo, which also needs"):
        read_lora(tmp_path / "unet_lora.pt", "unet_lora", layers)


@pytest.mark.parametrize(("tensors", "words"), [
    ({"a.lora_A.weight": torch.zeros(2, 2), "a.lora_B.weight": torch.zeros(2, 2), "a.dora_scale": torch.zeros(2)},
     "a DoRA's; these are not supported"),
    ({"a.lora_A.weight": torch.zeros(2, 2)}, "has only a part of the layer a"),
    ({"conv_in.lora_down.weight": torch.zeros(2, 2), "conv_in.lora_up.weight": torch.zeros(2, 2),
      "conv_in.alpha": torch.zeros(3)}, "has an alpha that is no number"),
    ({"layer.weight": torch.zeros(2, 2)}, "holds no LoRA"),
    ({"unet:0:up": torch.zeros(2, 2)}, "has an up without a down"),
])
def test_what_is_no_plain_lora_is_told_apart(
    layers: Layers, tmp_path: Path, tensors: dict[str, Tensor], words: str
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=words):
        read_lora(tmp_path / "x.safetensors", "x", layers)


@pytest.mark.parametrize("config", [
    "[]", "{", '{"lora_alpha": "x"}', '{"use_dora": true}', '{"alpha_pattern": {"a.*": 1}}'])
def test_a_broken_description_beside_a_file_is_named(layers: Layers, tmp_path: Path, config: str) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(config)
    save_file({"conv_in.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        read_lora(folder, "adapter", layers)
