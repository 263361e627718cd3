"""The Text2Video tab as a person sees it: what can be typed, pressed and read, on every gradio that hosts it.

Parts are found by their ids, text2video_NAME: what is inside of them differs from one gradio to the next, so it is only
looked at where there is no other way, and only here. Nothing sleeps; whatever takes time is waited for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urljoin

from playwright.sync_api import ConsoleMessage, Error, Locator, Page, expect

from tests.browser.places import Place

PATIENCE = 60.0  # seconds that an answer may take, on a small machine with other things to do
FILM = 300.0  # seconds that a film may take
PAGE = 300.0  # seconds that the page of a web UI may take; that of SD.Next has ten thousand parts
ROOT = "#text2video_root"
LIVE = ("queued", "running", "stopping")
OVER = ("done", "interrupted", "failed")
OUTSIDE = re.compile(r"https?://(?!127\.0\.0\.1|localhost)")
QUICK: dict[str, Any] = {"steps": 3, "frames": 4, "fps": 8, "width": 64, "height": 64, "batch_count": 1}  # soon made

# What a person would have seen of a job, however fast it went: every change of state, percentage and preview.
RECORDER = """() => {
    const seen = window.text2videoSeen = [];
    let last = "";
    const look = () => {
        const box = document.getElementById("text2video_progress");
        const sight = {
            state: box?.querySelector("[data-state]")?.dataset.state ?? "",
            percent: Number(box?.querySelector("[role=progressbar]")?.ariaValueNow ?? 0),
            picture: document.querySelector(".t2v-preview")?.src ?? "",
        };
        if (JSON.stringify(sight) !== last) seen.push(sight);
        last = JSON.stringify(sight);
    };
    new MutationObserver(look).observe(
        document.body, {subtree: true, childList: true, attributes: true, characterData: true});
    look();
}"""

VALUE = """(part) => {
    const input = part.matches("input, textarea") ? part : part.querySelector("textarea, input:not([type=file])");
    if (input?.type === "radio") return part.querySelector("input:checked")?.value ?? "";
    return input ? input.value : part.innerText;
}"""

FRAME = """async (second) => {
    const video = document.querySelector("#text2video_player video"), canvas = document.createElement("canvas");
    video.pause();
    video.currentTime = second;
    await new Promise((done) => video.addEventListener("seeked", done, {once: true}));
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    return canvas.toDataURL();
}"""


@dataclass(frozen=True)
class Sight:
    """What the progress said at one moment; `picture` is the preview's address."""

    state: str
    percent: float
    picture: str = field(repr=False)  # it holds the whole of it


class OpenTab(Protocol):
    """Opens the tab in a window of its own, that wide."""

    def __call__(self, query: str = "", width: int = 1400) -> "Tab": ...


@dataclass
class Tab:
    """One browser page with the tab open in it. `complaints` are the errors its scripts made."""

    page: Page
    place: Place
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.on("console", self.overhear)
        self.page.on("pageerror", lambda error: self.complain(f"{error.name}: {error.message}\n{error.stack}"))

    # ---- the page ----

    def open(self, query: str = "") -> "Tab":
        """Loads the page, brings the tab to the front, and waits until it has asked what there is."""
        heard = len(self.complaints)
        self.page.goto(self.place.url + query, wait_until="commit", timeout=PAGE * 1000)
        del self.complaints[heard:]  # gradio regrets aloud what it was still waiting for on the page that is left
        self.part("root").wait_for(state="attached", timeout=PAGE * 1000)
        self.place.enter(self.page)
        self.part("films").locator("[data-ready]").wait_for(state="attached")
        self.page.evaluate(RECORDER)
        return self

    def overhear(self, message: ConsoleMessage) -> None:
        """Takes errors from the console, but for those about addresses outside, which the browser cannot reach."""
        complaint = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not OUTSIDE.search(complaint):
            self.complain(complaint)

    def complain(self, complaint: str) -> None:
        if not self.place.expects(complaint):
            self.complaints.append(complaint)

    def shoot(self, folder: Path | None, name: str) -> None:
        """A picture of the whole page, if pictures are wanted."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")

    # ---- parts ----

    def part(self, name: str) -> Locator:
        return self.page.locator(f"#text2video_{name}").first  # gradio 3 gives the id of HTML to what is in it, too

    def set(self, **values: object) -> None:
        """Types into fields, as into text2video_steps for `steps`, and leaves each, which is when sliders listen."""
        for name, value in values.items():
            box = self.part(name).locator("textarea, input[type=number], input[type=text], input:not([type])").first
            box.fill(str(value))
            box.press("Tab")

    def pick(self, name: str, option: str) -> None:
        """Clicks on `option` of a dropdown."""
        self.part(name).locator("input").first.click()
        choice = re.compile(rf"^\W*{re.escape(option)}\s*$")
        self.page.locator("ul li:visible").filter(has_text=choice).first.click()

    def choose(self, name: str, option: str) -> None:
        """Picks `option` from a dropdown, and waits until it stands there."""
        self.pick(name, option)
        self.until(lambda: self.get(name) == option, f"{name} to be {option}")

    def get(self, name: str) -> str:
        """What a field holds, or a part says."""
        return str(self.part(name).evaluate(VALUE)).strip()

    def press(self, name: str) -> None:
        self.part(name).click()

    def unfold(self, name: str, title: str) -> None:
        """Opens the accordion called `title`, in which a part is."""
        if not self.part(name).is_visible():
            self.page.locator(ROOT).get_by_text(title, exact=True).click()
        expect(self.part(name)).to_be_visible(timeout=PATIENCE * 1000)

    def read_from(self, film: Path) -> None:
        """Uploads `film` where its settings are read, taking out first what lies there."""
        self.upload("film_file", film, "Read settings from a film")

    def upload(self, name: str, file: Path, title: str) -> None:
        """Puts `file` where files are uploaded, in the accordion called `title`; what lies there is taken out first."""
        self.unfold(name, title)
        if self.remover(name).count():
            self.take_out(name)
        self.part(name).locator("input[type=file]").first.set_input_files(file)
        self.until(lambda: self.remover(name).count() > 0, f"{file.name} in {name}")

    def take_out(self, name: str) -> None:
        """Takes out what was uploaded."""
        self.remover(name).first.click()
        self.until(lambda: self.remover(name).count() == 0, f"nothing in {name}")

    def remover(self, name: str) -> Locator:
        """The button that takes out what was uploaded; there is one only where something was."""
        return self.part(name).get_by_role("button", name=re.compile("clear|remove", re.IGNORECASE))

    def until(self, true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Waits until something is true of the page; what the page says meanwhile is heard."""
        waits = max(1, round(patience / 0.1))
        for _ in range(waits):
            try:
                if true():
                    return
            except Error as error:  # the part is just being drawn anew
                if "Execution context was destroyed" not in str(error):
                    raise
            self.page.wait_for_timeout(100)
        raise AssertionError(f"waited {patience:g} s in vain for {what}; {self.look()}")

    def look(self) -> str:
        """What a failed test should tell."""
        return f"progress {self.sights()[-3:]}, message {self.message!r}, complaints {self.complaints}"

    # ---- a job ----

    def sights(self) -> list[Sight]:
        """What the progress has shown since the page was opened, or the last `start`."""
        seen: list[dict[str, Any]] = self.page.evaluate("() => window.text2videoSeen")
        return [Sight(**one) for one in seen]

    @property
    def state(self) -> str:
        """Of the job that the tab shows; empty where it shows none."""
        shown = self.part("progress").locator("[data-state]")
        return (shown.first.get_attribute("data-state") or "") if shown.count() else ""

    @property
    def message(self) -> str:
        """What the tab has to say for itself; empty if all is well."""
        alert = self.part("message").get_by_role("alert")
        return alert.first.inner_text().strip() if alert.count() else ""

    def start(self, press: Callable[[], None] | None = None, **values: object) -> None:
        """Sets `values`, asks for a film by Generate or `press`, and waits until that is under way."""
        self.set(**values)
        self.page.evaluate("() => { window.text2videoSeen.length = 0; }")
        (press or (lambda: self.press("generate")))()
        self.until(lambda: any(sight.state in LIVE for sight in self.sights()), "a job to start")

    def finish(self) -> str:
        """Waits for the end of the job; the state it ended in."""
        self.until(lambda: self.state in OVER, "the job to end", FILM)
        return self.state

    def generate(self, **values: object) -> str:
        """A job from start to end; the state it ended in."""
        self.start(None, **values)
        return self.finish()

    def underway(self, percent: float = 0) -> None:
        """Waits until a job has come further than `percent`, by its own account."""
        self.until(lambda: self.state == "running" and any(sight.percent > percent for sight in self.sights()),
                   f"more than {percent:g} %", FILM)

    # ---- films ----

    @property
    def films(self) -> list[str]:
        """The names of the films in the strip, from left to right."""
        return list(self.strip.evaluate_all("(all) => all.map((film) => film.dataset.film)"))

    @property
    def strip(self) -> Locator:
        """The buttons that bring films to the player."""
        return self.part("films").locator("button[data-film]")

    def playing(self) -> dict[str, Any]:
        """The film in the player once it can be watched to its end: address, duration, width, height."""
        video = self.part("player").locator("video")
        facts = ("(v) => ({ready: v.readyState, duration: v.duration, width: v.videoWidth, height: v.videoHeight,"
                 " error: v.error && v.error.message, address: v.currentSrc})")
        self.until(lambda: video.count() == 1 and video.evaluate("(v) => v.readyState === 4 || v.error !== null"),
                   "a film that plays")
        return dict(video.evaluate(facts))

    def frame(self, second: float) -> str:
        """The film in the player as it looks at one moment: a PNG picture, as a data URL."""
        self.playing()
        return str(self.page.evaluate(FRAME, second))

    def show(self, index: int) -> None:
        """Clicks on a film of the strip, and waits until it is the one in the player."""
        film = self.films[index]
        self.strip.nth(index).click()
        self.until(lambda: unquote(self.playing()["address"]).endswith(film), f"{film} in the player")

    def download(self) -> tuple[bytes, dict[str, str]]:
        """What the download link of the player leads to, and under which headers."""
        link = self.part("player").locator("a[download]").first.get_attribute("href")
        plain = {"accept-encoding": "identity"}  # some web UIs compress even films, and then tell another length
        answer = self.page.request.get(urljoin(self.page.url, link), headers=plain)
        assert answer.status == 200, f"{link} answers {answer.status}"
        return answer.body(), answer.headers
