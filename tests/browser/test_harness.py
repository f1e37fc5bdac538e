"""The harness itself, on a widget of a few lines: what it reports is what happened."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser.harness import Host, JupyterServer, NotebookPage

Open = Callable[..., NotebookPage]

COUNTER = '''
import anywidget
import traitlets


class Counter(anywidget.AnyWidget):
    _esm = """
    export default {
        render({ model, el }) {
            const button = document.createElement("button");
            button.id = "count";
            button.textContent = "count";
            button.addEventListener("click", () => {
                model.set("count", model.get("count") + 1);
                model.save_changes();
            });
            const slider = document.createElement("input");
            slider.type = "range";
            slider.max = "10";
            slider.value = "5";
            slider.dataset.lmSuppressShortcuts = "true";
            slider.addEventListener("input", () => {
                model.set("level", Number(slider.value));
                model.save_changes();
            });
            el.append(button, slider);
        },
    };
    """
    count = traitlets.Int(0).tag(sync=True)
    level = traitlets.Int(5).tag(sync=True)


counter = Counter()
'''


@pytest.fixture(scope="module")
def counter(jupyter: JupyterServer) -> str:
    return jupyter.write_notebook("counter.ipynb", [COUNTER, "counter"])


def test_clicks_and_keys_reach_the_kernel_in_both_hosts(
    open_notebook: Open, counter: str, host: Host
) -> None:
    page = open_notebook(counter, host=host)
    page.run_all()
    for _ in range(3):
        page.locator("#count").click()
    page.expect_in_kernel("counter.count", 3)
    slider = page.locator("input[type=range]")
    slider.focus()
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    slider.press("ArrowLeft")
    page.expect_in_kernel("(counter.level, counter.count)", [6, 3])


def test_the_theme_is_switched_and_the_next_page_opens_light(
    open_notebook: Open, counter: str, host: Host
) -> None:
    background = "getComputedStyle(document.body).getPropertyValue('--jp-layout-color0')"
    page = open_notebook(counter, host=host)
    light = page.page.evaluate(background)
    page.set_theme(dark=True)
    assert page.page.evaluate(background) != light
    page.close()
    assert open_notebook(counter, host=host).page.evaluate(background) == light


def test_a_reloaded_page_finds_its_kernel_as_it_was(open_notebook: Open, counter: str) -> None:
    page = open_notebook(counter)
    page.run_all()
    page.run_in_kernel("counter.level = 8")
    page.reload()
    assert page.evaluate_in_kernel("counter.level") == 8


def test_values_and_errors_come_back_from_the_kernel(open_notebook: Open, jupyter: JupyterServer) -> None:
    name = jupyter.write_notebook("values.ipynb", ["import numpy as np", "rows = {'a': np.arange(3)}"])
    page = open_notebook(name)
    page.run_all()
    assert page.evaluate_in_kernel("rows") == {"a": [0, 1, 2]}
    page.run_in_kernel("rows['b'] = 'ℓ'")
    assert page.evaluate_in_kernel("rows['b']") == "ℓ"
    with pytest.raises(AssertionError, match="KeyError: 'c'"):
        page.evaluate_in_kernel("rows['c']")
    with pytest.raises(AssertionError, match="rows\\['b'\\] is 'ℓ'; expected 'θ'"):
        page.expect_in_kernel("rows['b']", "θ", timeout=0)


def test_a_cell_that_raises_fails_the_run(open_notebook: Open, jupyter: JupyterServer) -> None:
    page = open_notebook(jupyter.write_notebook("raises.ipynb", ["1 / 0"]))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        page.run_all()


def test_errors_and_foreign_requests_of_a_page_are_kept(open_notebook: Open, counter: str) -> None:
    page = open_notebook(counter)
    page.assert_quiet()
    page.page.evaluate(
        """() => {
            console.error("said");
            setTimeout(() => { throw new Error("thrown"); });
            fetch("http://example.invalid/").catch(() => {});
        }"""
    )
    page.page.wait_for_timeout(500)
    assert any("said" in error for error in page.errors)
    assert any("thrown" in error for error in page.errors)
    assert page.foreign == ["http://example.invalid/"]
    page.errors.clear()
    page.foreign.clear()
