from modules import shared
from modules.realesrgan_model import UpscalerRealESRGAN
from modules.upscaler import UpscalerLanczos, UpscalerNearest, UpscalerNone


def load_upscalers():
    classes = UpscalerNone, UpscalerLanczos, UpscalerNearest, UpscalerRealESRGAN
    shared.sd_upscalers = [data for kind in classes for data in kind(None).scalers]
