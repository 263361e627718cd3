"""SD.Next."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, modeldata, paths, sd_models, shared
from PIL.Image import Image

from t2v.hosts import Work
from t2v.hosts.webui import WebuiHost, cautious
from t2v.traffic import give_pinned_back


class SdnextHost(WebuiHost):
    """SD.Next: its own words for beginning and ending, its folder of films, and models that it loads when needed."""

    name = "SD.Next"

    @property
    def device(self) -> torch.device:
        return torch.device(devices.device)

    @property
    def outputs(self) -> Path:
        if self.settings.outputs:
            return self.absolute(self.settings.outputs)
        opts = shared.opts
        return self.absolute(paths.resolve_output_path(opts.outdir_samples, opts.outdir_video)) / "text2video"

    def lock(self) -> Any:
        return call_queue.get_lock()

    def begin(self, work: Work, after: ExitStack) -> None:
        after.callback(self.clear_flags)
        job = shared.state.begin(work.title, work.id)
        after.callback(cautious(shared.state.end), job)

    def make_room(self, need: int | None, after: ExitStack) -> None:  # noqa: ARG002
        """What was loaded is loaded again by the host itself, when it is next needed."""
        if modeldata.model_data.sd_model is not None:
            sd_models.unload_model_weights(op="model")
        if modeldata.model_data.sd_refiner is not None:
            sd_models.unload_model_weights(op="refiner")
        after.callback(cautious(self.collect))

    def collect(self) -> None:
        devices.torch_gc(force=True)
        give_pinned_back(self.device)

    @property
    def upscalers(self) -> Sequence[str]:
        """Without those of latents, which are of its own models."""
        return [name for name in super().upscalers if not name.startswith("Latent")]

    def upscale(self, upscaler: Any, picture: Image, factor: float) -> Any:
        """By its name; and in a job of the host's own, which forgets what was asked of ours."""
        state = shared.state
        asked = {flag: getattr(state, flag) for flag in ("interrupted", "skipped")}
        larger = upscaler.scaler.upscale(picture, factor, upscaler.name)
        for flag, before in asked.items():
            setattr(state, flag, before or getattr(state, flag))
        return larger

    def offer(self, film: Path) -> None:
        from modules import gr_tempdir

        gr_tempdir.register_tmp_file(shared.demo, str(film))
