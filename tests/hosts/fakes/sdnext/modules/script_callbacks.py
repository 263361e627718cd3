import inspect
from collections import namedtuple

from fake_events import reported

callback_map = {name: [] for name in (
    "callbacks_app_started", "callbacks_model_loaded", "callbacks_ui_tabs", "callbacks_ui_settings",
    "callbacks_script_unloaded", "callbacks_before_ui", "callbacks_on_reload")}


ScriptCallback = namedtuple("ScriptCallback", ["script", "callback"])


def add_callback(callbacks, fun):
    caller = next(frame.filename for frame in inspect.stack() if frame.filename != __file__)
    callbacks.append(ScriptCallback(caller, fun))


def clear_callbacks():
    for callbacks in callback_map.values():
        callbacks.clear()


def _called(kind, *args):
    """What the callbacks of a kind give; an exception is shown, and the next one called."""
    for entry in list(callback_map[kind]):
        try:
            yield entry.callback(*args)
        except Exception as error:
            reported.append(f"{kind}: {type(error).__name__}: {error}")


def app_started_callback(demo, app):
    list(_called("callbacks_app_started", demo, app))


def app_reload_callback():
    list(_called("callbacks_on_reload"))


def ui_tabs_callback():
    return [tab for tabs in _called("callbacks_ui_tabs") for tab in tabs or []]


def ui_settings_callback():
    list(_called("callbacks_ui_settings"))


def script_unloaded_callback():
    list(_called("callbacks_script_unloaded"))


def before_ui_callback():
    list(_called("callbacks_before_ui"))


def on_app_started(callback):
    add_callback(callback_map["callbacks_app_started"], callback)


def on_before_reload(callback):
    add_callback(callback_map["callbacks_on_reload"], callback)


def on_ui_tabs(callback):
    add_callback(callback_map["callbacks_ui_tabs"], callback)


def on_ui_settings(callback):
    add_callback(callback_map["callbacks_ui_settings"], callback)


def on_script_unloaded(callback):
    add_callback(callback_map["callbacks_script_unloaded"], callback)


def on_before_ui(callback):
    add_callback(callback_map["callbacks_before_ui"], callback)
