"""Learnt words: files of every kind, and what becomes of them in a prompt."""

import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from t2v.companions import companions
from t2v.errors import ModelError, RequestError
from t2v.generate import encode
from t2v.hosts.standalone import Standalone
from t2v.models import Model
from t2v.models.embeddings import read_embedding
from t2v.models.modelscope import load
from t2v.plan import planned
from t2v.request import VideoRequest
from t2v.tokenizer import CHUNK, Piece, chunks, clip_tokenizer, with_words
from tests.fixtures import make_model
from tests.networks import assert_equal, normal
from tests.peers import transformers_text

WIDTH = 32
REQUEST = VideoRequest(prompt="a photo of zorblax", width=64, height=64, frames=2, steps=3, seed=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standalone:
    """A host whose folder of embeddings is `embeddings` in the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embeddings").mkdir()
    return Standalone(torch.device("cpu"), torch.float32, outputs=tmp_path / "outputs")


def web_ui(vectors: Tensor, path: Path) -> None:
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": nn.Parameter(vectors)}, "name": "x", "step": 9,
                "sd_checkpoint": None, "sd_checkpoint_name": None}, path)


def original(vectors: Tensor, path: Path) -> None:
    """As the authors' program wrote it, with a module of torch 1.10 around the vectors."""
    made = nn.Module()
    made.__class__ = nn.ParameterDict
    made.__dict__["_parameters"] = {"*": nn.Parameter(vectors)}
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": made}, path)


def diffusers(vectors: Tensor, path: Path) -> None:
    torch.save({"<zorblax>": vectors[0] if len(vectors) == 1 else vectors}, path)


def safe(vectors: Tensor, path: Path) -> None:
    save_file({"emb_params": vectors}, path)


def safe_token(vectors: Tensor, path: Path) -> None:
    save_file({"<zorblax>": vectors}, path)


FILES: dict[str, Callable[[Tensor, Path], None]] = {
    "web_ui.pt": web_ui, "original.pt": original, "diffusers.bin": diffusers, "safe.safetensors": safe,
    "token.safetensors": safe_token}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [1, 4])
def test_every_kind_of_file_gives_its_vectors(tmp_path: Path, name: str, count: int) -> None:
    vectors = normal(count, WIDTH)
    FILES[name](vectors, tmp_path / name)
    assert torch.equal(read_embedding(tmp_path / name, WIDTH, CHUNK), vectors)


def test_what_an_embedding_says_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return subprocess.check_call, ([sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"],)

    buffer = io.BytesIO()
    pickle.dump({"string_to_param": Trap()}, buffer, 2)
    (tmp_path / "trap.pt").write_bytes(buffer.getvalue())
    torch.save({"string_to_param": Trap()}, tmp_path / "zip.pt", pickle_protocol=2)
    for name in ("trap.pt", "zip.pt"):
        with pytest.raises(ModelError):
            read_embedding(tmp_path / name, WIDTH, CHUNK)
    assert not (tmp_path / "ran").exists()


# ---- in a prompt ----


def test_a_word_becomes_its_vectors_and_the_longest_wins() -> None:
    one, two, three = clip_tokenizer().encode("cat dog bird")
    words = {(one,): [-1, -2], (one, two): [-3], (two, three): [-4]}
    assert [list(run) for run in with_words([one, one, two, three, two], words)] == [[-1, -2], [-3], [three], [two]]
    assert [list(run) for run in with_words([two, three, one], {})] == [[two], [three], [one]]


def test_vectors_of_one_word_are_never_in_two_chunks() -> None:
    """As in the web UI: the word goes to the next chunk as a whole, and a full chunk ends behind its comma first."""
    (cat,), (dog,) = clip_tokenizer().encode("cat"), clip_tokenizer().encode("dog")
    words = {(cat,): range(50000, 50010)}

    def sizes(text: str) -> list[int]:
        return [len(chunk) for chunk in chunks([[Piece(text, 1.0)]], words)]

    assert sizes("dog " * 65 + "cat") == [75]
    assert sizes("dog " * 66 + "cat") == [66, 10]
    assert sizes("dog " * 70 + ", dog dog dog dog cat") == [71, 14]
    assert sizes("cat " * 8) == [70, 10]
    (chunk,) = chunks([[Piece("dog ", 1.0), Piece("cat", 1.5)]], words)
    assert chunk == [(dog, 1.0), *((token, 1.5) for token in range(50000, 50010))]


@pytest.mark.parametrize("prompt", ["a photo of zorblax", "Zorblax, (zorblax:1.3) BREAK and a cat", "[a:zorblax:0.5]"])
def test_a_prompt_with_a_word_is_what_transformers_makes_of_new_tokens(
    model: Model, host: Standalone, prompt: str
) -> None:
    vectors = normal(3, WIDTH, seed=5)
    web_ui(vectors, Path("embeddings/zorblax.pt"))
    twin = transformers_text(model.text)
    table = twin.get_input_embeddings()
    table.weight.data = torch.cat([table.weight.data, vectors])

    request = replace(REQUEST.filled(model.defaults), prompt=prompt)
    plan = planned(request, model, companions(request, model, host))
    assert plan.beside.words == {tuple(clip_tokenizer().encode("zorblax")): range(49408, 49411)}
    seen: list[tuple[Tensor, Tensor]] = []
    hook = model.text.register_forward_hook(lambda _module, args, context: seen.append((args[0], context)))
    try:
        with torch.no_grad():
            encode(plan, host)
    finally:
        hook.remove()
    new = [(tokens, context) for tokens, context in seen if (tokens >= 49408).any()]
    assert new
    for tokens, context in new:
        assert_equal(context, twin(tokens).last_hidden_state)
    assert len(model.text.token_embedding.weight) == 49408


def test_only_words_that_occur_are_opened(model: Model, host: Standalone) -> None:
    safe(normal(2, WIDTH), Path("embeddings/zorblax.safetensors"))
    Path("embeddings/people").mkdir()
    safe(normal(2, WIDTH), Path("embeddings/people/quux.safetensors"))
    Path("embeddings/broken.pt").write_text("nonsense")
    request = replace(REQUEST.filled(model.defaults), negative_prompt="quux")
    found = companions(request, model, host)
    assert sorted(map(list, found.words.values())) == [[49408, 49409], [49410, 49411]]
    assert found.vectors is not None
    assert found.vectors.shape == (4, WIDTH)
    with pytest.raises(ModelError, match=r"broken\.pt"):
        companions(replace(request, prompt="something broken"), model, host)
    assert companions(replace(request, prompt="x", negative_prompt=""), model, host).vectors is None


@pytest.mark.parametrize(("tensors", "words"), [
    ({"emb_params": torch.zeros(2, 768)}, r"text encoder of Stable Diffusion 1\.x, 768 wide; this model's is 32"),
    ({"clip_g": torch.zeros(2, 1280), "clip_l": torch.zeros(2, 768)}, "text encoder of Stable Diffusion XL, 1280 wide"),
    ({"emb_params": torch.zeros(2, 48)}, "text encoder, 48 wide"),
    ({"emb_params": torch.zeros(76, WIDTH)}, "has 76 vectors; at most 75"),
])
def test_a_word_for_another_model_is_refused_only_where_it_is_said(
    model: Model, host: Standalone, tensors: dict[str, Tensor], words: str
) -> None:
    save_file(tensors, Path("embeddings/zorblax.safetensors"))
    request = REQUEST.filled(model.defaults)
    with pytest.raises(RequestError, match=words) as caught:
        companions(request, model, host)
    assert caught.value.field == "prompt"
    assert "'zorblax'" in str(caught.value)
    assert companions(replace(request, prompt="a cat"), model, host).vectors is None


@pytest.mark.parametrize("tensors", [
    {"a": torch.zeros(2, WIDTH), "b": torch.zeros(2, WIDTH)}, {"a": torch.zeros(2, 2, WIDTH)},
    {"a": torch.full((2, WIDTH), torch.nan)}, {"a": torch.zeros(2, dtype=torch.int64)}])
def test_a_file_that_is_no_embedding_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        read_embedding(tmp_path / "x.safetensors", WIDTH, CHUNK)
