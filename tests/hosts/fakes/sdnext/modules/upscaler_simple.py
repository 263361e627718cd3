from PIL import Image

from modules.upscaler import Upscaler, UpscalerData


class UpscalerNone(Upscaler):
    def __init__(self, dirname=None):
        super().__init__(False)
        self.name = "None"
        self.scalers = [UpscalerData("None", None, self)]

    def do_upscale(self, img, selected_model=None):
        return img


class UpscalerResize(Upscaler):
    def __init__(self, dirname=None):
        super().__init__(False)
        self.name = "Resize"
        self.scalers = [UpscalerData("Resize Nearest", None, self), UpscalerData("Resize Lanczos", None, self)]

    def do_upscale(self, img, selected_model=None):
        filters = {"Resize Nearest": Image.Resampling.NEAREST, "Resize Lanczos": Image.Resampling.LANCZOS}
        if selected_model not in filters:
            return img
        return img.resize((int(img.width * self.scale), int(img.height * self.scale)), filters[selected_model])


class UpscalerLatent(Upscaler):
    def __init__(self, dirname=None):
        super().__init__(False)
        self.name = "Latent"
        self.scalers = [UpscalerData("Latent Bilinear", None, self)]

    def do_upscale(self, img, selected_model=None):
        raise AssertionError("a picture was given to an upscaler of latents")
