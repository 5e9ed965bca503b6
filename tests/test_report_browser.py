"""What a reader meets who opens the page: offline, in light and dark, with a keyboard, without JavaScript, on paper."""

import shutil

import pytest
import torch

from kernelscope.report import Report
from tests.synthetic import explanation, ledger

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the path")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    targets = torch.tensor([0, 1])
    results = ["A page for a test.", ("One run", explanation(q=2, targets=targets)),
               ("Another run", explanation(q=2, seed=3, drift=0.5, steps=8)), ("A ledger", ledger(q=1)),
               ("An output", explanation(q=1, kind="output", outputs=None, x=torch.ones(1, 5),
                                         samples=torch.arange(200.0).reshape(40, 5)))]
    return Report("A page", results, provenance={"seed": 0}).save(path).as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page as asked and afterwards looks at what it asked for and what went wrong."""
    contexts, requests, problems = [], [], []

    def open_(url=address, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert problems == []


def unfold(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")


@pytest.mark.parametrize(("scheme", "switched"), [("light", False), ("dark", False), ("light", True)])
def test_nothing_on_the_page_keeps_anyone_out(opened, scheme, switched):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = opened(color_scheme=scheme)
    unfold(page)
    if switched:
        while page.locator("#theme").inner_text() != "Theme: dark":
            page.locator("#theme").click()
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_switch_changes_light_and_dark_whatever_the_system_says(opened):
    page = opened(color_scheme="dark")
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = ground()
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    light = ground()
    assert light != dark
    page.keyboard.press("Enter")
    assert ground() == dark
    assert opened(color_scheme="light").evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_the_keyboard_moves_through_training(opened):
    page = opened()
    slider = page.locator("input[type=range]").first
    slider.focus()
    last = slider.get_attribute("aria-valuetext")
    scene = page.locator(".scene").first
    before = scene.inner_text()
    page.keyboard.press("Home")
    first = slider.get_attribute("aria-valuetext")
    assert first.startswith("Step 0 of 30")
    assert last.startswith("Step 30 of 30")
    assert scene.inner_text() != before
    assert "▲" not in scene.inner_text().partition("booked on each group by then")[2]  # nothing yet
    assert page.locator(".cursor").first.get_attribute("x1") == "0"
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") not in (first, last)
    page.keyboard.press("End")
    assert scene.inner_text() == before


def test_at_every_moment_bars_and_numbers_are_those_of_the_table(opened):
    page = opened()
    rows = page.evaluate(
        "[...document.querySelectorAll('#section-1-0-frames tbody tr')]"
        ".map(row => [...row.children].map(cell => cell.textContent))"
    )
    slider = page.locator("input[type=range]").first
    slider.focus()
    page.keyboard.press("Home")
    for row in rows:
        shown = page.evaluate(
            "[...document.querySelector('.scene').querySelectorAll('tr[data-column]')].map(r => [+r.dataset.column,"
            " r.querySelector('.number').textContent,"
            " +r.querySelector('rect').getAttribute('width')])"
        )
        assert slider.get_attribute("aria-valuetext") == row[1]
        for column, text, width in shown:
            assert text == row[column]
            assert (width == 0) == (float(text.split()[-1].replace("−", "-").strip("<>")) == 0)
        page.keyboard.press("ArrowRight")


def test_without_javascript_everything_essential_is_readable(opened):
    page = opened(java_script_enabled=False)
    text = page.locator("main").inner_text()
    for words in ("The network predicts class 0", "Which groups of training samples pushed", "It closes.",
                  "What these numbers are not", "▲"):
        assert words in text
    table = page.locator("#section-1-0-frames")
    assert table.is_visible()
    assert "Step 30 of 30" in table.inner_text()
    assert page.locator(".chart svg").first.is_visible()
    assert not page.locator("#theme").is_visible()
    assert not page.locator("input[type=range]").first.is_visible()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_screen_is_too_narrow_for_the_page(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_no_name_is_so_long_that_it_widens_the_page(opened, width, tmp_path):
    names = ["w" * 5000, "x " * 2500, "y" * 300, "z-" * 100]
    why = explanation(q=2, names=names, targets=torch.tensor([0, 1]))
    path = Report("t" * 3000, ["p" * 5000, ("h" * 2000, why), ("g" * 2000, explanation(q=2, names=names)),
                               ("i" * 200, why.decomposition)],
                  provenance={"k" * 500: "v" * 5000}).save(tmp_path / "long.html")
    page = opened(path.as_uri(), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
@pytest.mark.parametrize("kind", ["margin", "output"])
def test_the_first_screen_has_the_answer_the_sentence_and_samples(opened, kind, width, height, tmp_path):
    options = {} if kind == "margin" else {"outputs": None, "x": torch.rand(3, 5), "samples": torch.rand(40, 5)}
    why = explanation(kind=kind, k=8, drift=0.0, **options)
    lead = "A network of 2,410 parameters learned from 1,437 handwritten digits, and what it says of others is below."
    path = Report("Why does it answer so?", [lead, why]).save(tmp_path / "page.html")
    page = opened(path.as_uri(), viewport={"width": width, "height": height})
    for part in ("summary h3", ".why", ".side.up", ".cards li:first-child .number"):
        box = page.locator(part).first.bounding_box()
        assert box["y"] + box["height"] <= height, part


def test_every_case_opens_by_keyboard(opened):
    page = opened()
    summary = page.locator("details.case > summary").nth(1)
    body = page.locator("details.case").nth(1).locator(".case-body")
    assert not body.is_visible()
    summary.focus()
    page.keyboard.press("Enter")
    assert body.is_visible()


def test_on_paper_every_case_is_unfolded_on_white(opened):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("details.case").nth(1).locator(".case-body").is_visible()
    assert not page.locator(".scene").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 29, 34)"


def test_hostile_words_run_nothing(opened, tmp_path):
    hostile = ["<script>console.log(1)</script>", "<img src=x onerror=console.log(2)>", "</style><b>",
               "'\"><svg onload=x>"]
    path = Report(hostile[0], [hostile[1], (hostile[2], explanation(names=hostile))]).save(tmp_path / "hostile.html")
    page = opened(path.as_uri())
    assert page.title() == hostile[0]
    assert page.locator("h1").inner_text() == hostile[0]
    assert page.locator("h2").first.inner_text() == hostile[2]
    assert page.locator("main script, main b svg, main [onload], main [onerror]").count() == 0
