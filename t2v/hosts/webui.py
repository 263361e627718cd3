"""AUTOMATIC1111's web UI, and what every web UI of its kind has in common.

What bites here: reading `shared.sd_model` loads a checkpoint, so nothing here does; setting `state.current_latent`
makes the host decode it with its own autoencoder; the state is everybody's, so it is written anew at each tick and
never believed; the lock is not re-entrant; paths are relative to a folder that other extensions change; upscalers keep
networks, and one that was loaded in inference mode is of little use outside of it.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import Field
from pathlib import Path
from typing import Any

import torch
from modules import call_queue, devices, paths, progress, sd_models, shared
from PIL import Image

from t2v.errors import T2VError
from t2v.hosts import Memory, Wishes, Work
from t2v.hosts.standalone import measured
from t2v.memory import is_shortage
from t2v.settings import Settings, option_key, read_settings
from t2v.traffic import give_pinned_back

log = logging.getLogger(__name__)


class WebuiHost:
    """A1111's web UI 1.8 and later. Hosts of its family override what they do differently."""

    name = "AUTOMATIC1111's web UI"

    # ---- what generation computes on, and where files are ----

    @property
    def device(self) -> torch.device:
        return torch.device(devices.get_device_for("text2video") if devices.device.type != "cpu" else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The host's choice; on the CPU, where it may say float16 and mean it for a card, float32."""
        return torch.float32 if self.device.type == "cpu" else devices.dtype

    @property
    def vae_dtype(self) -> torch.dtype:
        return self.dtype if self.settings.vae_precision == "network" else torch.float32

    @property
    def memory(self) -> Memory | None:
        return measured(self.device)

    @property
    def model_folders(self) -> list[Path]:
        models = self.absolute(paths.models_path)
        more = [self.absolute(self.settings.models)] if self.settings.models else []
        return [models / "ModelScope", models / "text2video", *more]

    @property
    def lora_folders(self) -> list[Path]:
        return self.option_folder("lora_dir")

    @property
    def embedding_folders(self) -> list[Path]:
        return self.option_folder("embeddings_dir")

    def option_folder(self, name: str) -> list[Path]:
        """The folder that the host was started with, or that is set in its options, under a name; none if unknown."""
        folder = getattr(shared.cmd_opts, name, None) or getattr(shared.opts, name, None)
        return [self.absolute(str(folder))] if folder else []

    @property
    def outputs(self) -> Path:
        """`text2video` beside the host's own folders of pictures, or where the user's setting says."""
        opts = shared.opts
        if self.settings.outputs:
            return self.absolute(self.settings.outputs)
        if getattr(opts, "outdir_samples", ""):
            return self.absolute(opts.outdir_samples) / "text2video"
        return self.absolute(getattr(opts, "outdir_txt2img_samples", "") or "outputs/x").parent / "text2video"

    @property
    def input_folders(self) -> list[Path]:
        return [self.outputs, *([self.absolute(self.settings.inputs)] if self.settings.inputs else [])]

    @property
    def settings(self) -> Settings:
        """Options that the host does not know yet, as on its first start, are at their defaults."""
        def option(spec: "Field[Any]") -> Any:
            return getattr(shared.opts, option_key(spec), spec.default)

        return read_settings(option)

    @property
    def private_folders(self) -> bool:
        return bool(getattr(shared.cmd_opts, "hide_ui_dir_config", False))

    def absolute(self, folder: str) -> Path:
        """`folder` as the host means it: relative ones are below its own, wherever the process has gone since."""
        return (Path(paths.script_path) / folder).resolve()

    # ---- a job's way through the host ----

    def announce(self, job_id: str) -> None:
        progress.add_task_to_queue(job_id)

    def withdraw(self, job_id: str) -> None:
        if progress.pending_tasks.pop(job_id, None) is not None:
            progress.finish_task(job_id)

    @contextmanager
    def turn(self, work: Work, need: int | None) -> Iterator[None]:
        with self.lock():
            if work.stopped:  # while it waited
                yield
                return
            after = ExitStack()  # undone in reverse order, each step whatever the others do
            try:
                self.begin(work, after)
                progress.start_task(work.id)
                after.callback(cautious(progress.finish_task), work.id)
                self.make_room(need, after)
                yield
            finally:
                after.close()

    def lock(self) -> Any:
        """What everything that computes in the host waits for."""
        return call_queue.queue_lock

    def begin(self, work: Work, after: ExitStack) -> None:
        """Opens a job of the host; `after` gets what closes it."""
        after.callback(self.clear_flags)
        shared.state.begin(job=work.title)
        after.callback(cautious(shared.state.end))

    def clear_flags(self) -> None:
        """What was asked of our job is not asked of the next one."""
        for flag in ("interrupted", "skipped", "stopping_generation"):
            if hasattr(shared.state, flag):
                setattr(shared.state, flag, False)

    def make_room(self, need: int | None, after: ExitStack) -> None:  # noqa: ARG002
        """Sends the host's models to the CPU; `after` brings back those that were on the device."""
        data = sd_models.model_data
        with data.lock:  # a checkpoint may still be loading from the start of the program
            loaded = {id(model): model for model in (*data.loaded_sd_models, data.sd_model) if model is not None}
        for model in filter(on_device, loaded.values()):
            after.callback(cautious(sd_models.send_model_to_device), model)
            sd_models.send_model_to_cpu(model)

    def publish(self, work: Work) -> Wishes:
        state = shared.state
        wishes = Wishes(state.interrupted, state.skipped, getattr(state, "stopping_generation", False))
        state.skipped = False
        state.job, state.job_count, state.job_no = work.title, work.items, work.item
        state.sampling_steps = max(work.steps, 1)  # before and after denoising, the host shows nothing and all of it
        state.sampling_step = {"denoise": work.step, "refine": work.step, "decode": work.steps}.get(work.stage, 0)
        state.textinfo = work.text
        if self.previews and (picture := work.new_picture()) is not None:
            state.assign_current_image(picture)
        while getattr(state, "paused", False) and not (state.interrupted or work.stopped):
            time.sleep(0.1)
        return wishes

    @property
    def previews(self) -> bool:
        """Whether the host's own live preview is on."""
        return self.settings.preview and bool(getattr(shared.opts, "live_previews_enable", True))

    def collect(self) -> None:
        devices.torch_gc()
        give_pinned_back(self.device)

    def reclaim(self, need: int) -> None:  # noqa: ARG002
        """The host's own models have left already; what is free may still lie in pieces that are too small."""
        self.collect()

    # ---- upscalers of pictures ----

    @property
    def upscalers(self) -> Sequence[str]:
        return [upscaler.name for upscaler in shared.sd_upscalers if upscaler.name != "None"]

    def upscaled(self, picture: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
        """The host goes by a factor, and makes sides of its own; so it is asked for no less than `size`."""
        factor = math.nextafter(max(new / old for new, old in zip(size, picture.size, strict=True)), math.inf)
        upscaler = next(each for each in shared.sd_upscalers if each.name == name)
        try:
            with torch.inference_mode(mode=False):
                larger = self.upscale(upscaler, picture, factor)
        except Exception as error:
            if is_shortage(error):
                raise
            log.exception("the upscaler %s failed", name)
            raise T2VError(f"the upscaler {name} failed: {error} (the console shows where)") from error
        return larger.convert("RGB").resize(size, Image.Resampling.LANCZOS)

    def upscale(self, upscaler: Any, picture: Image.Image, factor: float) -> Any:
        """What the host's own tab for pictures does."""
        return upscaler.scaler.upscale(picture, factor, upscaler.data_path)

    # ---- what the tab shows ----

    def offer(self, film: Path) -> None:
        from modules import ui_tempdir  # not every host of the family has it

        ui_tempdir.register_tmp_file(shared.demo, str(film))

    @property
    def styles(self) -> Sequence[str]:
        return list(shared.prompt_styles.styles)

    def styled(self, prompt: str, negative_prompt: str, styles: Sequence[str]) -> tuple[str, str]:
        known = [style for style in styles if style in shared.prompt_styles.styles]
        return (shared.prompt_styles.apply_styles_to_prompt(prompt, known),
                shared.prompt_styles.apply_negative_styles_to_prompt(negative_prompt, known))

    @property
    def environment(self) -> Mapping[str, str]:
        return {"torch": torch.__version__, "device": str(self.device), "precision": str(self.dtype)}


def on_device(model: Any) -> bool:
    """Whether a model of the host takes up device memory, now or piece by piece."""
    parameter = next(iter(model.parameters()), None)
    return getattr(model, "lowvram", False) or (parameter is not None and parameter.device.type not in ("cpu", "meta"))


def cautious(step: Callable[..., Any]) -> Callable[..., None]:
    """`step` as a clean-up: what goes wrong in it is logged, and keeps nobody from what comes next."""
    def taken(*args: Any) -> None:
        try:
            step(*args)
        except Exception:
            log.exception("could not clean up after a job")

    return taken
