"""How a web UI gets the tab and its settings: scripts/text2video_tab.py calls `register` at every load and reload."""

from dataclasses import fields
from functools import cache
from typing import Any

from modules import script_callbacks, shared

from t2v.api.access import Access
from t2v.api.attach import attach
from t2v.api.service import Service
from t2v.hosts.detect import find_host
from t2v.hosts.door import api_users, api_wanted
from t2v.jobs import Runner
from t2v.settings import Settings, option_key

TAB = "text2video"
SECTION = (TAB, "Text2Video")


@cache
def runner() -> Runner:
    """The one of this process: jobs and what they made outlive a reload of the page's code."""
    return Runner(find_host())


def register() -> None:
    """Asks the host for a tab and a section of settings; it has forgotten us since the last time."""
    script_callbacks.on_ui_settings(add_settings)
    script_callbacks.on_ui_tabs(tabs)
    script_callbacks.on_app_started(serve_api)
    script_callbacks.on_script_unloaded(runner().close)


def serve_api(_page: Any, app: Any) -> None:
    """Puts our API into the host's app, which is a new one after each reload, if the host is to have an API."""
    if api_wanted():
        attach(app, service(), Access(api_users()))


@cache
def service() -> Service:
    """The one of this process, with the list of jobs that outlives it."""
    return Service(runner())


def tabs() -> list[tuple[Any, str, str]]:
    """What the host puts among its tabs."""
    from t2v.ui.tab import build_tab  # gradio takes seconds, and a host without pages does without

    paste = paste_module()
    tab, parts = build_tab(runner(), img2img=paste is not None)
    if paste is not None:
        paste.register_paste_params_button(paste.ParamBinding(
            paste_button=parts["paste_img2img"], tabname="img2img", source_image_component=parts["frame"]))
    return [(tab, "Text2Video", TAB)]


def paste_module() -> Any:
    """Where the host binds buttons that send pictures to its tabs; None if it does not."""
    try:
        from modules import generation_parameters_copypaste as paste
    except ImportError:
        return None
    return paste if hasattr(paste, "ParamBinding") and hasattr(paste, "register_paste_params_button") else None


def add_settings() -> None:
    """A section of the host's Settings page, from the fields of `Settings`."""
    from t2v.ui.controls import option_component

    for spec in fields(Settings):
        component, arguments = option_component(spec)
        option = shared.OptionInfo(spec.default, spec.metadata["label"], component, arguments, section=SECTION)
        shared.opts.add_option(option_key(spec), option.info(spec.metadata["description"]))
