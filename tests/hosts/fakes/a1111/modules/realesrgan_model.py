import torch
from fake_events import happen
from modules.upscaler import NEAREST, Upscaler, _data

_PATH = "https://example.org/RealESRGAN_x4plus.pth"


class UpscalerRealESRGAN(Upscaler):
    def __init__(self, path):
        self.name = "RealESRGAN"
        super().__init__()
        self.scalers = [_data("R-ESRGAN 4x+", _PATH, self)]
        self._network = None

    def do_upscale(self, img, path):
        assert path == _PATH, f"there is no upscaler at {path}"
        happen("upscale")
        self._network = self._network or torch.nn.Linear(1, 1)  # some upscalers keep theirs
        return img.resize((4 * img.width, 4 * img.height), resample=NEAREST)
