"""The tab: what it shows, what its handlers do with real jobs, and what web UIs ask of its components.

Runs with any gradio that hosts the tab; what a browser makes of it is in tests/browser.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from t2v.errors import FilmError, RequestError
from t2v.hosts.standalone import Standalone
from t2v.infotext import request_from
from t2v.jobs import Runner, State
from t2v.models import catalog
from t2v.models.configuration import Defaults
from t2v.request import VideoRequest
from t2v.settings import Settings
from t2v.ui import compat, controls, show
from t2v.ui.handlers import FILLED, Handlers, Session
from t2v.ui.library import Library
from t2v.ui.server import NEWEST, serve
from t2v.ui.tab import build_tab
from t2v.ui.wiring import Wiring
from t2v.video import probe, read_film, read_infotext, write_film
from tests.fixtures import make_model

EVIL = """<img src=x onerror=alert(1)> " ' & </pre></template><script>alert(2)</script> {0} {{1}} ${2}"""
FIELDS = [spec.name for spec in fields(VideoRequest)]
BUSY = ("queued", "running", "stopping")
QUICK = {"steps": 2, "frames": 2, "width": 16, "height": 16, "seed": 3}


class Seen(HTMLParser):
    """The tags, attributes and texts of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, name: str) -> list[str | None]:
        return [value for key, value in self.attributes if key == name]


def built(*args: Any, **options: Any) -> tuple[gr.Blocks, dict[str, Any]]:
    """`build_tab` in an event loop: outside of one, gradio makes some that it never closes."""
    async def build() -> tuple[gr.Blocks, dict[str, Any]]:
        return build_tab(*args, **options)

    return asyncio.run(build())


class Tab:
    """A tab without a browser: its values are those of its components, and change as handlers say."""

    def __init__(self, host: Standalone) -> None:
        self.runner = Runner(host)
        self.library = Library(self.runner)
        self.handlers = Handlers(self.runner, self.library)
        self.blocks, self.parts = built(self.runner, img2img=True)
        self.wiring = Wiring(self.parts, self.library.public)
        self.values = {name: getattr(part, "value", None) for name, part in self.parts.items()}
        self.values["session"] = Session()

    def use(self, handler: Any, **values: Any) -> list[dict[str, Any]]:
        """Everything that `handler` says with these values, as the page would be told."""
        return list(self.start(handler, **values))

    def start(self, handler: Any, **values: Any) -> Iterator[dict[str, Any]]:
        """What `handler` says, and then, as the script in the page does, looks while there is work."""
        self.values |= values
        yield self.told(handler)
        while handler in (self.handlers.generate, self.handlers.reattach) and self.state() in BUSY:
            yield self.told(self.handlers.look)

    def told(self, handler: Any) -> dict[str, Any]:
        changes = self.wiring.guarded(handler, self.values)
        self.values |= {name: change["value"] if isinstance(change, dict) and "value" in change else change
                        for name, change in changes.items()}
        return changes

    def message(self) -> str:
        return Seen(self.values["message"] or "").text

    def state(self) -> str | None:
        return next(iter(Seen(self.values["progress"] or "").of("data-state")), None)


class Styled(Standalone):
    """A host with styles."""

    styles = ("noir",)

    def styled(self, prompt: str, negative_prompt: str, styles: Any) -> tuple[str, str]:
        return f"{prompt}, {' '.join(styles)}", negative_prompt


class Private(Standalone):
    """A host whose folders are nobody's business."""

    private_folders = True


def host_at(folder: Path, kind: type[Standalone] = Standalone, **settings: Any) -> Standalone:
    return kind(torch.device("cpu"), models=folder / "models", outputs=folder / "films", settings=Settings(**settings))


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    tab = Tab(host_at(tmp_path))
    yield tab
    tab.runner.close()


@pytest.fixture
def film(tab: Tab) -> Path:
    """A film of the tab, made with QUICK settings."""
    tab.use(tab.handlers.generate, prompt="a red circle", **QUICK)
    (job,) = tab.runner.jobs.values()
    assert job.error == ""
    return job.films[0].path


# ---- what is shown ----


@pytest.mark.parametrize("html", [
    show.message(EVIL), show.message(EVIL, EVIL), show.progress(EVIL, EVIL, 0.5, 3), show.infotext(EVIL),
    show.card(EVIL, {}), show.card("x", {"card": EVIL}, hint=EVIL), show.card("x", {}, problem=EVIL), show.need(EVIL),
    *(shown for kind in ("video", "image", "folder") for film in [show.Exhibit(EVIL, EVIL, EVIL, kind, EVIL, EVIL)]
      for shown in (show.player(film), show.films([film]))),
])
def test_what_comes_from_outside_stays_text(html: str) -> None:
    seen = Seen(html)
    assert not {"script", "onerror"} & {*seen.tags, *(name for name, _ in seen.attributes)}
    assert "x" not in seen.of("src")
    assert any(EVIL in (text or "") for text in [seen.text, *(value for _, value in seen.attributes)])


def test_hints_reach_the_script_as_they_are() -> None:
    (hints,) = Seen(show.hints({EVIL: EVIL})).of("data-hints")
    assert json.loads(hints or "") == {EVIL: EVIL}


def test_a_strip_carries_what_the_player_needs() -> None:
    film = show.Exhibit("day/1.mp4", "1.mp4", "file=/films/day/1.mp4", "video", "a circle\nSteps: 3")
    strip, player = Seen(show.films([film])), Seen(show.player(film))
    assert strip.of("data-film") == player.of("data-film") == ["day/1.mp4"]
    assert strip.of("data-url") == player.of("href") == player.of("src") == ["file=/films/day/1.mp4"]
    assert strip.of("data-file") == player.of("download") == ["1.mp4"]
    assert strip.of("title") == player.of("aria-label") == ["a circle"]
    assert strip.of("data-infotext") == ["a circle\nSteps: 3"]
    assert strip.tags["button"] == 1


def test_a_folder_of_pictures_is_named_beside_its_first_picture() -> None:
    html = show.player(show.Exhibit("day/1", "1", "file=/films/day/1/000000.png", "folder", "x", "/films/day/1"))
    assert Seen(html).of("download") == ["000000.png"]
    assert "the folder /films/day/1" in Seen(html).text


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (65, "1:05 min"), (7260, "2:01 h")])
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert show.duration(seconds) == words


@pytest.mark.parametrize(("fraction", "percent"), [(-1.0, "0"), (0.123, "12"), (7.0, "100")])
def test_progress_stays_on_its_bar(fraction: float, percent: str) -> None:
    assert Seen(show.progress("running", "x", fraction)).of("aria-valuenow") == [percent]


def test_time_left_is_shown_while_there_is_work() -> None:
    assert "8 s left" in show.progress("running", "x", 0.5, 8)
    assert "left" not in show.progress("done", "x", 1, 8)


@pytest.mark.parametrize("name", ["a b", "50%", "what?", "#1", "ünï", "a&b=c", "'\"<>", "a+b", "..."])
def test_the_url_of_a_file_survives_its_name_and_follows_the_page(name: str) -> None:
    path = Path("/films") / name / f"{name}.mp4"
    url = compat.file_url(path)
    assert unquote(url.partition("file=")[2]) == path.as_posix()
    assert not set(" ?#'\"<>+&") & set(url.partition("file=")[2])
    assert not url.startswith(("/", "http"))


# ---- components ----


def components(tab: Tab) -> list[Any]:
    return list(tab.blocks.blocks.values())


def test_every_field_has_one_part_and_one_label(tab: Tab) -> None:
    labels = Counter(getattr(part, "label", None) for part in components(tab))
    for spec in fields(VideoRequest):
        if spec.name == "pictures":  # has two parts of its own
            assert {tab.parts[name].elem_id for name in controls.PICTURES} == {
                "text2video_start_picture", "text2video_end_picture"}
            continue
        assert tab.parts[spec.name].elem_id == f"text2video_{spec.name}"
        assert labels[spec.metadata["label"]] == 1


def test_ids_are_there_once(tab: Tab) -> None:
    ids = Counter(part.elem_id for part in components(tab) if part.elem_id)
    assert {id for id, count in ids.items() if count > 1} == set()
    assert {f"text2video_{name}" for name in [
        *(set(FIELDS) - {"pictures"}), *controls.PICTURES, "go_on", "refresh", "card", "prompt_tokens",
        "negative_prompt_tokens", "size", "swap", "length", "dice",
        "recycle", "generate", "interrupt", "skip", "interrupting", "progress", "player", "films", "infotext",
        "message", "need", "film_file", "paste", "to_img2img", "frame", "paste_img2img", "reattach",
        "root"]} <= set(ids)


def test_no_two_parts_share_a_key_of_a_web_uis_config(tab: Tab) -> None:
    keys = Counter(part.label if getattr(part, "label", None) is not None else part.value for part in components(tab)
                   if getattr(part, "label", None) is not None or isinstance(part, gr.Button))
    assert {key for key, count in keys.items() if count > 1} == set()


def test_what_a_web_ui_may_store_is_json_and_is_not_the_models(tab: Tab) -> None:
    kept = {name: part for name, part in tab.parts.items()
            if not getattr(part, "do_not_save_to_config", False) and not isinstance(part, gr.State)}
    assert set(kept) == {"batch_count", "quality"}
    assert json.loads(json.dumps({name: part.value for name, part in kept.items()}))


def test_styles_and_img2img_are_there_only_where_the_host_has_them(tmp_path: Path) -> None:
    _, plain = built(Runner(host_at(tmp_path)))
    assert not {"styles", "frame", "to_img2img", "paste_img2img"} & set(plain)
    _, rich = built(Runner(host_at(tmp_path, Styled)), img2img=True)
    assert {"styles", "frame", "to_img2img", "paste_img2img"} <= set(rich)


def test_a_tab_as_it_opens_asks_for_the_models_own_film(tab: Tab) -> None:
    assert controls.request_of(tab.values) == VideoRequest(**tab.library.defaults("demo"))


def test_what_is_left_empty_is_left_open() -> None:
    assert controls.request_of({"steps": None, "eta": "", "seed": None, "prompt": None}) == VideoRequest()
    assert controls.request_of({"eta": "0.5"}).eta == 0.5


@pytest.mark.parametrize("upload", ["/tmp/a.wav", SimpleNamespace(name="/tmp/a.wav")])
def test_a_soundtrack_is_the_path_of_its_upload(upload: Any) -> None:
    assert controls.request_of({"soundtrack": upload}).soundtrack == "/tmp/a.wav"


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
def test_every_setting_has_a_component_that_takes_its_default(spec: Any) -> None:
    component, arguments = controls.option_component(spec)
    assert component(value=spec.default, label=spec.name, **arguments).value == spec.default


@pytest.mark.parametrize(("width", "height", "unit"), [(256, 256, 32), (64, 64, 8), (576, 320, 32), (1024, 576, 32)])
def test_sizes_are_about_as_large_as_the_models_own(width: int, height: int, unit: int) -> None:
    offered = controls.sizes(width, height)
    assert controls.size_named(width, height, offered) == offered[0] or (width, height) == (256, 256)
    for size in offered:
        w, h = map(int, size.split()[0].split("x"))
        assert w % unit == h % unit == 0
        assert 0.75 < w * h / (width * height) < 1.3


# ---- films ----


def test_generate_shows_progress_a_preview_and_the_film(tab: Tab) -> None:
    told = tab.use(tab.handlers.generate, prompt=EVIL, **QUICK | {"steps": 12})
    states = [state for changes in told for state in Seen(changes.get("progress", "")).of("data-state")]
    assert states[-1] == "done"
    assert {"queued", "running"} & set(states[:-1])
    assert any("data:image/webp" in changes.get("preview", "") for changes in told)
    assert tab.values["preview"] == ""
    assert tab.message() == ""
    (job,) = tab.runner.jobs.values()
    path = job.films[0].path.resolve()
    (url,) = Seen(tab.values["player"]).of("src")
    assert url == compat.file_url(path)
    assert EVIL in Seen(tab.values["infotext"]).text
    assert Seen(tab.values["films"]).of("data-film") == [path.relative_to(tab.library.outputs).as_posix()]
    assert job.films[0].request.seed == 3


@pytest.mark.parametrize(("wrong", "words"), [
    ({"model": "nowhere"}, "nowhere"), ({"width": 100}, "multiple of 8"), ({"frames": 0}, "between 1 and"),
    ({"eta": "lots"}, "eta"), ({"steps": 2.5}, "whole number"),
])
def test_what_cannot_be_is_said_and_nothing_is_made(tab: Tab, wrong: dict[str, Any], words: str) -> None:
    tab.use(tab.handlers.generate, **QUICK | wrong)
    assert words in tab.message()
    assert not tab.runner.jobs


def test_a_job_that_fails_says_why(tab: Tab) -> None:
    tab.use(tab.handlers.generate, **QUICK, format="gif", fps=200)
    assert tab.state() == "failed"
    assert "frames a second" in tab.message()


def test_what_we_did_not_foresee_is_told_and_logged(tab: Tab, caplog: pytest.LogCaptureFixture) -> None:
    def broken(values: Any) -> dict[str, Any]:
        raise KeyError(values["prompt"])

    with caplog.at_level(logging.ERROR):
        tab.use(broken, prompt=EVIL)
    assert "KeyError" in tab.message()
    assert caplog.records[0].exc_info
    assert not {"img", "script"} & set(Seen(tab.values["message"]).tags)


def until_denoising(tab: Tab, told: Iterator[dict[str, Any]]) -> None:
    """Follows a job until there is something to see of it."""
    while not ((job := tab.runner.running) and job.stage == "denoise" and job.step):
        next(told)


def test_interrupt_leaves_a_film_of_what_there_is(tab: Tab) -> None:
    told = tab.start(tab.handlers.generate, **QUICK | {"steps": 1000, "spacing": "leading"})
    until_denoising(tab, told)
    tab.use(tab.handlers.interrupt)
    list(told)
    assert tab.state() == "interrupted"
    assert "1 film" in Seen(tab.values["progress"]).text
    assert Seen(tab.values["player"]).of("src")


def test_skip_gives_up_one_film_of_a_batch(tab: Tab) -> None:
    told = tab.start(tab.handlers.generate, **QUICK | {"steps": 300, "spacing": "leading", "batch_count": 2})
    until_denoising(tab, told)
    tab.use(tab.handlers.skip)
    list(told)
    (job,) = tab.runner.jobs.values()
    assert [film.request.seed for film in job.films] == [4]


def test_a_job_says_how_many_are_before_it_and_can_be_taken_back(tab: Tab) -> None:
    running = tab.runner.submit(VideoRequest(steps=1000, spacing="leading"))
    while running.state is State.QUEUED:
        running.wait(running.version, 1)
    told = tab.start(tab.handlers.generate, **QUICK)
    while tab.state() != "queued":
        next(told)
    assert "Waiting, 1 before it" in Seen(tab.values["progress"]).text
    tab.use(tab.handlers.interrupt)
    list(told)
    assert tab.state() == "interrupted"
    assert "no film" in tab.message()
    assert running.state is State.RUNNING
    tab.use(tab.handlers.interrupt)  # its own is over, so now it is the one that runs
    while not running.over:
        running.wait(running.version, 1)
    assert running.state is State.INTERRUPTED


@pytest.mark.usefixtures("film")
def test_a_page_opened_anew_finds_films_and_the_running_job(tab: Tab) -> None:
    job = tab.runner.submit(VideoRequest(steps=500, spacing="leading"))
    told = tab.start(tab.handlers.reattach, session=Session())
    assert Seen(next(told)["films"]).tags["button"] == 1
    until_denoising(tab, told)
    tab.runner.interrupt(job)
    list(told)
    assert tab.state() == "interrupted"
    assert Seen(tab.values["films"]).tags["button"] == 2


def test_a_page_opened_while_nothing_runs_shows_films_and_no_progress(tab: Tab, film: Path) -> None:
    (only,) = tab.use(tab.handlers.reattach, session=Session())
    assert set(only) == {"films", "need", "model", "lora"}
    assert Seen(only["films"]).of("data-infotext") == [read_infotext(film)]


def test_a_page_follows_the_job_that_it_asked_for_last(tab: Tab) -> None:
    first = tab.runner.submit(VideoRequest(steps=1000, spacing="leading"))
    told = tab.start(tab.handlers.reattach)
    next(told)
    next(told)
    tab.values["session"].job = "another"
    (last,) = told
    assert last["progress"] == ""
    tab.runner.interrupt(first)


def test_styles_are_applied(tmp_path: Path) -> None:
    tab = Tab(host_at(tmp_path, Styled))
    tab.use(tab.handlers.generate, prompt="a circle", styles=["noir"], **QUICK)
    (job,) = tab.runner.jobs.values()
    assert job.request.prompt == "a circle, noir"


# ---- settings from films ----


def test_the_settings_of_a_film_fill_the_controls_that_make_it_again(tab: Tab, film: Path) -> None:
    made = request_from(read_infotext(film))
    tab.values |= {"prompt": "else", "steps": 7, "seed": -1, "eta": "0.3", "frames": 99, "width": 128}
    tab.use(tab.handlers.read_settings, film_file=str(film))
    assert tab.message() == ""
    assert controls.request_of(tab.values) == made
    tab.use(tab.handlers.generate)
    again = list(tab.runner.jobs.values())[-1].films[0].path
    for one, other in zip(read_film(film)[1], read_film(again)[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_text_can_be_pasted(tab: Tab, film: Path) -> None:
    tab.use(tab.handlers.paste, prompt=read_infotext(film))
    assert tab.values["prompt"] == "a red circle"
    assert tab.values["steps"] == 2
    tab.use(tab.handlers.paste)
    assert "Paste the settings of a film" in tab.message()


def test_what_is_not_here_is_told_and_stays(tab: Tab) -> None:
    tab.use(tab.handlers.paste, prompt="x\nSteps: 5, Sampler: Wizard, Seed: 9, Model: gone, Size: 32x16")
    assert "sampler 'Wizard'" in tab.message()
    assert "model 'gone'" in tab.message()
    assert (tab.values["model"], tab.values["sampler"], tab.values["steps"], tab.values["width"]) == (
        "demo", tab.library.defaults("demo")["sampler"], 5, 32)
    assert set(FILLED) <= set(tab.values)


def test_a_film_without_settings_is_told_by_its_name_alone(tab: Tab, tmp_path: Path) -> None:
    path = write_film([np.zeros((16, 16, 3), np.uint8)], tmp_path / "bare.mp4", 8)
    tab.use(tab.handlers.read_settings, film_file=SimpleNamespace(name=str(path)))
    assert "bare.mp4 carries no settings" in tab.message()
    assert str(tmp_path) not in tab.message()


def test_reading_a_film_keeps_its_settings_though_the_model_changes(tab: Tab, tmp_path: Path) -> None:
    make_model(tmp_path / "models" / "ModelScope" / "tiny")
    steps = tab.library.defaults("demo")["steps"]
    tab.use(tab.handlers.paste, prompt=f"x\nSteps: {steps}, Seed: 9, Model: tiny, Size: 32x16")
    tab.use(tab.handlers.choose_model)  # as gradio does when the choice of model has changed
    assert tab.values["model"] == "tiny"
    assert tab.values["steps"] == steps
    assert tab.values["frames"] == tab.library.defaults("tiny")["frames"]


# ---- models ----


def test_another_model_changes_what_was_still_the_last_ones_choice(tab: Tab, tmp_path: Path) -> None:
    make_model(tmp_path / "models" / "ModelScope" / "tiny")
    tab.use(tab.handlers.choose_model, model="tiny", steps=31)
    tiny = tab.library.defaults("tiny")
    assert tab.values["steps"] == 31
    assert {name: tab.values[name] for name in ("frames", "sampler", "cfg_scale")} == {
        name: tiny[name] for name in ("frames", "sampler", "cfg_scale")}
    assert tab.values["defaults"] == tiny


def test_a_real_model_is_the_first_choice_and_without_one_it_is_said_where_it_goes(tmp_path: Path) -> None:
    alone = Tab(host_at(tmp_path))
    assert alone.values["model"] == "demo"
    assert str(tmp_path / "models" / "ModelScope" / "t2v") in Seen(alone.values["card"]).text
    make_model(tmp_path / "models" / "ModelScope" / "tiny")
    alone.use(alone.handlers.refresh_models)
    assert alone.values["model"] == "demo"  # nobody's choice is taken from them
    assert Tab(host_at(tmp_path)).values["model"] == "tiny"


def test_a_broken_model_is_told_in_its_card_and_leaves_the_tab_whole(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "ModelScope" / "t2v"
    folder.mkdir(parents=True)
    (folder / "configuration.json").write_text("<html>")
    tab = Tab(host_at(tmp_path))
    assert tab.values["model"] == "t2v"
    assert "is a web page" in Seen(tab.values["card"]).text
    assert tab.values["steps"] == Defaults.steps
    tab.use(tab.handlers.choose_model, model="gone")
    assert "no model 'gone'" in Seen(tab.values["card"]).text


def test_the_card_of_a_model_tells_kind_precision_size_and_what_it_borrows(tab: Tab, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "models" / "ModelScope" / "tiny")
    (folder / "open_clip_pytorch_model.bin").rename(tmp_path / "text.bin")
    tab.use(tab.handlers.refresh_models)
    tab.library.hashing.join()
    tab.use(tab.handlers.choose_model, model="tiny")
    said = Seen(tab.values["card"]).text
    assert "It has no text tower" in said
    assert "small model, fp32" in said
    tab.use(tab.handlers.choose_model, model="demo")
    assert f"fp16, 13 MB, {catalog.hash_of(catalog.DEMO)}" in Seen(tab.values["card"]).text


def test_a_lora_that_is_chosen_joins_those_that_are_asked_for(tab: Tab, tmp_path: Path) -> None:
    tab.use(tab.handlers.refresh_models)
    assert tab.parts["lora"].choices == []
    assert tab.use(tab.handlers.add_lora, lora="style/noir", loras="")[-1] == {"loras": "style/noir:1", "lora": None}
    tab.use(tab.handlers.add_lora, lora="pan", loras="style/noir:0.5, ")
    assert tab.values["loras"] == "style/noir:0.5, pan:1"
    assert controls.request_of(tab.values).loras == "style/noir:0.5, pan:1"
    (tmp_path / "models" / "Lora" / "motion").mkdir(parents=True)
    (tmp_path / "models" / "Lora" / "motion" / "pan.safetensors").touch()
    assert tab.use(tab.handlers.refresh_models)[-1]["lora"]["choices"] == ["motion/pan"]


def test_private_folders_stay_private(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "ModelScope" / "t2v"
    folder.mkdir(parents=True)
    tab = Tab(host_at(tmp_path, Private))
    (folder / "configuration.json").write_text("<html>")
    tab.use(tab.handlers.refresh_models, model="t2v")
    tab.use(tab.handlers.generate, **QUICK)
    tab.use(tab.handlers.generate, **QUICK, model="demo", format="png")
    assert tab.state() == "done"
    for name in ("card", "message"):
        assert str(tmp_path) not in tab.values[name]
    assert str(tmp_path) not in Seen(tab.values["player"]).text


# ---- small things ----


def test_the_counter_counts_as_web_uis_do(tab: Tab) -> None:
    tab.handlers.count_prompt({"prompt": "a red circle"})
    assert ">3/75<" in tab.handlers.count_prompt({"prompt": "a red circle"})["prompt_tokens"]
    assert "/150<" in tab.handlers.count_negative_prompt({"negative_prompt": "a " * 80})["negative_prompt_tokens"]
    assert ">0/75<" in tab.handlers.count_prompt({"prompt": None})["prompt_tokens"]


def test_size_length_and_need_follow_the_numbers(tab: Tab) -> None:
    (size, *_) = [size for size in controls.sizes(64, 64) if "(16:9)" in size]
    tab.use(tab.handlers.pick_size, size=size)
    tab.use(tab.handlers.swap)
    assert tab.values["height"] > tab.values["width"]
    tab.use(tab.handlers.measure, frames=20, fps=8)
    assert "2.5 s" in tab.values["length"]
    assert "(9:16)" in tab.values["size"]
    assert "of memory" in tab.values["need"]
    tab.use(tab.handlers.measure, width=30, fps=None)
    assert (tab.values["length"], tab.values["size"]) == ("", None)
    assert "multiple of 8" in tab.values["need"]
    assert tab.use(tab.handlers.pick_size, size=None) == [{}]


@pytest.mark.usefixtures("film")
def test_dice_and_recycling(tab: Tab) -> None:
    tab.use(tab.handlers.draw_seed)
    assert tab.values["seed"] == -1
    tab.use(tab.handlers.recycle_seed, film_shown=Seen(tab.values["player"]).of("data-film")[0])
    assert tab.values["seed"] == 3


def test_without_a_film_there_is_no_seed_to_recycle(tab: Tab) -> None:
    tab.use(tab.handlers.recycle_seed, film_shown="")
    assert "no film in the player yet" in tab.message()


@pytest.mark.parametrize(("second", "frame"), [(0, 0), (0.5, 4), (0.62, 4), (0.626, 5), (99, 7)])
def test_the_frame_for_img2img_is_the_one_that_is_shown(tab: Tab, second: float, frame: int) -> None:
    frames = [np.full((16, 16, 3), 30 * grey, np.uint8) for grey in range(8)]
    path = write_film(frames, tab.library.outputs / "2026-11-22" / "00001-1.webm", 8)
    tab.use(tab.handlers.still, film_shown=tab.library.key(path), second=second)
    assert abs(float(np.asarray(tab.values["frame"]).mean()) - 30 * frame) < 6
    assert tab.values["second"] == second


def test_without_a_film_no_frame_is_sent(tab: Tab) -> None:
    tab.use(tab.handlers.still, film_shown="", second=0)
    assert tab.values["second"] == -1
    assert "no film in the player yet" in tab.message()


@pytest.mark.parametrize("key", ["../secret.mp4", "/etc/passwd", "a/../../secret.mp4", "nothing.mp4", "", "\0"])
def test_a_browser_gets_no_file_but_our_films(tab: Tab, tmp_path: Path, key: str) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"x")
    with pytest.raises(FilmError):
        tab.library.path_of(key)


def test_nothing_waits_in_gradios_queue(tab: Tab) -> None:
    """There, a page that is closed in the middle leaves a connection that gradio 3 never ends."""
    events = tab.blocks.get_config_file()["dependencies"]
    assert len(events) > 15
    assert not any(event["queue"] for event in events)


def test_each_look_has_another_number(tab: Tab) -> None:
    told = tab.use(tab.handlers.generate, **QUICK)
    looks = [look for changes in told for look in Seen(changes.get("progress", "")).of("data-look")]
    assert len(set(looks[:-1])) == len(looks) - 1


@pytest.mark.skipif(compat.MAJOR >= NEWEST, reason="is about older versions of gradio")
def test_an_old_gradio_is_told(tab: Tab) -> None:
    with pytest.raises(RequestError, match="gradio 6"), serve(tab.runner):
        pass


# ---- starting from pictures and films ----


def test_a_picture_and_a_film_of_the_page_start_a_film(tab: Tab, film: Path, tmp_path: Path) -> None:
    Image.new("RGB", (48, 16), "blue").save(tmp_path / "blue.png")
    tab.use(tab.handlers.generate, start_picture=str(tmp_path / "blue.png"), end_picture=None, **QUICK)
    assert (tab.state(), tab.message()) == ("done", "")
    assert "blue.png" in tab.values["infotext"]
    tab.use(tab.handlers.generate, start_picture=None, film=str(film), strength=0.5, **QUICK)
    assert (tab.state(), tab.message()) == ("done", "")
    assert film.name in tab.values["infotext"]


def test_pictures_of_the_page_stand_first_and_last() -> None:
    assert controls.request_of({"start_picture": "a.png", "end_picture": "b.png"}).pictures == "0: a.png | -1: b.png"
    assert controls.request_of({"start_picture": None, "end_picture": "b.png"}).pictures == "-1: b.png"
    assert controls.request_of({"start_picture": None}).pictures == ""


def test_a_film_in_the_player_is_continued(tab: Tab, film: Path) -> None:
    tab.use(tab.handlers.go_on, film_shown=tab.library.key(film))
    assert (tab.values["film"], tab.values["extend"]) == (str(film), True)
    assert (tab.values["width"], tab.values["height"]) == (QUICK["width"], QUICK["height"])
    tab.use(tab.handlers.generate, **QUICK | {"frames": 3})
    assert (tab.state(), tab.message()) == ("done", "")
    assert probe(tab.library.path_of(Seen(tab.values["player"]).of("data-film")[0] or "")).frames == 2 + 3


def test_what_cannot_be_started_from_is_said(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_text("no film")
    tab.use(tab.handlers.generate, film=str(tmp_path / "no.mp4"), **QUICK)
    assert tab.message().startswith("film: no.mp4 is damaged, or no film")
    tab.use(tab.handlers.go_on, film_shown="")
    assert "no film in the player" in tab.message()


def test_an_upload_that_is_no_picture_is_said(tab: Tab) -> None:
    upload = tab.parts["start_picture"].preprocess("data:image/png;base64,bm8gcGljdHVyZQ==")
    tab.use(tab.handlers.generate, start_picture=upload, **QUICK)
    assert tab.message() == "pictures: " + controls.NO_PICTURE
    assert tab.parts["start_picture"].preprocess(None) is None


def test_a_film_that_is_taken_out_is_not_continued(tab: Tab, film: Path) -> None:
    tab.use(tab.handlers.go_on, film_shown=tab.library.key(film))
    tab.use(tab.handlers.forget_film)
    assert tab.values["extend"] is True
    tab.use(tab.handlers.forget_film, film=None)
    assert tab.values["extend"] is False
    tab.use(tab.handlers.generate, **QUICK)
    assert (tab.state(), tab.message()) == ("done", "")
