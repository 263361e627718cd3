"""A browser, and the tab in it: of our own server, or of the web UI at `--url`.

    make test-browser                                                    # alone
    .venv/bin/python -m pytest tests/browser --url http://127.0.0.1:7860   # a web UI with this extension
    .venv/bin/python -m pytest tests/browser --shots FOLDER                # and pictures of what it looks like
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.page import LIVE, OpenTab, Tab
from tests.browser.places import WEB_UI_NOISE, Place, standalone

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync",
         # The same with and without a net: fonts and the like from elsewhere are never found.
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--url", help="of a web UI that runs already; without it, our own server is started")
    parser.addoption("--shots", type=Path, metavar="FOLDER", help="where pictures of the tab go")


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where the tab is."""
    url = request.config.getoption("--url")
    if url:
        yield Place(url.rstrip("/") + "/", noise=WEB_UI_NOISE)
        return
    with standalone(tmp_path_factory.mktemp("t2v")) as alone:
        yield alone


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; one that Playwright downloads would lack the codec of our films."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "these tests need Chromium; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser: Browser, place: Place) -> Iterator[OpenTab]:
    """Opens the tab in a window of its own, as often as asked. Afterwards no job is left, and no script has failed."""
    with ExitStack() as windows:
        tabs: list[Tab] = []

        def opened(query: str = "", width: int = 1400) -> Tab:
            context = browser.new_context(viewport={"width": width, "height": 1000})
            windows.callback(context.close)
            tabs.append(Tab(context.new_page(), place))
            return tabs[-1].open(query)

        yield opened
        for tab in tabs:
            if tab.state in LIVE:
                tab.press("interrupt")
                tab.finish()
        complaints = "\n".join(complaint for tab in tabs for complaint in tab.complaints)
        assert not complaints, complaints


@pytest.fixture
def tab(open_tab: OpenTab) -> Tab:
    """The tab in a wide window."""
    return open_tab()


@pytest.fixture
def hosted(place: Place) -> None:
    """For tests of what only a web UI has."""
    if not place.hosted:
        pytest.skip("is about a web UI around the tab; --url says where one runs")


@pytest.fixture
def alone(place: Place) -> None:
    """For tests that need the server's folders."""
    if place.hosted:
        pytest.skip("needs to delete a model's folder, and those of a web UI are not ours")


@pytest.fixture
def shots(request: pytest.FixtureRequest) -> Path | None:
    """Where pictures of the tab go, if they are wanted."""
    folder: Path | None = request.config.getoption("--shots")
    return folder
