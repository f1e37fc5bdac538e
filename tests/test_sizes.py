"""What crosses to the browser and stays in notebooks is small: real pictures, 32 pixels a side."""

from __future__ import annotations

import json
from dataclasses import asdict

import nbformat
import pytest
import torch
from torch import Tensor, nn
from tutorial_data import cifar10

from relatif_widgets import Explainer, ExplanationWidget

pytestmark = pytest.mark.data


def pictures(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    (images, labels), _ = cifar10()
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 10))
    train_set = pictures(images[:1000]), labels[:1000]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train_set[0]), train_set[1]).backward()
        optimizer.step()
    return Explainer(model, train_set, curvature="kfac", damping=0.01).fit(progress=False)


@pytest.fixture(scope="module")
def test_set() -> tuple[Tensor, Tensor]:
    _, (images, labels) = cifar10()
    return pictures(images[:100]), labels[:100]


def test_a_document_of_two_panels_of_ten_cards(explainer: Explainer, test_set: tuple[Tensor, Tensor]) -> None:
    explanation = explainer.explain(test_set[0][0], labels="top2", target=test_set[1][0], top=10)
    assert len(explanation.panels) == 2
    assert len(explanation.dampings) == 11
    assert len(explanation.to_json()) <= 150_000
    assert len(explanation.to_html()) <= 500_000
    # All that a notebook keeps of a displayed explanation: the document, static HTML and text, as
    # nbformat writes them, which puts each number of a list on a line of its own.
    shown = explanation.with_settings(k=10)._repr_mimebundle_()
    output = nbformat.v4.new_output("execute_result", data=shown, execution_count=1)
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("explanation")])
    full = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("explanation", outputs=[output])])
    assert len(nbformat.writes(full)) - len(nbformat.writes(empty)) <= 150_000


def test_a_message_to_the_widget(explainer: Explainer, test_set: tuple[Tensor, Tensor]) -> None:
    widget = ExplanationWidget(explainer, test_set, labels=[3, 5])
    sent: list[dict[str, object]] = []
    widget.send = lambda content, buffers=None: sent.append(content)  # type: ignore[method-assign]
    widget.wait()
    sizes = {str(message["kind"]): len(json.dumps(message)) for message in sent}
    assert sizes["explanation"] <= 250_000  # the tables hold 20 cards a panel
    assert sizes["returned"] <= 5_000
    state = {key: value for key, value in widget.get_state().items() if not key.startswith("_")}
    assert len(json.dumps(state)) <= 2_000  # all that a notebook saves of it, but for the bundle


def test_a_chunk_of_the_strip(explainer: Explainer, test_set: tuple[Tensor, Tensor]) -> None:
    page = explainer.queries(test_set).page("all", 0, 24)
    assert len(json.dumps(asdict(page))) <= 30_000
