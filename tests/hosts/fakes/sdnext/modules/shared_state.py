import re
import time

from fake_events import happen


class State:
    id = 0
    skipped = False
    interrupted = False
    paused = False
    job = ""
    job_no = 0
    job_count = 0
    job_timestamp = "0"
    _sampling_step = 0
    sampling_steps = 0
    batch_no = 0
    batch_count = 0
    current_latent = None
    current_image = None
    id_live_preview = 0
    textinfo = None
    api = False
    time_start = None

    def __init__(self):
        self._begun = []

    @property
    def sampling_step(self):
        return self._sampling_step

    @sampling_step.setter
    def sampling_step(self, value):
        self._sampling_step = value

    def skip(self):
        self.skipped = True

    def interrupt(self):
        self.interrupted = True

    def pause(self):
        self.paused = not self.paused

    def nextjob(self):
        self.job_no += 1

    def get_id(self, task_id: str | None = None):
        inner = re.search(r"\((.*?)\)", str(task_id))
        return inner.group(1) if inner else str(task_id)

    def clear(self):
        self.id = self.job = ""
        self.job_count = self.job_no = 0
        self.paused = False

    def begin(self, title="", task_id=0, api=None):
        happen("begin")
        self.clear()
        self.interrupted = self.skipped = False
        self.current_image = self.current_latent = self.textinfo = None
        self.id_live_preview = 0
        self.id, self.job, self.job_count = self.get_id(task_id), title, 1
        self._sampling_step = self.sampling_steps = self.batch_no = self.batch_count = 0
        self.api = bool(api)
        self.time_start = time.time()
        self._begun.append(self.id)
        return self.id

    def end(self, task_id=None, api=None):
        happen("end")
        if task_id is not None:
            assert task_id in self._begun, f"{task_id} ends, and never began"
        self.clear()

    def assign_current_image(self, image):
        happen("show a picture")
        self.current_image = image
        self.id_live_preview += 1
