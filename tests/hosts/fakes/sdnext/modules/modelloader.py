from modules import shared
from modules.postprocess.realesrgan_model import UpscalerRealESRGAN
from modules.upscaler_simple import UpscalerLatent, UpscalerNone, UpscalerResize


def load_upscalers(quiet=False):
    classes = UpscalerNone, UpscalerResize, UpscalerLatent, UpscalerRealESRGAN
    shared.sd_upscalers = [data for kind in classes for data in kind(None).scalers]
    return [data.name for data in shared.sd_upscalers]
