"""What happens when something in the tab is used.

A handler takes values by the names of the tab's parts, and says what becomes of which part. While there is a job, the
script presses the hidden button "look" after each answer: the page is told through gradio itself, so that there is no
other road to guard, and nothing stays open between two looks.
"""

import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import gradio as gr
from PIL import Image

from t2v.errors import FilmError, ModelError, RequestError
from t2v.infotext import parse_infotext, request_from
from t2v.jobs import Job, Runner, State
from t2v.prompt import count_tokens
from t2v.ui import show
from t2v.ui.controls import (
    MODEL_OWNED,
    REGISTRIES,
    SPECS,
    UPLOADS,
    in_control,
    request_of,
    size_named,
    sizes,
    uploaded,
)
from t2v.ui.library import Library
from t2v.ui.wiring import Changes, Values
from t2v.verdict import verdict
from t2v.video import probe, read_film

PATIENCE = 0.3  # seconds that a look waits for something new
PLAY = 1.5  # seconds that a preview is left to play before the next one starts it from its beginning
RESULTS = ["progress", "preview", "player", "films", "infotext"]  # what a job on its way changes
FILLED = [name for name in SPECS if name not in (*UPLOADS, "pictures")]  # what the settings of a film can say


@dataclass
class Session:
    """What is remembered of one open page."""

    job: str = ""  # the one it follows, and what it has seen of it:
    version: int = -1
    films: int = -1
    picture: int = 0
    since: float = 0.0  # that picture
    looks: int = 0

    def turn_to(self, job: Job) -> None:
        self.job, self.version, self.films, self.picture, self.since = job.id, -1, -1, 0, 0.0


class Handlers:
    """The handlers of one tab."""

    def __init__(self, runner: Runner, library: Library) -> None:
        self.runner, self.host, self.library = runner, runner.host, library

    # ---- a job on its way ----

    def generate(self, values: Values) -> Changes:
        """Submits what the controls say, and turns to it."""
        request = request_of(values)
        prompt, negative = self.host.styled(request.prompt, request.negative_prompt, values.get("styles") or [])
        job = self.runner.submit(replace(request, prompt=prompt, negative_prompt=negative))
        values["session"].turn_to(job)
        return {"message": "", **self.news(job, values["session"])}

    def reattach(self, values: Values) -> Changes:
        """For a page that was just opened: what there is by now, and whatever is running or will be next."""
        self.library.look_up_hashes()
        there = {"films": show.films(self.library.exhibits()), "need": self.need(values),
                 "model": gr.update(choices=self.library.models()), "lora": gr.update(choices=self.library.loras())}
        job = self.runner.running or next(iter(self.runner.waiting), None)
        if job is None or values["session"].job:
            return there
        values["session"].turn_to(job)
        return there | self.news(job, values["session"])

    def look(self, values: Values) -> Changes:
        """What is new about the job that the page follows."""
        session = values["session"]
        job = self.runner.jobs.get(session.job)
        if job is None:
            return {"progress": "", "preview": ""}
        session.version = job.wait(session.version, PATIENCE)
        return self.news(job, session)

    def news(self, job: Job, session: Session) -> Changes:
        """What the page does not show of `job` yet."""
        over = job.over  # asked first, so that the last look misses nothing
        session.looks += 1
        changes: Changes = {"progress": self.progress(job, session.looks)}
        if len(job.films) != session.films:
            session.films = len(job.films)
            changes |= self.results(job)
        if over:
            return changes | {"preview": "", "message": self.ending(job)}
        if job.picture_version != session.picture and time.monotonic() - session.since >= PLAY:
            session.picture, session.since = job.picture_version, time.monotonic()
            changes["preview"] = show.preview(job.preview(job.request.fps or 8))
        return changes

    def progress(self, job: Job, look: int) -> str:
        """The bar as it stands."""
        if job.state is State.QUEUED:
            ahead = next((place for place, other in enumerate(self.runner.waiting) if other is job), 0)
            ahead += self.runner.running is not None
            return show.progress(job.state.value, f"Waiting, {ahead} before it" if ahead else "Waiting", 0, look=look)
        if not job.over:
            state = "stopping" if job.stopped else job.state.value
            return show.progress(state, job.text, job.fraction, job.eta, look)
        films = f"{len(job.films)} film{'s' * (len(job.films) != 1)}"
        taken = show.duration(job.ended - job.started) if job.started else ""
        words = ", ".join(filter(None, [job.state.value.capitalize(), films, taken]))
        return show.progress(job.state.value, words, 1)

    def results(self, job: Job) -> Changes:
        """The films of a job before all others, the latest in the player."""
        own = [self.library.exhibit(film.path, film.infotext) for film in reversed(job.films)]
        changes = {"films": show.films(self.library.exhibits(own))}
        if own:
            changes |= {"player": show.player(own[0]), "infotext": show.infotext(own[0].infotext)}
        return changes

    def ending(self, job: Job) -> str:
        """What is to be said of a job that is over: nothing, if all went well."""
        if job.error:
            return show.message(self.library.public(job.error))
        if not job.films:
            return show.message("There is no film: it ended before there was anything to see.", "note")
        notes = dict.fromkeys(note for film in job.films for note in film.notes)
        return show.message(f"Films were made, but {'; '.join(notes)}.", "note") if notes else ""

    def interrupt(self, values: Values) -> Changes:
        """Ends this page's job, or whatever runs."""
        self.runner.interrupt(self.job_of(values["session"]))
        return {}

    def skip(self, values: Values) -> Changes:
        """Gives up the film at hand."""
        self.runner.skip(self.job_of(values["session"]))
        return {}

    def job_of(self, session: Session) -> Job | None:
        own = self.runner.jobs.get(session.job)
        return own if own is not None and not own.over else self.runner.running

    # ---- models ----

    def choose_model(self, values: Values) -> Changes:
        """Shows what the model is; settings that still are the last one's choice become this one's."""
        before, card = values["defaults"], self.library.card(values["model"])
        now = self.library.defaults(values["model"])
        if now == before:  # nothing to say, and somebody may be typing while this answer is on its way
            return {"card": card}
        untouched = [name for name in MODEL_OWNED if values[name] in (before[name], None, "")]
        return {"defaults": now, "card": card, "size": gr.update(choices=self.sizes(now)),
                **{name: in_control(name, now[name]) for name in untouched}}

    def refresh_models(self, values: Values) -> Changes:
        """The models and LoRAs that are there now."""
        self.library.look_up_hashes()
        names = self.library.models()
        kept = values["model"] if values["model"] in names else self.library.first_choice()
        second = values["upscale_model"] if values["upscale_model"] in names else ""
        return {"model": gr.update(choices=names, value=kept), "card": self.library.card(kept),
                "lora": gr.update(choices=self.library.loras()),
                "upscale_model": gr.update(choices=["", *names], value=second)}

    def add_lora(self, values: Values) -> Changes:
        """Puts the name that was chosen behind those that are asked for already."""
        if not values["lora"]:
            return {}
        return {"loras": ", ".join(filter(None, [values["loras"].strip(" ,"), f"{values['lora']}:1"])), "lora": None}

    @staticmethod
    def sizes(defaults: Changes) -> list[str]:
        return sizes(defaults["width"], defaults["height"])

    # ---- what is told while one types ----

    def count_prompt(self, values: Values) -> Changes:
        return {"prompt_tokens": self.counted(values)}

    def count_negative_prompt(self, values: Values) -> Changes:
        return {"negative_prompt_tokens": self.counted(values)}

    def counted(self, values: Values) -> str:
        """The length of the first of the values, a prompt."""
        prompt = next(iter(values.values()))
        return show.tokens(*count_tokens(prompt or ""))

    def measure(self, values: Values) -> Changes:
        """What a film of this size and length asks of the machine, how long it plays, and the name of its size."""
        return {"length": show.length(values["frames"], values["fps"]), "need": self.need(values),
                "size": size_named(values["width"], values["height"], self.sizes(values["defaults"]))}

    def need(self, values: Values) -> str:
        try:
            return show.need(self.library.public(verdict(request_of(values), self.host)))
        except (RequestError, ModelError) as error:
            return show.need(self.library.public(str(error)), fits=False)

    # ---- small buttons ----

    def pick_size(self, values: Values) -> Changes:
        if not values["size"]:
            return {}
        width, height = values["size"].split()[0].split("x")
        return {"width": int(width), "height": int(height)}

    def swap(self, values: Values) -> Changes:
        return {"width": values["height"], "height": values["width"]}

    def draw_seed(self, values: Values) -> Changes:  # noqa: ARG002
        return {"seed": SPECS["seed"].default}

    def recycle_seed(self, values: Values) -> Changes:
        """The seed of the film in the player, or of the last one."""
        return {"seed": request_from(self.library.infotext_of(values["film_shown"])).seed}

    # ---- settings from films ----

    def read_settings(self, values: Values) -> Changes:
        """Fills the controls with what an uploaded film carries."""
        if not values["film_file"]:
            return {}
        return self.filled(self.library.uploaded_infotext(Path(uploaded(values["film_file"]))), values)

    def paste(self, values: Values) -> Changes:
        """Fills the controls with the settings of a film, pasted into the box of the prompt."""
        if len(parse_infotext(values["prompt"] or "")) <= 2:
            raise RequestError("", "Paste the settings of a film into the prompt first; they end with a line like "
                                   "Steps: 30, Seed: 7, Size: 256x256, …")
        return self.filled(values["prompt"], values)

    def filled(self, infotext: str, values: Values) -> Changes:
        """What an infotext says, as far as it can be had here; the rest is told."""
        request = request_from(infotext)
        stated = {name: getattr(request, name) for name in FILLED}
        choices = REGISTRIES | {"models": self.library.models(), "upscalers": self.library.upscalers()}
        missing = [name for name, value in stated.items() if value is not None
                   and (known := choices.get(SPECS[name].metadata.get("choices", ""))) and value not in (*known, "")]
        for name in missing:
            stated[name] = values[name]
        defaults = self.library.defaults(stated["model"])
        stated |= {name: in_control(name, defaults[name] if stated[name] is None else stated[name])
                   for name in MODEL_OWNED if name not in missing}
        told = "; ".join(f"{SPECS[name].metadata['label'].lower()} {getattr(request, name)!r}" for name in missing)
        said = [f"Everything was read but what is not here: {told}."] if told else []
        files = "; ".join(value for name in ("pictures", "film", "mask") if (value := getattr(request, name)))
        said += [f"It was made from these files, which have to be uploaded again: {files}."] if files else []
        return {**stated, "defaults": defaults,  # so that the change of model finds nothing left to do
                "message": show.message(" ".join(said), "note")}

    # ---- the film in the player ----

    def go_on(self, values: Values) -> Changes:
        """Everything set for going on where the film in the player ends."""
        path = self.library.path_of(values["film_shown"])
        if path.is_dir():
            raise FilmError(f"{path.name} is a folder of pictures, and only a file can be continued from here")
        info = probe(path)
        return {"inputs": gr.update(open=True), "film": str(path), "extend": True, "film_start": 0, "film_fps": 0,
                "fps": round(info.fps, 3),
                "width": max(16, info.width // 8 * 8), "height": max(16, info.height // 8 * 8),
                "message": show.message(f"Generate goes on where {path.name} ends; Frames says for how long.", "note")}

    def forget_film(self, values: Values) -> Changes:
        """Without an input film there is nothing to go on from."""
        return {} if values["film"] else {"extend": False}

    # ---- a still picture for img2img ----

    def still(self, values: Values) -> Changes:
        """The frame that the player shows; `second` comes back as -1 where there is none."""
        try:
            info, frames = read_film(self.library.path_of(values["film_shown"]))
            index = min(int((values["second"] or 0) * info.fps + 0.01), info.frames - 1)
            frame = next(islice(frames, index, None), None)
            if frame is None:
                raise FilmError(f"{values['film_shown']}: the film ends before frame {index}")
        except FilmError as error:
            return {"second": -1, "message": show.message(self.library.public(str(error)))}
        return {"frame": Image.fromarray(frame), "second": values["second"] or 0, "message": ""}
