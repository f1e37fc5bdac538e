"""The gallery as a test sees it: what the cards say, and what Python says they should."""

from __future__ import annotations

import re

from browser.harness import NotebookPage
from playwright.sync_api import Locator

Cards = dict[str, list[tuple[int, str]]]

# The cards that the gallery must show, from `explainer.top_k` and not from the document.
EXPECTED = """
def expected_cards(widget, explainer, inputs):
    found = {}
    for label in widget.labels:
        sign = "positive" if widget.method == "nearest" else widget.sign
        top = explainer.top_k(
            inputs[widget.query : widget.query + 1], [label],
            k=widget.k, method=widget.method, damping=widget.damping, sign=sign,
        )
        found[label] = [
            [int(index), abs(float(score)) ** 0.5 if widget.method == "nearest" else float(score)]
            for index, score in zip(top.indices[0], top.scores[0])
        ]
    return found
"""


class Gallery:
    """The widget in an open notebook.

    Args:
        page: A notebook whose kernel knows `widget`, `explainer` and `test_set`.
    """

    def __init__(self, page: NotebookPage) -> None:
        self.page = page
        self.root: Locator = page.locator(".rw-root")
        self.root.locator(".rw-card").first.wait_for(timeout=60_000)
        page.run_in_kernel(EXPECTED)

    def cards(self) -> Cards:
        """What is on the cards: per panel, training index and printed score."""
        raw = self.root.locator(".rw-panel").evaluate_all(
            """(panels) => panels.map((panel) => [
                panel.querySelector(".rw-panel-name").textContent,
                [...panel.querySelectorAll(".rw-card")].map((card) => [
                    Number(card.querySelector(".rw-small .rw-quiet").textContent.slice(1)),
                    card.querySelector(".rw-score").textContent,
                ]),
            ])"""
        )
        return {name: [(index, score) for index, score in cards] for name, cards in raw}

    def expect_python_agrees(self) -> Cards:
        """The cards are those that `explainer.top_k` computes at the widget's traits.

        Raises:
            AssertionError: They are not, two seconds on.
        """
        right: dict[str, list[tuple[int, float]]] = self.page.evaluate_in_kernel(
            "expected_cards(widget, explainer, test_set[0])"
        )
        for _ in range(40):
            found = self.cards()
            if _agrees(found, right):
                return found
            self.page.page.wait_for_timeout(50)
        raise AssertionError(f"the gallery shows {found}; top_k computes {right}")

    def expect_query(self, row: int) -> None:
        """This row is explained, and nothing is on its way any more."""
        self.page.expect_in_kernel("[widget.query, widget.status, bool(widget.labels)]", [row, "ready", True])

    def slider(self, name: str) -> Locator:
        return self.root.locator(f".rw-slider-{name} input[type=range]")

    def value(self, name: str) -> str:
        return self.root.locator(f".rw-slider-{name} .rw-value").inner_text()

    def choose(self, text: str) -> None:
        """Click one of the choices of method, sign or strip, by its words."""
        self.root.get_by_role("radio", name=re.compile(f"^{re.escape(text)}")).click()

    def bar(self, label: str) -> Locator:
        """The probability bar of a label."""
        return self.root.locator(f".rw-label:has(.rw-name:text-is('{label}'))")

    def drag(self, name: str, *, to: float, steps: int = 8) -> tuple[Cards, int]:
        """Drag a slider with the mouse.

        Args:
            name: "k" or "damping".
            to: Fraction of the slider's length.
            steps: Mouse moves on the way.

        Returns:
            The cards just before the release, and the widget messages sent until then.
        """
        slider = self.slider(name)
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        assert box is not None
        share = slider.evaluate("(s) => (s.value - s.min) / (s.max - s.min)")
        thumb = 16  # the thumb's centre stays within the track
        start, length = box["x"] + thumb / 2, box["width"] - thumb
        y = box["y"] + box["height"] / 2
        mouse = self.page.page.mouse
        sent = self.page.comm_messages
        mouse.move(start + share * length, y)
        mouse.down()
        mouse.move(start + to * length, y, steps=steps)
        self.page.page.wait_for_timeout(150)
        found = self.cards(), self.page.comm_messages - sent
        mouse.up()
        return found


def _agrees(found: Cards, right: dict[str, list[tuple[int, float]]]) -> bool:
    if list(found) != list(right):
        return False
    for label, cards in right.items():
        if [index for index, _ in found[label]] != [index for index, _ in cards]:
            return False
        for (_, text), (_, score) in zip(found[label], cards, strict=True):
            shown = float(text.replace("−", "-").replace("+", "").replace(",", ""))
            if abs(shown - score) > 0.006 * abs(score) + 1e-12:
                return False
    return True
