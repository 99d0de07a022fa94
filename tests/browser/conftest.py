"""One browser, one JupyterLab, one Voila and one run of each notebook for all tests here."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Error, Playwright, sync_playwright

from .pages import Watched, open_page, run_in_app, run_in_lab
from .servers import Workplace, notebook_name

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING = (
    "No Chromium starts, so the viewers cannot be tested. Install one: `apt-get install chromium` "
    "or `.venv/bin/python -m playwright install --with-deps chromium`; or name one: "
    "CHROMIUM=/path/to/chromium."
)
LINES = pytest.StashKey[list[str]]()  # said at the end of the run


def launch(playwright: Playwright) -> Browser | None:
    """The first that starts of CHROMIUM, those of the system, and Playwright's own."""
    system = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)]
    for path in [*filter(None, system), playwright.chromium.executable_path]:
        try:
            return playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except Error:
            continue
    return None


@pytest.fixture(scope="package")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Chromium; without one, tests fail in continuous integration and are skipped elsewhere."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            request.config.stash.setdefault(LINES, []).append(MISSING)
            (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    # A run that is told to end, by a time limit say, ends its servers too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield Workplace(tmp_path_factory.mktemp("workplace") / "checkout")
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="package")
def lab(workplace: Workplace, browser: Browser) -> Iterator[str]:
    with workplace.lab() as address:
        yield address


@pytest.fixture(scope="package")
def app(workplace: Workplace, browser: Browser) -> Iterator[str]:
    with workplace.app() as address:
        yield address


@pytest.fixture(scope="package")
def opened(browser: Browser, lab: str, app: str) -> Callable[[str, str], Watched]:
    """Open a notebook in "lab", or the page of "app", run it, and keep it for later tests."""
    pages: dict[tuple[str, str], Watched] = {}

    def open_notebook(host: str, number: str) -> Watched:
        key = (host, number if host == "lab" else "")
        if key not in pages:
            watched = pages[key] = open_page(browser)
            if host == "lab":
                run_in_lab(watched, lab, notebook_name(number))
            else:
                run_in_app(watched, app)
        return pages[key]

    return open_notebook


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in terminalreporter.config.stash.get(LINES, []):
        terminalreporter.write_line(line)
