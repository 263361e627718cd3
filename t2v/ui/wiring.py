"""From events to handlers, which know names and values, and nothing of components."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from t2v.errors import T2VError
from t2v.ui import compat, show

log = logging.getLogger(__name__)
Parts = dict[str, Any]  # components by their names
Values = Mapping[str, Any]  # what is in them
Changes = dict[str, Any]  # what becomes of them; those not named stay as they are
OURS = "Something went wrong inside Text2Video ({}). The console shows where."


class Wiring:
    """Connects the `parts` of a tab. Every handler may also change the message, and is never left by an error."""

    def __init__(self, parts: Parts, public: Callable[[str], str]) -> None:
        self.parts = parts
        self.public = public  # what of a message may be shown in a browser

    def on(self, event: Callable[..., Any], handler: Callable[[Values], Changes], takes: Sequence[str],
           gives: Sequence[str], **options: Any) -> Any:
        """Calls `handler` with the values of the parts it `takes`, and does to those it `gives` what it says."""
        takes = [name for name in takes if name in self.parts]
        gives = [*gives, "message"]

        def listed(changes: Changes) -> Any:
            updates = [changes.get(name, gr.update()) for name in gives]
            return updates if len(updates) > 1 else updates[0]

        def called(*values: Any) -> Any:
            return listed(self.guarded(handler, dict(zip(takes, values, strict=True))))

        return compat.listen(event, called, [self.parts[name] for name in takes],
                             [self.parts[name] for name in gives], **options)

    def guarded(self, handler: Callable[[Values], Changes], values: Values) -> Changes:
        """What `handler` says; what goes wrong in it becomes a message."""
        try:
            return handler(values)
        except T2VError as error:
            return {"message": show.message(self.public(str(error)))}
        except Exception as error:
            log.exception("Text2Video: the tab")
            return {"message": show.message(OURS.format(type(error).__name__))}
