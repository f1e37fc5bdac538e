"""The live widget: an explanation drawn in the notebook, its controls two-way traits.

The kernel computes, the browser draws. A prepared explanation crosses once, as
a document; from then on the browser answers every slider position by itself,
and only what the controls settle on comes back, as traits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets

from ..errors import ChoiceError, RelatifError, one_of
from ..explanation import METHODS, SIGNS, TOP, Explanation

STATIC = Path(__file__).parent.parent / "static"
STRIP_LIMIT = 200
"""Most thumbnails that one request can ask for."""

if not (STATIC / "widget.js").is_file():
    raise RelatifError("The front end is not built: run `make setup` in the checkout, or install a wheel.")


class Queries(Protocol):
    """What the widget needs of a test set: `relatif_widgets.queries.QuerySet` has it."""

    def __len__(self) -> int: ...

    @property
    def damping(self) -> float: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def explain(
        self,
        row: int,
        labels: Sequence[str] | None = None,
        *,
        damping: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Explanation: ...

    def page(self, wanted: Any, offset: int, count: int, *, around: int | None = None) -> Any: ...


class Attachable(Protocol):
    """What can be asked about a test set: a fitted `Explainer`."""

    def queries(self, test_set: Any) -> Any: ...


class ExplanationWidget(anywidget.AnyWidget):
    """The training examples behind a prediction, to look at and slide through.

    Args:
        explainer: A fitted `Explainer`.
        test_set: The examples to explain, like the training set: a data set of
            (input, target) or a pair of arrays; or inputs alone, without true labels.
        query: Row of the test set to open with.
        labels: Names or indices of the labels to open with; by default the prediction, and
            the runner-up beside it where the call is close or wrong.
        method, k, damping, sign: Where the controls stand at first.

    Raises:
        RelatifError: One of its kinds: the explainer is not fitted, or an
            argument names nothing.

    Setting a trait from Python redraws; `observe` follows what the user does.
    """

    _wanted = 0  # counts requests: a preparation that is no longer the newest stops
    _esm = STATIC / "widget.js"
    _css = STATIC / "widget.css"

    query = traitlets.Int(0, help="Row of the test set that is explained; int, default 0.").tag(sync=True)
    labels = traitlets.List(
        traitlets.Unicode(),
        help="Names of the labels that have a panel; list of str, set anew with each query.",
    ).tag(sync=True)
    method = traitlets.Unicode(
        "loss_relative",
        help='"influence", "theta_relative", "loss_relative" or "nearest"; default "loss_relative".',
    ).tag(sync=True)
    k = traitlets.Int(5, help="Cards per panel; int from 1 to 20, default 5.").tag(sync=True)
    damping = traitlets.Float(help="λ in (H + λI); float > 0, default the explainer's.").tag(sync=True)
    sign = traitlets.Unicode("positive", help='"positive", "negative" or "both"; default "positive".').tag(
        sync=True
    )
    status = traitlets.Enum(
        ["idle", "preparing", "ready", "error"],
        "idle",
        help="What the kernel is doing; read-only in practice.",
    ).tag(sync=True)
    progress = traitlets.Float(0.0, help="Fraction of the preparation that is done, 0 to 1.").tag(sync=True)
    message = traitlets.Unicode("", help="The status in words; an error's message.").tag(sync=True)

    def __init__(
        self,
        explainer: Attachable,
        test_set: Any,
        *,
        query: int = 0,
        labels: Sequence[str | int] | None = None,
        method: str = "loss_relative",
        k: int = 5,
        damping: float | None = None,
        sign: str = "positive",
    ) -> None:
        if not hasattr(explainer, "queries"):
            raise ChoiceError(
                f"explainer is {type(explainer).__name__}; expected a fitted Explainer: "
                "ExplanationWidget(Explainer(model, train_set).fit(), test_set)."
            )
        self._queries: Queries = explainer.queries(test_set)
        self._explanation: Explanation | None = None
        self._request: _Request | None = None  # what is being prepared
        self._failure: Exception | None = None  # why the last preparation ended
        self._worker: threading.Thread | None = None
        self._settled = threading.Event()
        self._settled.set()
        self._guard = threading.RLock()
        super().__init__(
            query=query,
            labels=[self._name(label) for label in ([labels] if isinstance(labels, str) else labels or [])],
            method=method,
            k=k,
            damping=self._queries.damping if damping is None else damping,
            sign=sign,
        )
        self.observe(self._on_query, "query")
        self.observe(self._on_need, ["labels", "damping"])
        self.on_msg(self._on_message)

    def close(self) -> None:
        """Take the widget off every page; a preparation that still runs stops."""
        self._wanted += 1
        super().close()

    @property
    def explanation(self) -> Explanation:
        """The explanation on display: its panels, its controls where they stand; waits while it is prepared.

        Raises:
            RelatifError: The preparation failed, in the words that the widget shows.
        """
        self.wait()
        assert self._explanation is not None
        shown = self._explanation.with_panels(self.labels)
        # Under the identity the one stop stands for every damping.
        damping = shown.dampings[shown.stop_at(self.damping) or 0]
        return shown.with_settings(method=self.method, k=self.k, damping=damping, sign=self.sign)

    def wait(self, timeout: float | None = None) -> None:
        """Block until what the traits ask for is prepared.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            RelatifError: The preparation failed; or what the user's own code raised in it.
            TimeoutError: It took longer.
        """
        self._ensure()
        if not self._settled.wait(timeout):
            raise TimeoutError(f"Test example {self.query} was not prepared within {timeout} s.")
        if self._failure is not None:
            raise self._failure

    def __repr__(self) -> str:
        return (
            f"ExplanationWidget(query={self.query}, labels={self.labels}, method={self.method!r}, k={self.k}, "
            f"damping={self.damping:g}, sign={self.sign!r})"
        )

    # Validation: a wrong value is refused before anything is drawn

    @traitlets.validate("query")
    def _valid_query(self, proposal: dict[str, Any]) -> int:
        if not 0 <= proposal["value"] < len(self._queries):
            raise ChoiceError(
                f"query={proposal['value']} is outside the test set; expected 0 to {len(self._queries) - 1}."
            )
        return int(proposal["value"])

    @traitlets.validate("labels")
    def _valid_labels(self, proposal: dict[str, Any]) -> list[str]:
        names = self._queries.class_names
        for label in proposal["value"]:
            if names:
                one_of("label", label, names)
        return list(dict.fromkeys(proposal["value"]))

    @traitlets.validate("method")
    def _valid_method(self, proposal: dict[str, Any]) -> str:
        return str(one_of("method", proposal["value"], METHODS))

    @traitlets.validate("sign")
    def _valid_sign(self, proposal: dict[str, Any]) -> str:
        return str(one_of("sign", proposal["value"], SIGNS))

    @traitlets.validate("k")
    def _valid_k(self, proposal: dict[str, Any]) -> int:
        if not 1 <= proposal["value"] <= TOP:
            raise ChoiceError(
                f"k={proposal['value']}; the gallery shows 1 to {TOP} examples a panel. "
                "For more ask explainer.top_k(..., k=...)."
            )
        return int(proposal["value"])

    @traitlets.validate("damping")
    def _valid_damping(self, proposal: dict[str, Any]) -> float:
        if not 0 < proposal["value"] < float("inf"):
            raise ChoiceError(f"damping={proposal['value']}; expected a finite λ > 0.")
        return float(proposal["value"])

    # Preparing

    def _on_query(self, change: dict[str, Any]) -> None:
        with self._guard:
            self._set_labels(())  # the new query has its own
        self._ensure()

    def _on_need(self, change: dict[str, Any]) -> None:
        self._ensure()

    def _name(self, label: str | int) -> str:
        names = self._queries.class_names
        if isinstance(label, str) or not 0 <= label < len(names):
            return str(label)
        return names[label]

    def _set_labels(self, labels: Sequence[str]) -> None:
        self.unobserve(self._on_need, ["labels", "damping"])
        self.labels = list(labels)
        self.observe(self._on_need, ["labels", "damping"])

    def _is_prepared(self) -> bool:
        found = self._explanation
        return (
            found is not None
            and found.query.index == self.query
            and set(self.labels) <= set(found.labels)
            and (len(found.dampings) == 1 or found.stop_at(self.damping) is not None)
        )

    def _ensure(self) -> None:
        """Start preparing what the traits ask for, unless it is there or on its way."""
        with self._guard:
            request = (self.query, tuple(self.labels), self.damping)
            if self._request == request:
                return
            if self._is_prepared():
                self._wanted += 1  # whatever still runs was for something else
                self._request = self._failure = None
                self._settled.set()
                if self.status != "ready":
                    self._report("ready")
                return
            self._wanted += 1
            ticket = self._wanted
            self._request = request
            self._failure = None
            self._settled.clear()
            self._worker = _background(self._prepare, ticket, self._worker, request)
            self._report("preparing", f"Preparing test #{self.query}…")
            self._worker.start()

    def _prepare(self, ticket: int, previous: threading.Thread | None, request: _Request) -> None:
        if previous is not None:
            previous.join()  # it stops at its next progress call
        query, labels, damping = request
        shown = self._explanation
        if labels and shown is not None and shown.query.index == query:
            # Panels that were there stay at hand: removing one and adding it again costs nothing.
            labels = tuple(dict.fromkeys([*labels, *shown.labels]))

        def progress(fraction: float) -> None:
            if ticket != self._wanted:
                raise _Superseded
            self.progress = round(fraction, 3)

        try:
            progress(0.0)
            explanation = self._queries.explain(query, labels or None, damping=damping, progress=progress)
        except _Superseded:
            return
        except Exception as error:  # whatever it is, the person at the widget must read it
            text = str(error) if isinstance(error, RelatifError) else f"{type(error).__name__}: {error}"
            with self._guard:
                if ticket == self._wanted:
                    self._request = None
                    if shown is not None and shown.query.index == query:
                        # Back to what is on display, so that asking again is a change.
                        kept = [label for label in self.labels if label in shown.labels]
                        self._set_labels(kept or shown.labels)
                    self._failure = error
                    self._report("error", text)
                    self._settled.set()
            return
        with self._guard:
            if ticket != self._wanted:
                return
            self._explanation = explanation
            self._request = None
            self._send_explanation()
            if not self.labels:
                self._set_labels(explanation.labels)
            self._report("ready")
            self._settled.set()

    def _report(self, status: str, message: str = "") -> None:
        with self.hold_sync():
            self.message = message
            if status != "preparing":
                self.progress = 1.0 if status == "ready" else 0.0
            self.status = status

    # The browser

    def _on_message(self, _: Any, content: Any, buffers: Any) -> None:
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind == "ready":
            self._ensure()
            if self.status == "ready":
                self._send_explanation()
        elif kind == "strip":
            _background(self._send_strip, content).start()

    def _send_explanation(self) -> None:
        assert self._explanation is not None
        self.send({"kind": "explanation", "document": self._explanation.to_dict()})

    def _send_strip(self, request: dict[str, Any]) -> None:
        identity = request.get("id")
        try:
            count = min(STRIP_LIMIT, int(request["count"]))
            page = self._queries.page(
                request["filter"], int(request["offset"]), count, around=request.get("around")
            )
        except Exception as error:
            text = str(error) if isinstance(error, RelatifError) else f"{type(error).__name__}: {error}"
            self.send({"kind": "error", "id": identity, "message": text})
            return
        self.send({"kind": "strip", "id": identity, **asdict(page)})


_Request = tuple[int, tuple[str, ...], float]  # query, labels, damping


class _Superseded(Exception):
    """A newer request came; this preparation is no longer wanted."""


def _background(target: Callable[..., None], *args: Any) -> threading.Thread:
    return threading.Thread(target=target, args=args, name="relatif-prepare", daemon=True)
