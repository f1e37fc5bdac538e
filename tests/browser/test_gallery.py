"""The gallery in real hosts: clicked, dragged and typed at, then compared with Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from browser.gallery import Gallery
from browser.harness import Host, JupyterServer, NotebookPage
from playwright.sync_api import Locator

Open = Callable[..., NotebookPage]

TUTORIAL = "01-first-explanation.ipynb"

# A gallery that is there in seconds, for what the tutorial's story leaves out.
SMALL = [
    """
import torch
from torch import nn
from tutorial_data import mnist
from relatif_widgets import Explainer, ExplanationWidget, RelatifError

(images, labels), (test_images, test_labels) = mnist()
shrink = lambda images: nn.functional.avg_pool2d(images[:, None].float() / 255, 4)
train_set, test_set = (shrink(images[:600]), labels[:600]), (shrink(test_images[:200]), test_labels[:200])
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(49, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(train_set[0]), train_set[1]).backward()
    optimizer.step()
explainer = Explainer(model, train_set).fit(progress=False)
""",
    "widget = ExplanationWidget(explainer, test_set)\nwidget",
]


class Strip:
    """The query strip of a gallery.

    Args:
        gallery: Of a notebook whose kernel knows `explainer` and `test_set`.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.page = gallery.page
        self.root: Locator = gallery.root.locator(".rw-strip")

    def rows(self, options: str) -> list[int]:
        """What Python says should be in it."""
        found: list[int] = self.page.evaluate_in_kernel(f"explainer.queries(test_set).rows({options})")
        return found

    def where(self) -> str:
        """ "1–12 of 200"; "200 of 200" at the end, whatever fits."""
        text = self.root.locator(".rw-where").inner_text()
        return text[text.index("–") + 1 :]

    def thumb(self, row: int) -> Locator:
        return self.root.locator(f".rw-thumb[title^='test #{row},']")

    def expect(self, rows: list[int]) -> None:
        """It holds as many rows, and begins with these.

        Raises:
            AssertionError: It does not, five seconds on.
        """
        assert rows
        read = """(thumbs) => thumbs.map((thumb) => Number(thumb.textContent.match(/^test #(\\d+)/)?.[1] ?? -1))"""
        for _ in range(100):
            found = self.root.locator(".rw-thumb").evaluate_all(read)
            total = self.root.locator(".rw-where").inner_text().split(" of ")[-1]
            begins = rows[:5]
            if total == f"{len(rows):,}" and found[: len(begins)] == begins:
                return
            self.page.page.wait_for_timeout(50)
        raise AssertionError(f"the strip shows {found} of {total}; Python has {rows[:20]} of {len(rows)}")

    def expect_in_view(self, row: int) -> None:
        """The row's thumbnail is marked, and between the strip's ends."""
        self.thumb(row).and_(self.root.locator("[aria-current]")).wait_for(state="attached")
        inside = """(thumb) => {
            const { left, right } = thumb.getBoundingClientRect();
            const ends = thumb.closest(".rw-scroller").getBoundingClientRect();
            return left >= ends.left - 1 && right <= ends.right + 1;
        }"""
        for _ in range(40):
            if self.thumb(row).evaluate(inside):
                return
            self.page.page.wait_for_timeout(50)
        raise AssertionError(f"test #{row} is out of view")


@pytest.fixture(scope="module")
def small(jupyter: JupyterServer) -> str:
    return jupyter.write_notebook("small.ipynb", SMALL)


def test_the_tutorial_ends_in_a_gallery_that_slides(open_notebook: Open, host: Host) -> None:
    page = open_notebook(TUTORIAL, host=host)
    page.page.set_viewport_size({"width": 1720, "height": 1100})  # wide enough for two panels side by side
    page.run_all(timeout=180)
    gallery = Gallery(page)

    # A 4 taken for a 9 opens with both labels side by side.
    assert page.evaluate_in_kernel("widget.labels") == ["9", "4"]
    assert gallery.root.locator(".rw-why").inner_text() == "Why “9”?"
    assert "true label 4" in gallery.root.locator(".rw-facts").inner_text()
    first, second = (gallery.root.locator(".rw-panel").nth(i).bounding_box() for i in (0, 1))
    assert first is not None
    assert second is not None
    if host == "lab":
        assert second["x"] > first["x"] + first["width"] - 1
        assert abs(second["y"] - first["y"]) < 2
    else:  # whose column is narrower: under each other, each card as large
        assert abs(second["x"] - first["x"]) < 2
        assert second["y"] > first["y"] + first["height"] - 1
    opened = gallery.expect_python_agrees()
    assert [len(cards) for cards in opened.values()] == [5, 5]

    # The damping slider, by mouse: cards change under the hand, the kernel hears on release.
    sliding, sent = gallery.drag("damping", to=1.0)
    assert sent == 0
    assert sliding != opened
    page.expect_in_kernel("widget.damping", 10.0)
    assert gallery.expect_python_agrees() == sliding
    assert gallery.value("damping") == "10"

    # And by arrow keys, which the notebook must not take for its own.
    slider = gallery.slider("damping")
    active = "window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    before = page.page.evaluate(active)
    slider.press("ArrowLeft")
    page.expect_in_kernel("widget.damping", 3.0)
    gallery.expect_python_agrees()
    for _ in range(3):
        slider.press("ArrowDown")
    page.expect_in_kernel("widget.damping", 0.1)
    gallery.expect_python_agrees()
    slider.press("Home")
    page.expect_in_kernel("widget.damping", 1e-4)
    assert page.page.evaluate(active) == before

    # Method, k, sign.
    gallery.choose("IF")
    page.expect_in_kernel("widget.method", "influence")
    by_influence = gallery.expect_python_agrees()
    gallery.choose("θ-RelatIF")
    page.expect_in_kernel("widget.method", "theta_relative")
    assert gallery.expect_python_agrees() != by_influence
    gallery.slider("k").press("ArrowRight")
    page.expect_in_kernel("widget.k", 6)
    assert [len(cards) for cards in gallery.expect_python_agrees().values()] == [6, 6]
    _, sent = gallery.drag("k", to=0.0)
    assert sent == 0
    page.expect_in_kernel("widget.k", 1)
    assert [len(cards) for cards in gallery.expect_python_agrees().values()] == [1, 1]
    gallery.slider("k").press("End")
    page.expect_in_kernel("widget.k", 20)
    gallery.choose("− harmful")
    page.expect_in_kernel("widget.sign", "negative")
    harmful = gallery.expect_python_agrees()
    assert all(score.startswith("−") for cards in harmful.values() for _, score in cards)
    gallery.choose("both")
    page.expect_in_kernel("widget.sign", "both")
    gallery.expect_python_agrees()
    gallery.choose("k-NN")
    page.expect_in_kernel("widget.method", "nearest")
    nearest = gallery.expect_python_agrees()
    assert nearest["9"] == nearest["4"]
    assert gallery.slider("damping").is_disabled()

    # Panels: remove one by its cross, add one by its probability bar.
    gallery.choose("ℓ-RelatIF")
    gallery.root.get_by_role("button", name="Remove 4").click()
    page.expect_in_kernel("widget.labels", ["9"])
    assert list(gallery.expect_python_agrees()) == ["9"]
    gallery.bar("7").click()
    page.expect_in_kernel("widget.labels", ["9", "7"])
    assert list(gallery.expect_python_agrees()) == ["9", "7"]
    gallery.bar("9").click()
    page.expect_in_kernel("widget.labels", ["7"])
    assert list(gallery.expect_python_agrees()) == ["7"]
    assert gallery.bar("7").get_attribute("aria-disabled") == "true"  # the last panel stays

    # Python sets, the gallery follows; also to a damping that was no stop.
    page.run_in_kernel(
        "widget.damping = 0.1; widget.k = 4; widget.sign = 'positive'; widget.method = 'influence'"
    )
    gallery.expect_python_agrees()
    assert (gallery.value("damping"), gallery.value("k")) == ("0.1", "4")
    page.run_in_kernel("widget.damping = 0.05")
    gallery.expect_python_agrees()
    assert gallery.value("damping") == "0.05"

    # What Python holds is what is on display.
    shown = gallery.cards()["7"]
    assert page.evaluate_in_kernel("[int(i) for i in widget.explanation.to_frame()['index']]") == [
        i for i, _ in shown
    ]


def test_moving_any_control_sends_nothing_until_it_rests(open_notebook: Open, small: str) -> None:
    page = open_notebook(small)
    page.run_all()
    gallery = Gallery(page)
    page.expect_in_kernel("widget.status", "ready")
    page.page.wait_for_timeout(500)
    for name, to in [("damping", 0.9), ("k", 0.7), ("damping", 0.0)]:
        before = page.comm_messages
        opened = gallery.cards()
        sliding, sent = gallery.drag(name, to=to, steps=25)
        assert sliding != opened
        assert sent == 0
        page.page.wait_for_timeout(300)
        assert page.comm_messages - before == 1  # one trait, once, on release
        gallery.expect_python_agrees()


def test_the_strip_picks_queries(open_notebook: Open, small: str, host: Host) -> None:
    page = open_notebook(small, host=host)
    page.run_all()
    gallery = Gallery(page)
    strip = Strip(gallery)
    queries = "explainer.queries(test_set)"
    wrong = strip.rows("'misclassified'")
    close = strip.rows("'close'")
    assert strip.root.locator(".rw-chip").all_inner_texts() == [
        "all 200",
        f"misclassified {len(wrong)}",
        f"close calls {len(close)}",
    ]
    strip.expect(list(range(200)))

    gallery.choose("misclassified")
    strip.expect(wrong)
    strip.thumb(wrong[1]).click()
    gallery.expect_query(wrong[1])
    assert page.evaluate_in_kernel("widget.labels") == page.evaluate_in_kernel(
        f"{queries}.default_labels({wrong[1]})"
    )
    assert len(gallery.expect_python_agrees()) == 2  # wrong: the true label beside it
    current = strip.root.locator("[aria-current]")
    assert current.get_attribute("title").startswith(f"test #{wrong[1]},")
    assert "misclassified" in current.get_attribute("title")
    assert current.locator(".rw-thumb-label").inner_text().startswith("▲")

    # Arrow keys walk the strip, Enter picks.
    strip.thumb(wrong[1]).press("ArrowRight")
    page.page.keyboard.press("Enter")
    gallery.expect_query(wrong[2])
    gallery.expect_python_agrees()

    # End and Home reach both ends of the whole test set, and the focus waits for what loads.
    strip.root.locator(".rw-clear").click()
    strip.expect(list(range(200)))
    strip.thumb(0).press("End")
    focused = strip.root.locator(".rw-thumb:focus")
    focused.get_by_text("test #199:").wait_for(state="attached")
    assert strip.where() == "200 of 200"
    page.page.keyboard.press("PageUp")
    page.page.keyboard.press("Space")
    picked = int(focused.inner_text().split("#")[1].split(":")[0])
    assert 170 < picked < 199
    gallery.expect_query(picked)
    page.page.keyboard.press("Home")
    focused.get_by_text("test #0:").wait_for(state="attached")

    # By number, and from Python: the strip goes where the query is.
    jump = strip.root.locator(".rw-jump")
    jump.fill("150")
    jump.press("Enter")
    gallery.expect_query(150)
    gallery.expect_python_agrees()
    assert "test #150" in gallery.root.locator(".rw-facts").inner_text()
    strip.expect_in_view(150)
    page.page.wait_for_timeout(1100)  # no hand at the strip
    page.run_in_kernel("widget.query = 42")
    gallery.expect_query(42)
    gallery.expect_python_agrees()
    assert "test #42" in gallery.root.locator(".rw-facts").inner_text()
    strip.expect_in_view(42)
    jump.fill("200")
    jump.press("Enter")
    strip.root.get_by_role("alert").get_by_text("expected 0 to 199").wait_for()
    page.expect_in_kernel("widget.query", 42)


def test_the_strip_filters_and_sorts_as_python_does(open_notebook: Open, small: str) -> None:
    page = open_notebook(small)
    page.run_all()
    gallery = Gallery(page)
    strip = Strip(gallery)
    strip.expect(list(range(200)))
    predicted, true, order = (strip.root.get_by_label(name) for name in ("predicted:", "true:", "sort:"))

    predicted.select_option("9")
    strip.expect(strip.rows("predicted='9'"))
    true.select_option("4")
    strip.expect(strip.rows("predicted='9', label='4'"))
    predicted.select_option("any")
    strip.expect(strip.rows("label='4'"))
    order.select_option("highest loss")
    strip.expect(strip.rows("label='4', sort='loss', descending=True"))
    true.select_option("any")
    for text, options in [
        ("highest loss", "sort='loss', descending=True"),
        ("lowest loss", "sort='loss'"),
        ("lowest confidence", "sort='confidence'"),
        ("highest confidence", "sort='confidence', descending=True"),
        ("closest call", "sort='margin'"),
    ]:
        order.select_option(text)
        strip.expect(strip.rows(options))
    low, high = (
        strip.root.get_by_role("spinbutton", name=f"{end} confidence") for end in ("Lowest", "Highest")
    )
    low.fill("0.3")
    high.fill("0.6")
    high.press("Enter")
    strip.expect(strip.rows("confidence=(0.3, 0.6), sort='margin'"))
    gallery.choose("misclassified")
    strip.expect(strip.rows("'misclassified', confidence=(0.3, 0.6), sort='margin'"))
    assert strip.root.get_by_label("Search the test examples").is_hidden()  # pictures

    # All the way along, thumbnail by thumbnail, it is Python's order.
    strip.root.locator(".rw-clear").click()
    order.select_option("highest loss")
    rows = strip.rows("sort='loss', descending=True")
    strip.expect(rows)
    strip.thumb(rows[0]).focus()
    seen = []
    for row in rows[:60]:
        focused = strip.root.locator(".rw-thumb:focus")
        focused.get_by_text(f"test #{row}:").wait_for(state="attached")
        seen.append(row)
        page.page.keyboard.press("ArrowRight")
    assert seen == rows[:60]


def test_the_strip_searches_texts(open_notebook: Open, jupyter: JupyterServer) -> None:
    cells = [
        *SMALL[:1],
        "words = ['a <b>bold</b> bird', 'Two Birds', 'a plane', 'no such thing']\n"
        "show = lambda image: words[int(1000 * float(image.sum())) % 4]\n"
        "explainer = Explainer(model, train_set, render=show).fit(progress=False)",
        SMALL[1],
    ]
    page = open_notebook(jupyter.write_notebook("texts.ipynb", cells))
    page.run_all()
    gallery = Gallery(page)
    strip = Strip(gallery)
    strip.expect(list(range(200)))
    search = strip.root.get_by_label("Search the test examples")
    search.press_sequentially("bird", delay=20)
    rows = strip.rows("search='bird'")
    assert 0 < len(rows) < 200
    strip.expect(rows)
    search.fill("<B>")
    strip.expect(strip.rows("search='<b>'"))
    assert set(strip.root.locator(".rw-thumb-text").all_inner_texts()) == {"a <b>bold</b> bird"}
    search.fill("nothing of the kind")
    strip.root.get_by_text("No test example passes these filters.").wait_for()
    strip.root.locator(".rw-clear").click()
    strip.expect(list(range(200)))


def test_the_keyboard_reaches_every_control(open_notebook: Open, small: str, host: Host) -> None:
    page = open_notebook(small, host=host)
    page.run_all()
    page.run_in_kernel("widget.query = 1")
    gallery = Gallery(page)
    page.expect_in_kernel("widget.status", "ready")
    cells = "window.jupyterapp.shell.currentWidget.content.widgets.length"
    before = page.page.evaluate(cells)
    keyboard = page.page.keyboard

    gallery.root.locator(".rw-segments input[value=loss_relative]").focus()
    keyboard.press("ArrowLeft")
    page.expect_in_kernel("widget.method", "theta_relative")
    keyboard.press("ArrowLeft")
    page.expect_in_kernel("widget.method", "influence")
    keyboard.press("Tab")  # k
    keyboard.press("ArrowRight")
    page.expect_in_kernel("widget.k", 6)
    keyboard.press("Tab")  # damping
    keyboard.press("ArrowRight")
    page.expect_in_kernel("widget.damping", 3e-3)
    keyboard.press("Tab")  # sign
    keyboard.press("ArrowRight")
    page.expect_in_kernel("widget.sign", "negative")
    gallery.expect_python_agrees()
    keyboard.press("Tab")  # compare
    keyboard.press("Space")
    page.expect_in_kernel("widget.compare", ["loss_relative"])
    keyboard.press("Space")
    page.expect_in_kernel("widget.compare", [])

    bars = gallery.root.locator(".rw-label")
    closed = bars.and_(gallery.root.locator("[aria-pressed=false]")).first
    name = closed.locator(".rw-name").inner_text()
    closed.focus()
    keyboard.press("Space")
    page.expect_in_kernel(f"{name!r} in widget.labels", True)
    page.expect_in_kernel("widget.status", "ready")
    gallery.expect_python_agrees()

    cards = gallery.root.locator(".rw-panel").first.locator(".rw-face")
    cards.first.focus()
    for key, at in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 5), ("Home", 0)]:
        keyboard.press(key)
        assert cards.nth(at).evaluate("(card) => card === document.activeElement"), key
    name = gallery.root.locator(".rw-panel-name").last.inner_text()
    gallery.root.get_by_role("button", name=f"Remove {name}").press("Enter")
    page.expect_in_kernel(f"{name!r} in widget.labels", False)
    gallery.root.locator("input[value=all]").press("ArrowRight")  # the strip's filter
    wrong = page.evaluate_in_kernel("explainer.queries(test_set).rows('misclassified')")
    gallery.root.locator(".rw-thumb").first.get_by_text(f"test #{wrong[0]}").wait_for(state="attached")
    cards.first.focus()

    # Keys that Jupyter knows in command mode: b adds a cell, d d deletes one, x cuts it.
    for key in "bddxm":
        keyboard.press(key)
    assert page.page.evaluate(cells) == before


def test_progress_is_seen_and_the_old_picture_stays_usable(open_notebook: Open, small: str) -> None:
    page = open_notebook(small)
    page.run_all()
    gallery = Gallery(page)
    gallery.expect_query(0)
    page.run_in_kernel(
        "import threading\n"
        "from relatif_widgets.queries import QuerySet\n"
        "plain, go_on = QuerySet.explain, threading.Event()\n"
        "def slow(self, row, *args, progress=None, **options):\n"
        "    progress(0.42)\n"
        "    go_on.wait(20)\n"
        "    return plain(self, row, *args, progress=progress, **options)\n"
        "QuerySet.explain = slow\n"
        "widget.query = 8"
    )
    bar = gallery.root.get_by_role("progressbar")
    bar.wait_for()
    page.page.wait_for_function(
        "() => document.querySelector('.rw-root [role=progressbar]').getAttribute('aria-valuenow') === '42'"
    )
    assert gallery.root.get_by_role("status").inner_text() == "Preparing test #8…"
    assert "test #0" in gallery.root.locator(".rw-facts").inner_text()
    before = gallery.cards()
    sliding, _ = gallery.drag("k", to=1.0)
    assert sliding != before
    page.run_in_kernel("go_on.set()")
    gallery.expect_query(8)
    bar.wait_for(state="hidden")
    gallery.expect_python_agrees()


def test_an_error_is_read_in_the_gallery_and_the_next_pick_recovers(open_notebook: Open, small: str) -> None:
    page = open_notebook(small)
    page.run_all()
    gallery = Gallery(page)
    page.expect_in_kernel("widget.status", "ready")
    page.run_in_kernel(
        "from relatif_widgets.queries import QuerySet\n"
        "plain = QuerySet.explain\n"
        "def broken(self, *args, **options):\n"
        "    raise RelatifError('the <b>gradient</b> for example 3 is NaN')\n"
        "QuerySet.explain = broken\n"
        "widget.query = 5"
    )
    alert = gallery.root.get_by_role("alert")
    alert.wait_for()
    said = "Test #5: the <b>gradient</b> for example 3 is NaN"  # text, never markup
    assert alert.inner_text() == said
    page.run_in_kernel("QuerySet.explain = plain")
    gallery.root.locator(".rw-thumb").nth(6).click()
    gallery.expect_query(6)
    alert.wait_for(state="hidden")
    gallery.expect_python_agrees()


def test_screenshots_of_the_gallery(open_notebook: Open, tmp_path: Path) -> None:
    """Light and dark, for the README; RELATIF_SCREENSHOTS names the folder to keep them in."""
    folder = Path(os.environ.get("RELATIF_SCREENSHOTS") or tmp_path)
    page = open_notebook(TUTORIAL)
    page.page.set_viewport_size({"width": 1720, "height": 1100})
    page.run_all(timeout=180)
    gallery = Gallery(page)
    page.expect_in_kernel("widget.status", "ready")
    gallery.root.locator(".rw-thumb").first.wait_for()
    page.page.mouse.move(0, 0)
    colours = []
    for name, dark in [("light", False), ("dark", True)]:
        page.set_theme(dark=dark)
        page.page.wait_for_timeout(500)
        gallery.root.screenshot(path=folder / f"gallery-{name}.png", scale="css")
        colours.append(
            gallery.root.locator(".rw-frame").evaluate(
                "(frame) => [getComputedStyle(frame).backgroundColor, getComputedStyle(frame).color]"
            )
        )
    for name, dark in [("light", False), ("dark", True)]:
        page.set_theme(dark=dark)
        gallery.root.get_by_role("checkbox", name="compare").check()
        gallery.bar("4").click()
        page.expect_in_kernel("[widget.compare, widget.labels]", [["influence"], ["9"]])
        gallery.root.locator(".rw-face").nth(1).click()
        page.page.mouse.move(0, 0)
        page.page.wait_for_timeout(500)
        gallery.root.screenshot(path=folder / f"compare-{name}.png", scale="css")
        page.page.keyboard.press("Enter")
        gallery.root.get_by_role("dialog").locator("img").nth(1).wait_for()
        page.page.wait_for_timeout(300)
        page.page.screenshot(path=folder / f"closer-{name}.png", scale="css")
        page.page.keyboard.press("Escape")
        gallery.root.locator(".rw-face").nth(1).click()
        gallery.root.get_by_role("checkbox", name="compare").uncheck()
        gallery.bar("4").click()
        page.expect_in_kernel("[widget.compare, widget.labels]", [[], ["9", "4"]])
    (light_back, light_ink), (dark_back, dark_ink) = [[_luminance(c) for c in pair] for pair in colours]
    assert light_back > 0.9
    assert light_ink < 0.3
    assert dark_back < 0.2
    assert dark_ink > 0.6


def _luminance(colour: str) -> float:
    red, green, blue = (float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_two_galleries_in_one_notebook_keep_to_themselves(
    open_notebook: Open, jupyter: JupyterServer
) -> None:
    cells = [*SMALL, "other = ExplanationWidget(explainer, test_set, query=1, method='influence')\nother"]
    page = open_notebook(jupyter.write_notebook("two.ipynb", cells))
    page.run_all()
    roots = page.locator(".rw-root")
    roots.nth(1).locator(".rw-card").first.wait_for()
    checked = [root.locator("[name^=rw-method] >> nth=0").get_attribute("name") for root in roots.all()]
    assert len(set(checked)) == 2
    roots.nth(0).get_by_role("radio", name="k-NN").click()
    page.expect_in_kernel("[widget.method, other.method]", ["nearest", "influence"])
    assert roots.nth(1).locator(".rw-segments input[value=influence]").is_checked()


def test_a_bar_keeps_the_focus_while_its_panel_is_prepared(open_notebook: Open, small: str) -> None:
    page = open_notebook(small)
    page.run_all()
    gallery = Gallery(page)
    gallery.expect_query(0)
    closed = gallery.root.locator(".rw-label[aria-pressed=false]").first
    name = closed.locator(".rw-name").inner_text()
    closed.focus()
    page.page.keyboard.press("Enter")
    page.expect_in_kernel(f"[{name!r} in widget.labels, widget.status]", [True, "ready"])
    gallery.expect_python_agrees()
    assert gallery.bar(name).evaluate("(bar) => bar === document.activeElement")


def test_cards_selected_tagged_and_compared_reach_the_kernel(
    open_notebook: Open, small: str, host: Host
) -> None:
    page = open_notebook(small, host=host)
    page.run_all()
    gallery = Gallery(page)
    gallery.expect_query(0)
    shown = [index for cards in gallery.cards().values() for index, _ in cards]
    cards = gallery.root.locator(".rw-face")
    cards.first.click()
    cards.nth(2).click(modifiers=["Shift"])
    page.expect_in_kernel("widget.selection", shown[:3])
    assert page.evaluate_in_kernel("widget.selected()['index'].tolist()") == shown[:3]

    # Keys that Jupyter knows in command mode, typed into the widget's own text field.
    bar = gallery.root.get_by_role("group", name="Selected training examples")
    bar.get_by_role("textbox").click()
    page.page.keyboard.type("bad dx mbb")
    page.page.keyboard.press("Enter")
    page.expect_in_kernel(
        "{k: v for k, v in widget.tags.items()} == {i: ['bad dx mbb'] for i in widget.selection}", True
    )
    bar.get_by_role("button", name="outlier").click()
    page.expect_in_kernel(f"explainer.tags[{shown[0]}]", ["bad dx mbb", "outlier"])

    gallery.root.get_by_role("checkbox", name="compare").check()
    page.expect_in_kernel("widget.compare", ["influence"])
    rows = gallery.root.locator(".rw-row-of")
    found = [
        [
            int(i)
            for i in rows.nth(at).locator(".rw-card").evaluate_all("(c) => c.map((x) => x.dataset.index)")
        ]
        for at in range(rows.count())
    ]
    assert [index for row in found for index in row] == page.evaluate_in_kernel(
        "widget.to_frame()['index'].tolist()"
    )

    # A card opened with Enter, and closed with Escape, keeps its selection.
    cards.first.press("Enter")
    dialog = gallery.root.get_by_role("dialog")
    dialog.wait_for()
    page.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.expect_in_kernel("len(widget.selection)", 3)
    page.page.keyboard.press("Escape")
    page.expect_in_kernel("widget.selection", [])

    # Standard sliders follow, both ways.
    page.run_in_kernel(
        "import ipywidgets\nslider = ipywidgets.IntSlider(5, 1, 20)\nipywidgets.link((slider, 'value'), (widget, 'k'))"
    )
    gallery.slider("k").press("ArrowRight")
    page.expect_in_kernel("slider.value", 6)
    page.run_in_kernel("slider.value = 2")
    page.page.wait_for_function(
        "() => document.querySelectorAll('.rw-root .rw-row-of:first-child .rw-card').length === 2"
    )


def test_more_like_this_and_a_check_by_retraining(open_notebook: Open, small: str, host: Host) -> None:
    page = open_notebook(small, host=host)
    page.run_all()
    gallery = Gallery(page)
    gallery.expect_query(0)
    (index, _), *_ = next(iter(gallery.cards().values()))
    gallery.root.locator(".rw-face").first.click()
    bar = gallery.root.get_by_role("group", name="Selected training examples")
    bar.get_by_role("button", name="More like this").click()
    likes = gallery.root.locator(".rw-likes")
    likes.locator(".rw-card").first.wait_for()
    shown = likes.locator(".rw-card").evaluate_all("(c) => c.map((x) => Number(x.dataset.index))")
    assert shown == page.evaluate_in_kernel(
        f"(lambda d: [e.index for e, _ in d.top(d.labels[0])])(explainer.more_like({index}))"
    )
    page.expect_in_kernel("widget.like", index)

    bar.get_by_role("button", name="Check by retraining").click()
    line = gallery.root.locator(".rw-check-line").first
    line.wait_for(timeout=60_000)
    check = page.evaluate_in_kernel("widget.checks().iloc[0].to_dict()")
    actual, predicted = (
        float(text.replace("−", "-").replace("+", "")) for text in line.locator(".rw-num").all_inner_texts()
    )
    assert actual == pytest.approx(check["actual"], rel=0.01)
    assert predicted == pytest.approx(check["predicted"], rel=0.01)
    assert actual == pytest.approx(predicted, rel=0.5)


def test_running_the_cell_again_keeps_tags_and_lets_go_of_the_rest(
    open_notebook: Open, jupyter: JupyterServer
) -> None:
    page = open_notebook(jupyter.write_notebook("again.ipynb", SMALL))
    page.run_all()
    gallery = Gallery(page)
    gallery.root.locator(".rw-face").first.click()
    gallery.root.get_by_role("group", name="Selected training examples").get_by_role(
        "button", name="duplicate"
    ).click()
    page.expect_in_kernel("list(explainer.tags.value.values())", [["duplicate"]])
    page.run_in_kernel("import threading, gc, weakref\nmade, before = [], threading.active_count()")
    for _ in range(20):
        page.run_in_kernel("made.append(weakref.ref(widget._prepared))")
        page.page.evaluate(
            """async () => {
                const panel = window.jupyterapp.shell.currentWidget;
                panel.content.activeCellIndex = panel.content.widgets.length - 1;
                await window.jupyterapp.commands.execute("notebook:run-cell");
            }"""
        )
    gallery.root.locator(".rw-card").first.wait_for()
    page.expect_in_kernel("widget.status", "ready")
    assert gallery.root.count() == 1
    assert gallery.root.locator(".rw-tags:visible").first.inner_text().endswith("duplicate")
    page.expect_in_kernel(
        "(gc.collect(), [sum(ref() is not None for ref in made), threading.active_count() <= before + 1])[1]",
        [0, True],
    )


def test_a_restarted_kernel_is_said(open_notebook: Open, jupyter: JupyterServer) -> None:
    page = open_notebook(jupyter.write_notebook("restarted.ipynb", SMALL))
    page.run_all()
    gallery = Gallery(page)
    gallery.expect_query(0)
    page.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.page.wait_for_timeout(1000)
    gallery.root.locator(".rw-thumb").nth(4).click()
    alert = gallery.root.get_by_role("alert")
    alert.wait_for(timeout=20_000)
    assert "The kernel does not answer" in alert.inner_text()


def test_a_notebook_grows_by_little_however_much_is_looked_at(
    open_notebook: Open, jupyter: JupyterServer
) -> None:
    path = jupyter.write_notebook("grows.ipynb", SMALL)
    page = open_notebook(path)
    before = (jupyter.root / path).stat().st_size
    page.run_all()
    gallery = Gallery(page)
    gallery.expect_query(0)
    page.page.wait_for_timeout(300)
    page.save()
    once = (jupyter.root / path).stat().st_size
    strip = gallery.root.locator(".rw-strip")
    for row in range(1, 11):
        strip.locator(".rw-thumb").nth(row).click()
        gallery.expect_query(row)
    page.page.wait_for_timeout(300)
    page.save()
    last = (jupyter.root / path).stat().st_size
    # The explanation on display is kept, and none of those before it.
    assert 5_000 < once - before < 150_000
    assert 5_000 < last - before < 150_000
