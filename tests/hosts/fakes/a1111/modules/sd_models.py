import threading

from fake_events import happen
from modules import devices, shared


class SdModelData:
    def __init__(self):
        self.sd_model = None
        self.loaded_sd_models = []
        self.was_loaded_at_least_once = False
        self.lock = threading.Lock()


model_data = SdModelData()


def send_model_to_cpu(m):
    if m is not None:
        if not m.lowvram:
            m.to(devices.cpu)
        happen(f"evict {m.name}")  # what goes wrong does so when the model has gone already
    devices.torch_gc()


def send_model_to_device(m):
    happen(f"restore {m.name}")
    if not m.lowvram:
        m.to(shared.device)


def unload_model_weights(sd_model=None, info=None):
    send_model_to_cpu(sd_model or shared.sd_model)


def reload_model_weights(sd_model=None, info=None, forced_reload=False):
    """Leaves the same checkpoint where it is."""
    return sd_model or shared.sd_model
