"""A download on its way in a thread of its own, for those who look at it now and then."""

import threading

from t2v.download.planning import Plan
from t2v.download.transfer import Progress, Watch, download
from t2v.errors import DownloadError


class Errand(Watch):
    """A download that has begun. It goes on when nobody looks; `error` says in the end what went wrong."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.error = plan, ""
        self.now = Progress("check", "", plan.begun, plan.size + plan.begun, 0.0)
        self.thread = threading.Thread(target=self.run, name="text2video-download", daemon=True)
        self.thread.start()

    def tick(self, progress: Progress) -> None:
        self.now = progress

    def run(self) -> None:
        try:
            download(self.plan, self)
        except DownloadError as error:
            self.error = str(error)
