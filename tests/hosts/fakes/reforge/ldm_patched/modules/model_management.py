import torch
from fake_events import happen

current_loaded_models = []


class LoadedModel:
    def __init__(self, model):
        self.model = model
        self.device = get_torch_device()

    def model_unload(self, memory_to_free=None, unpatch_weights=True):
        happen(f"evict {self.model.name}")
        self.model.to(torch.device("cpu"))


def get_torch_device():
    return torch.device("cpu")


def get_total_memory(dev=None, torch_total_too=False):
    return (8 * 2**30, 2**30) if torch_total_too else 8 * 2**30


def get_free_memory(dev=None, torch_free_too=False):
    """Each loaded model takes two of six gigabytes."""
    free = (6 - 2 * len(current_loaded_models)) * 2**30
    return (free, 0) if torch_free_too else free


def free_memory(memory_required, device, keep_loaded=()):
    """The model used longest ago goes first, until there is room."""
    for loaded in list(reversed(current_loaded_models)):
        if get_free_memory(device) > memory_required:
            break
        if loaded.device == device and loaded not in keep_loaded:
            current_loaded_models.remove(loaded)
            loaded.model_unload()


def load_models_gpu(models, memory_required=0, force_patch_weights=False, minimum_memory_required=None,
                    force_full_load=False):
    """Brings back what is needed: what the host does by itself at its next picture."""
    for model in models:
        happen(f"restore {model.name}")
        model.to(torch.device("cuda"))
        current_loaded_models.insert(0, LoadedModel(model))


def unload_all_models():
    free_memory(1e30, get_torch_device())


def soft_empty_cache(force=False):
    happen("collect")


def should_use_fp16(device=None, model_params=0, prioritize_performance=True, manual_cast=False):
    return True


def should_use_bf16(device=None, model_params=0, prioritize_performance=True, manual_cast=False):
    return False
