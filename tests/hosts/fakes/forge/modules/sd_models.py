class FakeInitialModel:
    """Stands where the model will be; it has no weights, and moving it means nothing."""

    def __init__(self):
        self.cond_stage_model = None


class SdModelData:
    def __init__(self):
        self.sd_model = FakeInitialModel()


model_data = SdModelData()


def send_model_to_cpu(m):
    pass


def send_model_to_device(m):
    pass


def unload_model_weights(sd_model=None, info=None):
    raise AssertionError("moves the model behind the back of whoever is computing")
