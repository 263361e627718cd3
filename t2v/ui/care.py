"""What the tab does for models: a check of everything that is there, and known ones fetched when a person asks."""

from t2v import doctor, download
from t2v.errors import T2VError
from t2v.ui import show
from t2v.ui.library import Library
from t2v.ui.wiring import Changes, Values

PATIENCE = 0.5  # seconds between two looks at a download


class Errand(download.Errand):
    """A download as the page shows it."""

    looks = 0

    @property
    def bar(self) -> str:
        """How far it is."""
        self.looks += 1
        done, total, speed = self.now.done, max(self.now.total, 1), self.now.speed
        words = f"{'Checking' if self.now.stage == 'check' else 'Fetching'} {self.plan.model.name}: {gigabytes(done)}"
        left = (total - done) / speed if speed else None
        return show.progress("running", f"{words} of {gigabytes(total)}", done / total, left, self.looks)


class Care:
    """The handlers of the tab's part for models."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.agreed_to: download.Plan | None = None  # what the terms on the page are about
        self.errand: Errand | None = None

    def examine(self, values: Values) -> Changes:  # noqa: ARG002
        """A page about all models and what they run on, to be read or pasted into an issue."""
        return {"care": show.page(doctor.examine(None, self.library.host).text)}

    def terms(self, values: Values) -> Changes:
        """What fetching a model comes to, before anything is fetched."""
        self.agreed_to = None
        if not values["known"]:
            return {}
        try:
            self.agreed_to = plan = download.plan(values["known"], self.library.host.model_folders[0])
        except T2VError as error:
            return {"care": show.message(self.library.public(str(error)))}
        room = f"{gigabytes(plan.size)} to fetch, {gigabytes(plan.free)} free on the disk"
        target = self.library.public(str(plan.target))
        return {"care": show.note(
            f"{plan.model.about}. Licence: {plan.model.licence}. From {plan.page} into {target}: "
            f"{room if plan.missing else 'all of it is there already'}."
            + (" Fetch it accepts that." if plan.missing and plan.fits else "")
            + ("" if plan.fits else " That is too little room."))}

    def fetch(self, values: Values) -> Changes:
        """Fetches the model whose terms are on the page; without them, shows them."""
        if self.errand is None or not self.errand.thread.is_alive():
            plan, self.agreed_to = self.agreed_to, None
            if plan is None or plan.model.name != values["known"]:
                return self.terms(values)
            self.errand = Errand(plan)
        return {"care": self.errand.bar}

    def look(self, values: Values) -> Changes:  # noqa: ARG002
        """How far the download is by now."""
        errand = self.errand
        if errand is None:
            return {"care": ""}
        errand.thread.join(PATIENCE)
        if errand.thread.is_alive():
            return {"care": errand.bar}
        if errand.error:
            return {"care": show.message(self.library.public(errand.error), "note" if errand.stopped else "error")}
        return {"care": show.note(f"{errand.plan.model.name} is here. Press 🔄 beside Model, and choose it.")}

    def cancel(self, values: Values) -> Changes:  # noqa: ARG002
        """Ends the download; what has come by then is kept, and the next one goes on from there."""
        if self.errand is not None:
            self.errand.stopped = True
        return {}


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
