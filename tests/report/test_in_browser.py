"""The page as people see it: in a headless Chromium, if there is one."""

import shutil
from urllib.parse import quote

import pytest

from anomalib_students.model.post_processor import Decision
from anomalib_students.report.page import render_page
from anomalib_students.report.results import Thresholds

webdriver = pytest.importorskip("selenium.webdriver")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with its driver")

PHONE = 360
"""Width of a small phone in pixels."""


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, results, datamodule, tmp_path):
    """The browser, with a page of nine images that are decided at 0.5."""
    datamodule.setup()
    thresholds = Thresholds(0.5, 0.5, Decision("normal", 0.01, 26, 0.002, 0.06))
    path = tmp_path / "report #1.html"
    path.write_text(render_page(results, thresholds, datamodule, "UninformedStudents", None, 500))
    show(browser, path)
    return browser


def show(browser, path, width=1200):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"file://{quote(str(path))}")


def names(page):
    """Names of the images that are seen, in their order on the page."""
    return page.execute_script(
        "return [...document.querySelectorAll('.card')].filter(card => card.offsetParent)"
        ".map(card => card.querySelector('h3').textContent)"
    )


def choose(page, control, value):
    page.execute_script(
        "const control = document.getElementById(arguments[0]);"
        "if (control.type === 'checkbox') control.checked = arguments[1]; else control.value = arguments[1];"
        "control.dispatchEvent(new Event('input', {bubbles: true}));",
        control,
        value,
    )


def test_all_pictures_are_drawn_and_nothing_is_asked_from_a_network(page):
    sizes = page.execute_script("return [...document.images].map(image => image.complete && image.naturalWidth)")
    # Three figures, two pictures of each image, and two outlines for each of the five defective ones.
    assert len(sizes) == 3 + 2 * 9 + 2 * 5
    assert all(sizes)
    assert [entry["message"] for entry in page.get_log("browser")] == []
    asked = [
        entry["message"] for entry in page.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert asked
    assert not [message for message in asked if '"url":"http' in message]


def test_mistakes_are_first_until_another_order_is_chosen(page):
    assert names(page)[:3] == ["good/003", "crack/002", "dent/001"]
    choose(page, "order", "highest")
    assert names(page)[:3] == ["crack/000", "dent/000", "good/003"]
    choose(page, "order", "lowest")
    assert names(page)[:3] == ["good/000", "crack/002", "good/001"]
    choose(page, "order", "name")
    assert names(page)[:4] == ["crack/000", "crack/001", "crack/002", "dent/000"]
    choose(page, "order", "")
    assert names(page)[:3] == ["good/003", "crack/002", "dent/001"]


def test_images_are_filtered(page):
    choose(page, "outcome", "missed")
    assert names(page) == ["crack/002", "dent/001"]
    choose(page, "kind", "dent")
    assert names(page) == ["dent/001"]
    assert page.execute_script("return document.getElementById('shown').textContent") == "1 of 9"
    choose(page, "outcome", "")
    assert names(page) == ["dent/001", "dent/000"]
    choose(page, "kind", "")
    choose(page, "name", "CRACK/00")
    assert names(page) == ["crack/002", "crack/001", "crack/000"]
    choose(page, "name", "")
    assert len(names(page)) == 9


def test_outlines_can_be_taken_away(page):
    seen = "return [...document.querySelectorAll('img.outline')].filter(image => image.offsetParent).length"
    assert page.execute_script(seen) == 10
    choose(page, "outlines", False)
    assert page.execute_script(seen) == 0


def test_an_outline_lies_exactly_over_its_picture(page):
    rectangles = page.execute_script(
        "return [...document.querySelectorAll('img.outline')].map(outline =>"
        " [outline, outline.previousElementSibling].map(image => image.getBoundingClientRect().toJSON()))"
    )
    assert len(rectangles) == 10
    for outline, picture in rectangles:
        assert outline == pytest.approx(picture, abs=0.1)


def test_pictures_are_enlarged_and_reduced(page):
    picture = page.find_element("css selector", ".card img")
    width = picture.rect["width"]
    picture.click()
    assert picture.rect["width"] > 1.5 * width
    picture.click()
    assert picture.rect["width"] == width


def test_a_phone_shows_all_without_scrolling_sideways(page, tmp_path):
    (path,) = tmp_path.glob("*.html")
    show(page, path, PHONE)
    assert page.execute_script("return document.documentElement.scrollWidth") == PHONE
    outside = page.execute_script(
        "return [...document.querySelectorAll('img, p, h1, h2, h3, select, input, .bar')].filter(element => {"
        " const {left, right, width} = element.getBoundingClientRect();"
        " return width && (left < 0 || right > arguments[0]); }).map(element => element.outerHTML)",
        PHONE,
    )
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page, scheme):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        for selector in ("body", ".aside", ".outcome", "figcaption"):
            ratio = page.execute_script(CONTRAST, selector)
            # The least for text by WCAG 2.1, AA.
            assert ratio >= 4.5, selector
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CONTRAST = """
const luminance = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const text = getComputedStyle(document.querySelector(arguments[0])).color;
const ground = getComputedStyle(document.body).backgroundColor;
const [low, high] = [luminance(text), luminance(ground)].sort((a, b) => a - b);
return (high + 0.05) / (low + 0.05);
"""
