"""The tab as a page of its own, and the API beside it, for `t2v serve`."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import t2v
from t2v.api.access import Access
from t2v.api.attach import attach
from t2v.api.files import hidden
from t2v.api.service import Service
from t2v.errors import RequestError
from t2v.jobs import Runner
from t2v.ui.compat import MAJOR
from t2v.ui.tab import build_tab

ROOT = Path(t2v.__file__).parent.parent  # web UIs want style.css and javascript/ beside the package, not in it
ALONE = '<meta name="text2video-alone">'  # so that the script knows that no web UI cares for the keys
NEWEST = 6  # of gradio; before that, pages get their style and script in other ways


@contextmanager
def serve(runner: Runner, address: str = "127.0.0.1", port: int = 7861,
          auth: tuple[str, str] | None = None) -> Iterator[str]:
    """The page, for as long as the block lasts; yields its URL. RequestError where address or port cannot be had."""
    if MAJOR < NEWEST:
        raise RequestError("serve", f"the page needs gradio {NEWEST} or newer, and a web UI has another: install this "
                                    "package in a Python environment of its own")
    check_free(address, port)
    script = (ROOT / "javascript" / "text2video.js").read_text(encoding="utf-8")
    tab, _ = build_tab(runner)
    service = Service(runner)
    app, url, _ = tab.launch(
        server_name=address, server_port=port, auth=auth, allowed_paths=[str(runner.host.outputs.resolve())],
        css_paths=ROOT / "style.css", head=f"{ALONE}<script>{script}</script>", footer_links=["settings"],
        blocked_paths=[str(hidden(runner.host).resolve())], app_kwargs={"docs_url": "/docs"}, prevent_thread_lock=True,
        quiet=True, share=False, inbrowser=False, ssr_mode=False)
    attach(app, service, Access())
    try:
        yield url
    finally:
        tab.close(verbose=False)
        runner.close()
        service.close()


def check_free(address: str, port: int) -> None:
    """RequestError where nobody can listen there, before there is a page that would have to be taken down again."""
    try:
        socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError as error:
        raise RequestError("port", f"{address}:{port} cannot be had: {error.strerror}. If another program uses it, "
                                   "choose another with --port, or a different address with --listen") from error
