"""The tab: what is where, and what calls what."""

from typing import Any

import gradio as gr

from t2v.jobs import Runner
from t2v.ui import compat, show
from t2v.ui.care import Care
from t2v.ui.controls import MODEL_OWNED, PICTURES, PREFIX, SPECS, control, picture, size_named, sizes
from t2v.ui.handlers import FILLED, RESULTS, Handlers, Session
from t2v.ui.library import Library
from t2v.ui.wiring import Parts, Wiring

SHOWN_FILM = "() => [window.text2video?.film() ?? '']"
SHOWN_FRAME = "() => [window.text2video?.film() ?? '', window.text2video?.second() ?? 0]"
PASTE = "(second) => { window.text2video?.paste(second); return []; }"
MEASURED = ("window", "overlap", "depth", "extend", "upscale", "reuse")  # what else decides how much a film needs
STORED = ("batch_count", "quality")  # a web UI may keep these from one start to the next; all others would surprise


def build_tab(runner: Runner, img2img: bool = False) -> tuple[gr.Blocks, Parts]:
    """The tab and its parts by name. With `img2img`, the host connects `frame` and `paste_img2img` to its own tab."""
    library = Library(runner)
    with gr.Blocks(analytics_enabled=False, title="Text2Video") as tab:
        parts = Layout(library, img2img).parts
        connect(parts, Handlers(runner, library), library)
        connect_care(parts, Care(library), library)
    return tab, parts


class Layout:
    """Makes the parts of a tab where they are to be seen."""

    def __init__(self, library: Library, img2img: bool) -> None:
        self.library, self.img2img = library, img2img
        self.parts: Parts = {}
        self.hints = {PREFIX + name: spec.metadata["description"] for name, spec in SPECS.items()}
        self.start: dict[str, Any] = {name: spec.default for name, spec in SPECS.items()}
        self.start["model"] = library.first_choice()
        self.start["format"] = library.host.settings.format
        self.defaults = library.defaults(self.start["model"])
        self.start |= self.defaults
        with gr.Column(elem_id=PREFIX + "root"):
            with gr.Row(elem_classes=["t2v-columns"]):
                with gr.Column(elem_classes=["t2v-settings"]):
                    self.settings()
                with gr.Column(elem_classes=["t2v-results"]):
                    self.results()
            self.behind()

    def settings(self) -> None:
        """The left column."""
        with gr.Row(elem_classes=["t2v-row"]):
            self.field("model", self.library.models())
            self.tool("refresh", "🔄", "Look for models again")
        self.html("card", self.library.card(self.start["model"]))
        self.field("prompt")
        with gr.Row(elem_classes=["t2v-row", "t2v-under"]):
            self.tool("paste", "↙️", "Read the settings that were pasted into the prompt")
            self.html("prompt_tokens", show.tokens(0, 75))
        self.field("negative_prompt")
        with gr.Row(elem_classes=["t2v-row", "t2v-under"]):
            self.html("negative_prompt_tokens", show.tokens(0, 75))
        with gr.Row(elem_classes=["t2v-row"]):
            self.field("loras")
            self.add("lora", gr.Dropdown(choices=self.library.loras(), value=None, label="Add a LoRA",
                                         elem_id=PREFIX + "lora"))
        if self.library.host.styles:
            self.add("styles", gr.Dropdown(choices=list(self.library.host.styles), value=[], multiselect=True,
                                           label="Styles", elem_id=PREFIX + "styles"))
        self.row("sampler", "spacing")
        self.row("steps", "cfg_scale", "eta")
        with gr.Row(elem_classes=["t2v-row"]):
            self.field("width")
            self.tool("swap", "⇅", "Swap width and height")
            self.field("height")
        with gr.Row(elem_classes=["t2v-row"]):
            known = sizes(self.start["width"], self.start["height"])
            own = size_named(self.start["width"], self.start["height"], known)
            self.add("size", gr.Dropdown(choices=known, value=own, label="Size", elem_id=PREFIX + "size"))
            self.field("frames")
            self.field("fps")
            self.html("length", show.length(self.start["frames"], self.start["fps"]))
        self.html("need")
        with gr.Row(elem_classes=["t2v-row"]):
            self.field("seed")
            self.tool("dice", "🎲", "Draw a new seed for every film")
            self.tool("recycle", "♻️", "Take the seed of the film that is shown")
            self.field("batch_count")
        self.row("format", "quality")
        self.more()
        with gr.Accordion("Sound", open=False):
            self.field("soundtrack")
        with gr.Accordion("Read settings from a film", open=False):
            self.add("film_file", gr.File(label="Film", elem_id=PREFIX + "film_file"))
        with gr.Accordion("Check or fetch models", open=False):
            self.button("examine", "Check all models", size="sm")
            with gr.Row(elem_classes=["t2v-row"]):
                self.add("known", gr.Dropdown(choices=self.library.known(), value=None, label="Known models",
                                              elem_id=PREFIX + "known"))
                self.button("fetch", "Fetch it", size="sm")
                self.button("cancel", "Cancel", size="sm")
            self.html("care")

    def more(self) -> None:
        """What a film may start from, and what becomes of it in time and afterwards; closed until it is wanted."""
        with gr.Accordion("Start from a picture or a film", open=False) as inputs:
            self.add("inputs", inputs)
            with gr.Row(elem_classes=["t2v-row", "t2v-uploads"]):
                for name, words in {"start_picture": "First frame", "end_picture": "Last frame"}.items():
                    self.hints[PREFIX + name] = "A picture that the film shows there, and that the rest goes with."
                    self.add(name, picture(name, words))
            self.field("picture_weights")
            with gr.Row(elem_classes=["t2v-row", "t2v-uploads"]):
                self.field("film")
                self.field("mask")
            self.row("strength", "film_start", "film_fps")
            self.row("fit", "extend")
        with gr.Accordion("Long films and time", open=False):
            self.row("window", "overlap")
            self.row("noise", "transition")
            self.row("jitter", "loop")
            self.row("depth", "free_init")
        with gr.Accordion("Faster, and not quite the same", open=False):
            self.row("reuse", "cfg_from", "cfg_until")
        with gr.Accordion("Upscale and smooth", open=False):
            with gr.Row(elem_classes=["t2v-row"]):
                self.field("upscale")
                self.field("upscale_strength")
                self.field("upscale_by", self.library.upscalers())
            with gr.Row(elem_classes=["t2v-row"]):
                self.field("upscale_model", ["", *self.library.models()])
                self.field("smooth_fps")

    def results(self) -> None:
        """The right column."""
        with gr.Row(elem_id=PREFIX + "generate_box"):
            self.button("generate", "Generate", variant="primary")
            self.button("interrupt", "Interrupt")
            self.button("skip", "Skip")
            self.button("interrupting", "Interrupting…", interactive=False)
        self.html("message")
        with gr.Column(elem_id=PREFIX + "progress"):
            self.html("progress", own_id=False)
            self.html("preview", own_id=False)
        self.html("player", show.player(None))
        self.button("go_on", "Continue this film", size="sm")
        if self.img2img:
            self.button("to_img2img", "Send this frame to img2img", size="sm")
        self.html("films")
        self.html("infotext", show.infotext(""))

    def behind(self) -> None:
        """What nobody sees. style.css hides it, because the script has to find it in the page."""
        with gr.Column(elem_classes=["t2v-hidden"]):
            self.button("reattach", "Reattach")
            self.button("look", "Look at the job")
            self.button("look_care", "Look at the download")
            self.add("film_shown", gr.Textbox(label="Film in the player", elem_id=PREFIX + "film_shown"))
            self.html("hints", show.hints(self.hints))
            if self.img2img:
                self.add("second", gr.Number(value=0, label="Second in the player", elem_id=PREFIX + "second"))
                self.add("frame", gr.Image(type="pil", label="Frame", elem_id=PREFIX + "frame"))
                self.button("paste_img2img", "Paste to img2img")
        self.parts["session"] = gr.State(Session())
        self.parts["defaults"] = gr.State(self.defaults)

    # ---- one part ----

    def add(self, name: str, part: Any, stored: bool = False) -> None:
        part.do_not_save_to_config = not stored  # else a web UI keeps its value, and never again takes ours
        self.parts[name] = part

    def field(self, name: str, choices: list[str] | None = None) -> None:
        self.add(name, control(SPECS[name], self.start[name], choices or ()), stored=name in STORED)

    def row(self, *names: str) -> None:
        with gr.Row(elem_classes=["t2v-row"]):
            for name in names:
                self.field(name)

    def html(self, name: str, value: str = "", own_id: bool = True) -> None:
        self.add(name, gr.HTML(value, elem_id=PREFIX + name if own_id else PREFIX + name + "_html"))

    def button(self, name: str, words: str, **look: Any) -> None:
        self.add(name, gr.Button(words, elem_id=PREFIX + name, **look))

    def tool(self, name: str, sign: str, words: str) -> None:
        """A button as wide as its sign, and what it does in words; "tool" is what web UIs call that class."""
        self.hints[PREFIX + name] = words
        self.button(name, sign, elem_classes=["tool", "t2v-tool"])


def connect(parts: Parts, handlers: Handlers, library: Library) -> None:
    """Every event of the tab."""
    on = Wiring(parts, library.public).on
    model = ["model", "defaults", *MODEL_OWNED]
    on(parts["generate"].click, handlers.generate, [*SPECS, *PICTURES, "styles", "session"], RESULTS)
    on(parts["reattach"].click, handlers.reattach, ["session", *model], [*RESULTS, "need", "model", "lora"])
    on(parts["look"].click, handlers.look, ["session"], RESULTS)
    on(parts["interrupt"].click, handlers.interrupt, ["session"], [])
    on(parts["skip"].click, handlers.skip, ["session"], [])

    on(parts["model"].change, handlers.choose_model, model, ["defaults", "card", "size", *MODEL_OWNED])
    on(parts["refresh"].click, handlers.refresh_models, ["model", "upscale_model"],
       ["model", "upscale_model", "card", "lora"])
    on(parts["lora"].input, handlers.add_lora, ["lora", "loras"], ["loras", "lora"])
    for name, counted in {"prompt": handlers.count_prompt, "negative_prompt": handlers.count_negative_prompt}.items():
        on(parts[name].change, counted, [name], [name + "_tokens"], latest=True)
    for name in (*MEASURED, "model", "width", "height", "frames", "fps", "cfg_scale"):
        on(parts[name].change, handlers.measure, [*model, *MEASURED], ["length", "need", "size"], latest=True)

    on(parts["size"].input, handlers.pick_size, ["size"], ["width", "height"])
    on(parts["swap"].click, handlers.swap, ["width", "height"], ["width", "height"])
    on(parts["dice"].click, handlers.draw_seed, [], ["seed"])
    on(parts["recycle"].click, handlers.recycle_seed, ["film_shown"], ["seed"], js=SHOWN_FILM)
    on(parts["go_on"].click, handlers.go_on, ["film_shown"],
       ["inputs", "film", "extend", "film_start", "film_fps", "fps", "width", "height"], js=SHOWN_FILM)
    on(parts["film"].change, handlers.forget_film, ["film"], ["extend"])

    on(parts["film_file"].upload, handlers.read_settings, ["film_file", *FILLED], [*FILLED, "defaults"])
    on(parts["paste"].click, handlers.paste, FILLED, [*FILLED, "defaults"])
    if "frame" in parts:
        shown = ["film_shown", "second"]
        sent = on(parts["to_img2img"].click, handlers.still, shown, ["frame", "second"], js=SHOWN_FRAME)
        compat.listen(sent.then, None, [parts["second"]], [], js=PASTE)


def connect_care(parts: Parts, care: Care, library: Library) -> None:
    """The events of what is done for models."""
    on = Wiring(parts, library.public).on
    on(parts["examine"].click, care.examine, [], ["care"], slow=True)
    on(parts["known"].change, care.terms, ["known"], ["care"], slow=True)
    on(parts["look_care"].click, care.look, [], ["care"])
    on(parts["fetch"].click, care.fetch, ["known"], ["care"])
    on(parts["cancel"].click, care.cancel, [], [])
