import threading


class SdModelData:
    def __init__(self):
        self.sd_model = None
        self.loaded_sd_models = []
        self.was_loaded_at_least_once = False
        self.lock = threading.Lock()


model_data = SdModelData()


def send_model_to_cpu(m):
    pass


def send_model_to_device(m):
    pass


def unload_model_weights(model=None):
    raise AssertionError("moves the model behind the manager's back")
