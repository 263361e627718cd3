"""What a request brings beside its model: LoRAs and learnt words, found in the host's folders and read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2v.extra import Wish, listed, taken_out
from t2v.hosts import Host
from t2v.models import Model
from t2v.models.embeddings import read_embedding
from t2v.models.library import files, find
from t2v.models.lora import read_lora
from t2v.models.lora.merge import Use
from t2v.models.lora.parts import Layers
from t2v.prompt import schedule, sections
from t2v.request import VideoRequest
from t2v.tokenizer import CHUNK, Words, chunks, clip_tokenizer


@dataclass(frozen=True)
class Companions:
    """LoRAs and words of a request, and its prompts without what names them."""

    prompts: tuple[str, str]
    loras: tuple[Use, ...] = ()
    words: Words = field(default_factory=dict)
    vectors: Tensor | None = None  # n d, of the words: what the tokens beyond the vocabulary mean


def companions(request: VideoRequest, model: Model, host: Host) -> Companions:
    """What `request` asks for; RequestError where it is not there or does not fit, ModelError for a damaged file."""
    prompts = taken_out(request.prompt)[0], taken_out(request.negative_prompt)[0]
    return learnt(Companions(prompts, chosen(wishes_of(request), model, host)), request.steps or 1, model, host)


def wishes_of(request: VideoRequest) -> list[Wish]:
    """The LoRAs that a request asks for, wherever it does; RequestError for what cannot be read."""
    return [*taken_out(request.prompt)[1], *taken_out(request.negative_prompt)[1], *listed(request.loras)]


def chosen(wishes: Sequence[Wish], model: Model, host: Host) -> tuple[Use, ...]:
    """The LoRAs by name; each file is read once."""
    if not wishes:
        return ()
    found, layers = files(host.lora_folders), Layers(model)
    paths = {wish.name: find(wish.name, found) for wish in wishes}
    loras = {name: read_lora(path, name, layers) for name, path in paths.items()}
    return tuple(Use(loras[wish.name], wish.text, wish.unet) for wish in wishes)


def learnt(plain: Companions, steps: int, model: Model, host: Host) -> Companions:
    """`plain` with the embeddings whose names occur in its prompts. Only those are opened."""
    found = {path.rpartition("/")[2]: file for path, file in files(host.embedding_folders).items()}
    if not found:
        return plain
    marks = {tuple(clip_tokenizer().encode(name)): name for name in found}
    marks.pop((), None)
    stand_ins = {word: (-1 - number,) for number, word in enumerate(marks)}  # no token of the vocabulary is negative
    texts = {stage.text for prompt in plain.prompts for stage in schedule(prompt, steps)}
    said = {token for text in texts for chunk in chunks(sections(text), stand_ins) for token, _ in chunk}

    words: dict[tuple[int, ...], range] = {}
    vectors: list[Tensor] = []
    start = len(model.text.token_embedding.weight)
    for word, (stand_in,) in stand_ins.items():
        if stand_in in said:
            vectors.append(read_embedding(found[marks[word]], model.text.config.width, CHUNK))
            words[word] = range(start, start + len(vectors[-1]))
            start += len(vectors[-1])
    together = torch.cat([each.float() for each in vectors]) if vectors else None
    return Companions(plain.prompts, plain.loras, words, together)
