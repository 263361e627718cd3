from modules import shared
from PIL import Image

LANCZOS = Image.Resampling.LANCZOS
NEAREST = Image.Resampling.NEAREST


class Upscaler:
    name = None
    scalers: list

    def __init__(self, create_dirs=False):
        self.scale = 1

    def do_upscale(self, img, selected_model):
        return img

    def upscale(self, img, scale, selected_model: str | None = None):
        self.scale = scale
        wanted = tuple(int((side * scale) // 8 * 8) for side in img.size)
        for tried in range(3):
            before = img.size
            enough = before[0] >= wanted[0] and before[1] >= wanted[1] and (tried > 0 or scale != 1)
            if enough or shared.state.interrupted:
                break
            img = self.do_upscale(img, selected_model)
            if img.size == before:
                break
        return img if img.size == wanted else img.resize(wanted, resample=LANCZOS)

    def load_model(self, path: str):
        pass


class UpscalerData:
    name = None
    data_path = None
    scale: int = 4
    scaler: Upscaler = None


def _data(name, path, upscaler):
    data = UpscalerData()
    data.name, data.data_path, data.scaler = name, path, upscaler
    return data


class UpscalerNone(Upscaler):
    name = "None"

    def __init__(self, dirname=None):
        super().__init__(False)
        self.scalers = [_data("None", None, self)]

    def do_upscale(self, img, selected_model=None):
        return img


class UpscalerLanczos(Upscaler):
    def __init__(self, dirname=None):
        super().__init__(False)
        self.name = "Lanczos"
        self.scalers = [_data("Lanczos", None, self)]

    def do_upscale(self, img, selected_model=None):
        return img.resize((int(img.width * self.scale), int(img.height * self.scale)), resample=LANCZOS)


class UpscalerNearest(Upscaler):
    def __init__(self, dirname=None):
        super().__init__(False)
        self.name = "Nearest"
        self.scalers = [_data("Nearest", None, self)]

    def do_upscale(self, img, selected_model=None):
        return img.resize((int(img.width * self.scale), int(img.height * self.scale)), resample=NEAREST)
