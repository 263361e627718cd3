import os

from modules.options import OptionInfo, options_section

options_templates = {}
restricted_opts = {"outdir_samples", "outdir_txt2img_samples"}

options_templates.update(options_section(("saving-paths", "Paths for saving", "saving"), {
    "outdir_samples": OptionInfo("", "Output directory"),
    "outdir_txt2img_samples": OptionInfo(os.path.join("outputs", "txt2img-images"), "Output directory of a tab"),
}))
options_templates.update(options_section(("ui", "Live previews", "ui"), {
    "live_previews_enable": OptionInfo(True, "Live previews"),
}))
