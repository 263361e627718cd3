"""The host that this process tests in: one of the fakes, or none. `modules` can be only one in a process."""

import os
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HOST = os.environ.get("T2V_HOST", "standalone")
FAKES = Path(__file__).parent / "fakes"
# As the real ones did, forks take from A1111 what they do not replace: the first folder that has a module gives it.
TREES = {"a1111": ("a1111",), "forge": ("forge", "a1111"), "reforge": ("reforge", "a1111"), "sdnext": ("sdnext",)}
MANAGERS = {"forge": "backend.memory_management", "reforge": "ldm_patched.modules.model_management"}
NOISE = {"collect", "show a picture"}  # events whose place among the others is nobody's business


def folders(host: str) -> list[str]:
    """What goes onto sys.path for `import modules` to find the fake of `host`."""
    return [str(FAKES), *(str(FAKES / tree) for tree in TREES[host])]


def start(host: str, root: Path) -> None:
    """What a host has done by the time it loads extensions; `root` is its folder."""
    os.environ["FAKE_HOST"] = str(root)
    sys.path[:0] = folders(host)
    import_module("modules.shared")
    if host != "sdnext":
        import_module("modules.shared_init").initialize()
        import_module("modules.infotext_utils")
    import_module("modules.modelloader").load_upscalers()
    for module in ("call_queue", "progress", "script_callbacks", "sd_models"):
        import_module(f"modules.{module}")


class House:
    """Hands on a fake host that has been started, for tests: what a user does there, and what can be seen."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.events = import_module("fake_events")
        self.modules = SimpleNamespace(**{name: import_module(f"modules.{name}") for name in (
            "call_queue", "devices", "paths", "progress", "script_callbacks", "sd_models", "shared", "shared_state")})
        self.manager: Any = import_module(MANAGERS[host]) if host in MANAGERS else None
        self.fresh_options = dict(self.shared.opts.data)

    @property
    def shared(self) -> Any:
        return self.modules.shared

    @property
    def state(self) -> Any:
        return self.shared.state

    @property
    def model_data(self) -> Any:
        name = "modeldata" if self.host == "sdnext" else "sd_models"
        return import_module(f"modules.{name}").model_data

    @property
    def seen(self) -> list[str]:
        """What has happened, without what may happen at any time."""
        return [event for event in self.events.seen if event not in NOISE]

    def tidy(self, outputs: Path) -> None:
        """As after a start, with films below `outputs`."""
        progress, opts = self.modules.progress, self.shared.opts
        progress.current_task = None
        progress.pending_tasks.clear()
        progress.finished_tasks.clear()
        self.shared.state = self.modules.shared_state.State()
        opts.data.clear()
        opts.data.update(self.fresh_options, outdir_samples=str(outputs))
        self.unload()
        self.events.forget()

    def unload(self) -> None:
        if self.manager is not None:
            self.manager.current_loaded_models.clear()
        for name in {"sd_model", "sd_refiner"} & set(vars(self.model_data)):
            if self.host != "forge":
                setattr(self.model_data, name, None)
        if hasattr(self.model_data, "loaded_sd_models"):
            self.model_data.loaded_sd_models.clear()

    def load(self, *names: str, **how: Any) -> list[Any]:
        """Checkpoints that the user has loaded: they are on the card, the first one is in use."""
        models = [self.events.Checkpoint(name, **how) for name in names]
        if self.manager is not None:
            self.manager.current_loaded_models[:] = [self.manager.LoadedModel(model) for model in models]
        elif self.host == "sdnext":
            self.model_data.sd_model, self.model_data.sd_refiner = [*models, None][:2]
        else:
            self.model_data.sd_model = models[0]
            self.model_data.loaded_sd_models[:] = models
        return models

    def progress(self, job_id: str) -> Any:
        """What the host's page learns about a task."""
        module = self.modules.progress
        ask = module.api_progress if self.host == "sdnext" else module.progressapi
        return ask(SimpleNamespace(id_task=job_id))

    def option(self, **values: Any) -> None:
        """What the user has settled, by the names of the fields of `Settings`."""
        from t2v.settings import Settings, option_key

        keys = {spec.name: option_key(spec) for spec in fields(Settings)}
        self.shared.opts.data.update({keys[name]: value for name, value in values.items()})
