import os

from modules import paths
from modules.options import OptionInfo, options_section


def create_settings(cmd_opts):
    return options_section(("saving-paths", "Image Paths"), {
        "outdir_samples": OptionInfo("", "Base folder"),
        "outdir_txt2img_samples": OptionInfo("outputs/text", "Folder of a tab"),
        "outdir_video": OptionInfo("outputs/video", "Folder of films"),
        "lora_dir": OptionInfo(os.path.join(paths.models_path, "Lora"), "Folder of LoRAs"),
        "embeddings_dir": OptionInfo(os.path.join(paths.models_path, "embeddings"), "Folder of embeddings"),
    })
