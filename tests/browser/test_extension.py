"""What the JupyterLab extension adds: live outputs that outlive their kernel, commands, settings, a list."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from browser.gallery import Gallery
from browser.harness import Host, JupyterServer, NotebookPage
from browser.test_documents import expected, shown, write
from playwright.sync_api import Browser, Locator, Page

from relatif_widgets import Explanation, Report

Open = Callable[..., NotebookPage]
GOLDEN = Path(__file__).parents[1] / "golden" / "documents"
MIME = "application/vnd.relatif.explanation.v1+json"

MODEL = """import torch
from torch import nn
from relatif_widgets import Explainer, ExplanationWidget

torch.manual_seed(0)
inputs = torch.rand(120, 1, 8, 8)
targets = torch.arange(120) % 4
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
test_set = (torch.rand(40, 1, 8, 8), torch.arange(40) % 4)
train_set = (inputs, targets)
explainer = Explainer(model, train_set, class_names=["ant", "bee", "cat", "dog"]).fit(progress=False)
"""
WIDGET = "widget = ExplanationWidget(explainer, test_set)\nwidget"


def command(page: NotebookPage, name: str, **args: Any) -> None:
    """Start a command of JupyterLab, which may open a dialog."""
    page.page.evaluate("([name, args]) => void window.jupyterapp.commands.execute(name, args)", [name, args])


def saved(jupyter: JupyterServer, path: str) -> dict[str, Any]:
    """The bundle of the last output in a saved notebook."""
    notebook = nbformat.read(jupyter.root / path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return dict(outputs[-1]["data"])


def alive(page: NotebookPage) -> Gallery:
    page.run_all()
    gallery = Gallery(page)
    gallery.expect_query(0)
    return gallery


def test_a_live_widget_is_there_when_the_notebook_is_opened_again_without_its_kernel(
    open_notebook: Open, jupyter: JupyterServer, host: Host
) -> None:
    path = jupyter.write_notebook(f"alive-{host}.ipynb", [MODEL, WIDGET])
    page = open_notebook(path, host=host)
    gallery = alive(page)
    assert gallery.root.count() == 1  # the live widget, and not the document beside it
    gallery.root.locator(".rw-thumb").nth(3).click()
    gallery.expect_query(3)
    gallery.choose("IF")
    page.expect_in_kernel("widget.method", "influence")
    page.page.wait_for_timeout(300)
    page.save()
    bundle = saved(jupyter, path)
    document = Explanation.from_json(json.dumps(bundle[MIME]))
    assert document == Explanation.from_json(page.evaluate_in_kernel("widget.explanation.to_json()"))
    assert (document.query.index, document.settings.method) == (3, "influence")
    # Written into the output, and not drawn anew: the widget is the same one, still alive.
    assert gallery.root.count() == 1
    gallery.slider("k").press("Home")
    page.expect_in_kernel("widget.k", 1)

    jupyter.shut_down(path)
    again = open_notebook(path, host=host)
    root = again.locator(".rw-root")
    root.locator(".rw-card").first.wait_for()
    again.page.wait_for_timeout(500)
    assert root.count() == 1
    assert again.page.get_by_text("model not found").count() == 0
    assert shown(root) == expected(document)
    before = again.comm_messages
    root.locator(".rw-slider-damping input").press("End")
    assert shown(root) == expected(document, damping=document.dampings[-1])
    root.get_by_role("radio", name="ℓ-RelatIF", exact=True).check()
    assert shown(root) == expected(document, damping=document.dampings[-1], method="loss_relative")
    assert again.comm_messages == before


def test_a_copy_that_is_not_trusted_shows_the_document(open_notebook: Open, jupyter: JupyterServer) -> None:
    path = jupyter.write_notebook("mailed.ipynb", [MODEL, WIDGET])
    page = open_notebook(path)
    alive(page)
    page.page.wait_for_timeout(300)
    page.save()
    document = Explanation.from_json(json.dumps(saved(jupyter, path)[MIME]))
    # Somebody else's Jupyter has not signed it, and the kernel that made it still runs elsewhere.
    notebook = nbformat.read(jupyter.root / path, as_version=4)
    notebook.cells[0].source += "# changed on the way"
    nbformat.write(notebook, jupyter.root / "received.ipynb")
    received = open_notebook("received.ipynb")
    root = received.locator(".rw-root")
    root.locator(".rw-card").first.wait_for()
    assert shown(root) == expected(document)
    root.locator(".rw-slider-k input").press("Home")
    assert shown(root) == expected(document, k=1)


def test_after_a_reload_with_its_kernel_the_live_widget_is_back(
    open_notebook: Open, jupyter: JupyterServer, host: Host
) -> None:
    path = jupyter.write_notebook(f"back-{host}.ipynb", [MODEL, WIDGET])
    page = open_notebook(path, host=host)
    gallery = alive(page)
    page.page.wait_for_timeout(300)
    page.save()
    page.reload()
    root = page.locator(".rw-root")
    root.locator(".rw-strip .rw-thumb").first.wait_for()  # only the live widget has a strip
    assert root.count() == 1
    gallery = Gallery(page)
    gallery.slider("k").press("End")
    page.expect_in_kernel("widget.k", 20)


def test_a_notebook_saved_before_anything_was_prepared_says_so(
    open_notebook: Open, jupyter: JupyterServer
) -> None:
    bundle = {
        "text/plain": "ExplanationWidget(query=0)",
        "application/vnd.jupyter.widget-view+json": {
            "model_id": "gone",
            "version_major": 2,
            "version_minor": 0,
        },
        MIME: {"schema_version": "1.1", "pending": True},
    }
    page = open_notebook(write(jupyter, "pending.ipynb", bundle))
    alert = page.locator(".rw-root").get_by_role("alert")
    alert.wait_for()
    assert "run the cell to see it" in alert.inner_text()


def test_other_widgets_are_left_alone(open_notebook: Open, jupyter: JupyterServer) -> None:
    page = open_notebook(
        jupyter.write_notebook(
            "others.ipynb", ["import ipywidgets\nslider = ipywidgets.IntSlider(3)\nslider"]
        )
    )
    page.run_all()
    page.locator(".widget-slider").wait_for()
    assert page.locator(".rw-output").count() == 0


def test_new_widgets_follow_the_settings_and_the_notebook_wins(
    open_notebook: Open, jupyter: JupyterServer
) -> None:
    path = jupyter.write_notebook(
        "settings.ipynb",
        [
            MODEL,
            WIDGET,
            "given = ExplanationWidget(explainer, test_set, method='nearest', k=7)\ngiven",
        ],
    )
    page = open_notebook(path)
    setting = {"method": "influence", "k": 3, "damping": 0.01}
    page.page.evaluate(
        """async (values) => {
            const { settings } = window.jupyterapp.serviceManager;
            await settings.save("relatif-widgets:plugin", JSON.stringify(values));
        }""",
        setting,
    )
    try:
        page.reload()
        page.run_all()
        page.expect_in_kernel("[widget.method, widget.k, widget.damping]", ["influence", 3, 0.01])
        page.expect_in_kernel("[given.method, given.k, given.damping]", ["nearest", 7, 0.01])
        gallery = page.locator(".rw-root").first
        assert gallery.get_by_role("radio", name="IF", exact=True).is_checked()
        # What the person moves afterwards stays, also over another display of the same widget.
        gallery.get_by_role("radio", name="θ-RelatIF", exact=True).check()
        page.expect_in_kernel("[widget.method, widget.follows]", ["theta_relative", []])
    finally:
        page.page.evaluate(
            "() => window.jupyterapp.serviceManager.settings.save('relatif-widgets:plugin', '{}')"
        )


def test_explain_a_model_writes_a_cell_that_runs(
    open_notebook: Open, jupyter: JupyterServer, host: Host
) -> None:
    path = jupyter.write_notebook(f"command-{host}.ipynb", [MODEL.replace("train_set", "my_train")])
    page = open_notebook(path, host=host)
    page.run_all()
    command(page, "relatif:explain")
    dialog = page.page.locator(".jp-Dialog-content", has_text="Examples to explain")
    dialog.wait_for()
    fields = dialog.locator("input[type=text]")
    # The kernel was asked what there is.
    assert [fields.nth(at).input_value() for at in range(3)] == ["model", "my_train", "test_set"]
    fields.nth(0).fill("model; import os")
    dialog.get_by_role("button", name="Insert code").click()
    message = page.page.get_by_text("Each field takes a Python name")
    message.wait_for()
    page.page.keyboard.press("Enter")
    message.wait_for(state="detached")
    command(page, "relatif:explain")
    dialog.wait_for()
    dialog.get_by_role("button", name="Insert code").click()
    page.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.content.widgets.length === 2")
    source = page.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets[1].model.sharedModel.source"
    )
    assert "explainer = Explainer(model, my_train).fit()" in source
    assert source.endswith("ExplanationWidget(explainer, test_set)")
    page.run_all()
    page.locator(".rw-root .rw-card").first.wait_for()


def test_open_tutorial_copies_it_and_opens_it(open_notebook: Open, jupyter: JupyterServer) -> None:
    page = open_notebook(jupyter.write_notebook("start.ipynb", ["1"]))
    folder = jupyter.root / "relatif-tutorials"
    shutil.rmtree(folder, ignore_errors=True)
    command(page, "relatif:open-tutorial")
    dialog = page.page.locator(".jp-Dialog-content")
    dialog.wait_for()
    assert "1. A first explanation" in dialog.locator("option").all_inner_texts()[0]
    dialog.get_by_role("button", name="Open").click()
    page.page.wait_for_function(
        """() => window.jupyterapp.shell.currentWidget?.context?.path
            === "relatif-tutorials/01-first-explanation.ipynb" """
    )
    notebooks = Path(__file__).parents[2] / "notebooks"
    copied = nbformat.read(folder / "01-first-explanation.ipynb", as_version=4)
    original = nbformat.read(notebooks / "01-first-explanation.ipynb", as_version=4)
    assert [cell.source for cell in copied.cells] == [cell.source for cell in original.cells]
    assert (folder / "tutorial_data.py").read_text() == (notebooks / "tutorial_data.py").read_text()
    # A copy that was changed is not written over.
    copied.cells[0].source = "# mine"
    nbformat.write(copied, folder / "01-first-explanation.ipynb")
    command(page, "relatif:open-tutorial", file="01-first-explanation.ipynb")
    page.page.wait_for_timeout(500)
    assert nbformat.read(folder / "01-first-explanation.ipynb", as_version=4).cells[0].source == "# mine"


def export(page: NotebookPage, tmp_path: Path) -> Path:
    with page.page.expect_download() as started:
        command(page, "relatif:export-html")
    path = tmp_path / started.value.suggested_filename
    started.value.save_as(path)
    return path


def opened_by_file(browser: Browser, path: Path) -> tuple[Page, list[str]]:
    """The page as a double click opens it, and every address it asked for."""
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(f"error: {error}"))
    page.goto(path.as_uri())
    return page, [address for address in asked if not address.startswith("data:")]


def test_an_explanation_is_exported_as_a_page_that_asks_for_nothing(
    open_notebook: Open, jupyter: JupyterServer, browser: Browser, tmp_path: Path
) -> None:
    path = jupyter.write_notebook(
        "exported.ipynb",
        [MODEL, "widget = ExplanationWidget(explainer, test_set, labels=['ant', 'cat'])\nwidget"],
    )
    page = open_notebook(path)
    alive(page)
    document = Explanation.from_json(page.evaluate_in_kernel("widget.explanation.to_json()"))
    written = export(page, tmp_path)
    assert written.name == "exported-test-0.html"
    assert written.stat().st_size < 500_000
    alone, asked = opened_by_file(browser, written)
    root = alone.locator(".rw-root")
    root.locator(".rw-card").first.wait_for()
    assert alone.title() == document.to_html().partition("<title>")[2].partition("</title>")[0]
    assert shown(root) == expected(document)
    root.locator(".rw-slider-k input").press("Home")
    assert shown(root) == expected(document, k=1)
    assert asked == [written.as_uri()]
    alone.close()


def test_python_writes_the_same_page(browser: Browser, tmp_path: Path) -> None:
    document = Explanation.load(GOLDEN / "images.relatif.json")
    alone, asked = opened_by_file(browser, document.to_html(tmp_path / "why.html"))
    root = alone.locator(".rw-root")
    root.locator(".rw-card").first.wait_for()
    root.get_by_role("radio", name="IF", exact=True).check()
    assert shown(root) == expected(document, method="influence")
    assert len(asked) == 1
    alone.close()


def test_a_report_opens_with_an_index_as_a_page_as_a_file_and_in_a_notebook(
    open_notebook: Open, jupyter: JupyterServer, browser: Browser, tmp_path: Path
) -> None:
    names = ["images", "names", "hostile"]
    report = Report(
        [Explanation.load(GOLDEN / f"{name}.relatif.json") for name in names], "Three <b>queries</b>"
    )
    report.save(jupyter.root / "three.relatif.json")

    def check(root: Locator) -> None:
        entries = root.locator(".rw-report-index .rw-entry")
        entries.first.wait_for()
        assert entries.count() == 3
        assert root.locator(".rw-report-title").inner_text() == "Three <b>queries</b>"
        visible = root.locator(".rw-report-part:visible")
        assert shown(visible) == expected(report[0])
        entries.nth(1).click()
        assert shown(visible) == expected(report[1])
        visible.locator(".rw-slider-k input").press("Home")
        assert shown(visible) == expected(report[1], k=1)
        entries.nth(2).click()
        assert list(shown(visible)) == list(report[2].labels)
        entries.nth(1).click()
        assert shown(visible) == expected(report[1], k=1)  # as it was left
        assert entries.nth(1).get_attribute("aria-current") == "true"

    alone, asked = opened_by_file(browser, report.to_html(tmp_path / "three.html"))
    check(alone.locator("#relatif-root"))
    assert len(asked) == 1
    alone.close()

    # On paper every part, its pictures too, though nothing was opened.
    alone, _ = opened_by_file(browser, report.to_html(tmp_path / "three.html"))
    alone.locator(".rw-report-part").nth(2).locator(".rw-card").first.wait_for(state="attached")
    alone.emulate_media(media="print")
    assert alone.locator(".rw-report-part:visible").count() == 3
    blank = """(canvases) => canvases.filter((canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return !data.some((value) => value > 0);
    }).length"""
    canvases = alone.locator(".rw-report-part canvas")
    assert canvases.count() > 5
    alone.wait_for_function(
        f"() => ({blank})([...document.querySelectorAll('.rw-report-part canvas')]) === 0"
    )
    alone.close()

    page = open_notebook(write(jupyter, "reported.ipynb", report._repr_mimebundle_()))
    check(page.locator(".rw-document"))
    page.page.evaluate(
        "() => window.jupyterapp.commands.execute('docmanager:open', {path: 'three.relatif.json'})"
    )
    check(page.page.locator(".jp-MimeDocument .rw-document"))
    written = export(page, tmp_path)
    assert written.name == "three-Three-b-queries-b.html"
    assert page.page.evaluate("window.hacked") is None


def test_the_side_panel_lists_jumps_and_pins_two_beside_each_other(
    open_notebook: Open, jupyter: JupyterServer, tmp_path: Path
) -> None:
    path = jupyter.write_notebook(
        "listed.ipynb",
        [
            MODEL,
            "\n".join(f"print({at})" for at in range(60)),
            WIDGET,
            "explainer.explain(test_set[0][5], labels=['ant', 'dog'], name='my own query')",
            "explainer.explain(test_set[0][6], labels='bee', name='a third')",
        ],
    )
    page = open_notebook(path)
    alive(page)
    page.page.evaluate("() => window.jupyterapp.shell.activateById('relatif-explanations')")
    panel = page.page.locator("#relatif-explanations")
    entries = panel.locator(".rw-entry")
    entries.nth(2).wait_for()
    assert [text.split("\n")[1] for text in entries.all_inner_texts()][1:] == ["my own query", "a third"]
    assert entries.first.inner_text().split("\n")[1].startswith("test #0 · true label ant")
    # It follows the live widget.
    page.run_in_kernel("widget.query = 2")
    panel.get_by_text("test #2 · true label cat").wait_for()
    entries.nth(2).click()
    assert page.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex") == 4
    assert page.locator(".rw-document").last.is_visible()
    pins = panel.get_by_role("button", name="Pin", exact=True)
    pins.nth(1).click()
    board = page.page.locator(".rw-board")
    board.locator(".rw-card").first.wait_for()
    panel.get_by_role("button", name="Unpin").wait_for()
    pins.nth(0).click()
    parts = board.locator(".rw-board-part")
    parts.nth(1).wait_for()
    first, second = parts.nth(0), parts.nth(1)
    first.locator(".rw-card").first.wait_for()
    second.locator(".rw-card").first.wait_for()
    assert "cell 4" in first.get_attribute("aria-label")
    live = Explanation.from_json(page.evaluate_in_kernel("widget.explanation.to_json()"))
    assert shown(second) == expected(live)
    # Each with controls of its own.
    second.locator(".rw-slider-k input").press("Home")
    assert shown(second) == expected(live, k=1)
    assert len(next(iter(shown(first).values()))) == 5
    page.page.set_viewport_size({"width": 1900, "height": 1000})
    folder = Path(os.environ.get("RELATIF_SCREENSHOTS", tmp_path))
    page.page.screenshot(path=folder / "pinned-light.png")
    pins.first.click()  # a third takes the place of the first
    page.page.wait_for_timeout(400)
    assert parts.count() == 2
    assert "cell 5" in parts.nth(1).get_attribute("aria-label")
    parts.nth(0).get_by_role("button", name="Unpin").click()
    assert parts.count() == 1


def test_the_commands_are_in_the_palette_the_menus_and_the_launcher(
    open_notebook: Open, jupyter: JupyterServer
) -> None:
    page = open_notebook(jupyter.write_notebook("menus.ipynb", ["1"]))
    labels = page.page.evaluate(
        """() => ["explain", "export-html", "open-tutorial"].map(
            (name) => window.jupyterapp.commands.label(`relatif:${name}`))"""
    )
    assert labels == ["Explain a model…", "Export Explanation as HTML", "Open Tutorial on Explanations…"]
    assert not page.page.evaluate("() => window.jupyterapp.commands.isEnabled('relatif:export-html')")
    for menu, label in (("Run", labels[0]), ("File", labels[1]), ("Help", labels[2])):
        page.page.locator(".lm-MenuBar-item").filter(has_text=menu).first.click()
        page.page.locator(".lm-Menu-itemLabel").filter(has_text=label).wait_for()
        page.page.keyboard.press("Escape")
    command(page, "launcher:create")
    tiles = page.page.locator(".jp-LauncherCard")
    tiles.filter(has_text="Explain a model").wait_for()
    tiles.filter(has_text="Tutorials").wait_for()
