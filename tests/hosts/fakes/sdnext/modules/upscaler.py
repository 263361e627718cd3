from PIL import Image

from modules import shared


class Upscaler:
    name = None
    scalers = ()

    def __init__(self, create_dirs=True):
        self.scale = 1

    def do_upscale(self, img, selected_model: str):
        return img

    def upscale(self, img, scale, selected_model: str | None = None):
        job = shared.state.begin("Upscale")
        self.scale = scale
        wanted = int(img.width * scale), int(img.height * scale)
        for _ in range(3):
            before = img.size
            img = self.do_upscale(img, selected_model)
            if img.size == before or (img.width >= wanted[0] and img.height >= wanted[1]):
                break
        if img.size != wanted:
            img = img.resize(wanted, Image.Resampling.LANCZOS)
        shared.state.end(job)
        return img

    def load_model(self, path: str):
        pass


class UpscalerData:
    name = None
    data_path = None
    scale: int = 4
    scaler: Upscaler | None = None

    def __init__(self, name: str, path: str | None = None, upscaler=None, scale: int = 4, model=None):
        self.name, self.data_path, self.scaler = name, path, upscaler
