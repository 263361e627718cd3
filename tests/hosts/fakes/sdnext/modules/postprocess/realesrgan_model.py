import torch
from fake_events import happen
from PIL import Image

from modules.upscaler import Upscaler, UpscalerData


class UpscalerRealESRGAN(Upscaler):
    def __init__(self, dirname):
        self.name = "RealESRGAN"
        super().__init__()
        self.scalers = [UpscalerData("RealESRGAN 4x+", "https://example.org/RealESRGAN_x4plus.pth", self)]
        self._network = None

    def do_upscale(self, img, selected_model):
        assert selected_model in {name for data in self.scalers for name in (data.name, data.data_path)}
        happen("upscale")
        self._network = self._network or torch.nn.Linear(1, 1)  # some upscalers keep theirs
        return img.resize((4 * img.width, 4 * img.height), Image.Resampling.NEAREST)
