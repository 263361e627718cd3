from fake_events import happen

from modules import devices
from modules.modeldata import model_data


def unload_model_weights(op="model"):
    """Gone for good; the host loads it from disk when it is next needed."""
    name = "sd_model" if op == "model" else "sd_refiner"
    model = getattr(model_data, name)
    if model is not None:
        happen(f"evict {model.name}")
        setattr(model_data, name, None)
        devices.torch_gc(force=True, reason="unload")


def reload_model_weights(sd_model=None, info=None, op="model", force=False, revision=None):
    happen("load a checkpoint")
