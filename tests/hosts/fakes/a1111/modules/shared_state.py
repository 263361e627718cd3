import time

from fake_events import happen
from modules import devices


class State:
    skipped = False
    interrupted = False
    stopping_generation = False
    job = ""
    job_no = 0
    job_count = 0
    job_timestamp = "0"
    sampling_step = 0
    sampling_steps = 0
    current_latent = None
    current_image = None
    id_live_preview = 0
    textinfo = None
    time_start = None

    def skip(self):
        self.skipped = True

    def interrupt(self):
        self.interrupted = True

    def stop_generating(self):
        self.stopping_generation = True

    def nextjob(self):
        self.job_no += 1
        self.sampling_step = 0

    def begin(self, job: str = "(unknown)"):
        happen("begin")
        self.job, self.job_count, self.job_no = job, -1, 0  # -1: whoever works has yet to say how much there is
        self.sampling_step = self.id_live_preview = 0
        self.current_latent = self.current_image = self.textinfo = None
        self.skipped = self.interrupted = self.stopping_generation = False
        self.time_start = time.time()
        devices.torch_gc()

    def end(self):
        happen("end")
        self.job, self.job_count = "", 0
        devices.torch_gc()

    def assign_current_image(self, image):
        happen("show a picture")
        self.current_image = image
        self.id_live_preview += 1
