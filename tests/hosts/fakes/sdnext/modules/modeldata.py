import threading
from types import ModuleType

from fake_events import happen


class ModelData:
    def __init__(self):
        self.sd_model = None
        self.sd_refiner = None
        self.locked = True
        self.lock = threading.Lock()


model_data = ModelData()


class Shared(ModuleType):
    @property
    def sd_loaded(self):
        return model_data.sd_model is not None

    @property
    def sd_model(self):
        """Loads a checkpoint where the host is a real one."""
        happen("load a checkpoint")
        raise AssertionError("shared.sd_model was read, which loads a checkpoint")

    @property
    def sd_refiner(self):
        """Loads a checkpoint where the host is a real one."""
        happen("load a checkpoint")
        raise AssertionError("shared.sd_refiner was read, which loads a checkpoint")
