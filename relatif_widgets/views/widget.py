"""The live widget: an explanation drawn in the notebook, its controls two-way traits.

The kernel computes, the browser draws. A prepared explanation crosses once, as
a document; from then on the browser answers every slider position by itself,
and only what the controls settle on comes back, as traits.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anywidget
import traitlets

from ..errors import Cancelled, ChoiceError, RelatifError, one_of
from ..explanation import METHODS, SIGNS, TOP, Explanation, Method
from ..report import Report
from ..saved import MIME_TYPE, SCHEMA_VERSION
from ..tags import as_indices
from . import cells, tables
from .attached import Attachable, Check, Queries
from .checking import Checks
from .prepared import Prepared

if TYPE_CHECKING:
    import pandas as pd

STATIC = Path(__file__).parent.parent / "static"
STRIP_LIMIT = 200
"""Most thumbnails that one request can ask for."""
LAST_SECONDS = 10.0
"""Which Python waits at its end for preparations that run, to stop at the next batch."""

if not (STATIC / "widget.js").is_file():
    raise RelatifError("The front end is not built: run `make setup` in the checkout, or install a wheel.")


class ExplanationWidget(anywidget.AnyWidget):
    """The training examples behind a prediction, to look at, slide through, compare, tag and check.

    Args:
        explainer: A fitted `Explainer`. Tags are kept on it, so that they outlive the widget.
        test_set: The examples to explain, like the training set: a data set of
            (input, target) or a pair of arrays; or inputs alone, without true labels.
        query: Row of the test set to open with.
        labels: Names or indices of the labels to open with; by default what `default_labels` says.
        method, k, damping, sign: Where the controls stand at first; by default ℓ-RelatIF, 5 cards,
            the explainer's damping and helpful, or what JupyterLab's settings say.
        compare: Methods to show in rows under `method`, such as ["influence"]; none by default.
        default_labels: Which labels a query opens with. "auto": the prediction, and beside it
            the true label where the prediction is wrong, or the runner-up where the two largest
            probabilities are within `close_margin`. "predicted", "true" or "top2": always so.
            Or a callable (row) -> labels.
        close_margin: Below which difference of the two largest probabilities a call is close.
        retrain: Called with the training indices to leave out, returns the model trained
            without them, so that "check by retraining" can compare. None: the explainer's own
            exact `refit` where the model is linear in its scored parameters, else no check.

    Raises:
        RelatifError: One of its kinds: the explainer is not fitted, or an
            argument names nothing.

    Setting a trait from Python redraws; `observe` follows what the user does:
    `widget.observe(lambda change: print(change.new), "selection")`.

    Running a notebook cell again closes the widgets that its last run made.

    Where the JupyterLab extension is at hand, saving the notebook keeps what is on display, so that
    it is there, sliders alive, when the notebook is opened again without a kernel. Elsewhere, and in
    notebooks that nobody looks at while they run, show `widget.explanation`, or `wait()` first.
    """

    _closed = False
    _tags: Any = None  # the link to the explainer's
    _esm = STATIC / "widget.js"
    _css = STATIC / "widget.css"

    query = traitlets.Int(0, help="Row of the test set that is explained; int, default 0.").tag(sync=True)
    labels: traitlets.List[Any] = traitlets.List(
        help="Names of the labels that have a panel (indices become names); list of str, set anew with each query.",
    ).tag(sync=True)
    method = traitlets.Unicode(
        "loss_relative",
        help='"influence", "theta_relative", "loss_relative" or "nearest"; default "loss_relative".',
    ).tag(sync=True)
    compare = traitlets.List(
        traitlets.Unicode(), help="Methods in rows beside `method`; list of str, default none."
    ).tag(sync=True)
    k = traitlets.Int(5, help="Cards per row; int from 1 to 20, default 5.").tag(sync=True)
    damping = traitlets.Float(help="λ in (H + λI); float > 0, default the explainer's.").tag(sync=True)
    sign = traitlets.Unicode("positive", help='"positive", "negative" or "both"; default "positive".').tag(
        sync=True
    )
    selection = traitlets.List(
        traitlets.Int(), help="Training indices that are selected, in that order; list of int, default none."
    ).tag(sync=True)
    tags = traitlets.Dict(
        key_trait=traitlets.Int(),
        value_trait=traitlets.List(traitlets.Unicode()),
        help="Training index -> its tags; dict of int to list of str, shared with `explainer.tags`.",
    ).tag(
        sync=True,
        from_json=lambda value, widget: {int(index): list(tags) for index, tags in value.items()},
    )
    like = traitlets.Int(
        None,
        allow_none=True,
        help="Training index whose like are shown in a panel; int or None, default None.",
    ).tag(sync=True)
    can_check = traitlets.Bool(
        False, help="Whether check by retraining is on offer; read-only in practice."
    ).tag(sync=True)
    follows = traitlets.List(
        traitlets.Unicode(),
        help="Controls that nobody has set: they follow the settings of JupyterLab; read-only in practice.",
    ).tag(sync=True)
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
        method: str | None = None,
        compare: Sequence[str] = (),
        k: int | None = None,
        damping: float | None = None,
        sign: str = "positive",
        default_labels: Any = "auto",
        close_margin: float = 0.2,
        retrain: Callable[[list[int]], Any] | None = None,
    ) -> None:
        if not hasattr(explainer, "queries"):
            raise ChoiceError(
                f"explainer is {type(explainer).__name__}; expected a fitted Explainer: "
                "ExplanationWidget(Explainer(model, train_set).fit(), test_set)."
            )
        if retrain is not None and not callable(retrain):
            raise ChoiceError(
                f"retrain={retrain!r}; expected a callable (removed_indices) -> model, or None for the exact refit."
            )
        self._queries: Queries = explainer.queries(
            test_set, default_labels=default_labels, close_margin=close_margin
        )
        self._explainer: Attachable = explainer
        self._retrain = retrain
        self._checks = Checks()
        self._prepared = Prepared()
        self._wanted = 0  # counts requests: a preparation that is no longer the newest stops
        self._cancelled = 0  # the request up to which the user wants no more
        self._explanation: Explanation | None = None  # on display
        self._similar: Explanation | None = None  # on display beside it
        self._request: _Request | None = None  # what is being prepared
        self._failure: Exception | None = None  # why the last preparation ended
        self._worker: threading.Thread | None = None
        self._settled = threading.Event()
        self._settled.set()
        self._guard = threading.RLock()
        asked = {"method": method, "k": k, "damping": damping}
        super().__init__(
            query=query,
            labels=_listed(labels),
            method="loss_relative" if method is None else method,
            compare=[compare] if isinstance(compare, str) else list(compare),
            k=5 if k is None else k,
            damping=self._queries.damping if damping is None else damping,
            sign=sign,
            tags=explainer.tags.value,
            can_check=retrain is not None or explainer.can_refit,
            follows=[name for name, value in asked.items() if value is None],
        )
        self._tags = traitlets.link((explainer.tags, "value"), (self, "tags"))
        self.observe(self._on_query, "query")
        self.observe(self._on_need, ["labels", "damping", "like"])
        self.observe(self._on_setting, ["method", "compare", "k", "damping", "sign"])
        self.on_msg(self._on_message)
        cells.supersede(self)

    def close(self) -> None:
        """Take the widget off every page; a preparation that still runs stops, and nothing is kept alive."""
        if not hasattr(self, "_guard"):
            super().close()
            return  # refused by __init__
        with self._guard:
            self._wanted += 1
            if not self._closed:
                self._closed = True
                self._checks.cancel()
                if self._tags is not None:
                    self._tags.unlink()
                    self._tags = None
                self._request = self._explanation = self._similar = None
                self._prepared = Prepared()
                self._failure = RelatifError(
                    "This widget is closed: close() was called, or its cell ran again. Make a new one."
                )
                # Notebooks remember every output: what it shows must not hold on to model and data.
                del self._queries, self._explainer, self._retrain
                self._settled.set()
        super().close()

    @property
    def explanation(self) -> Explanation:
        """The explanation on display: its panels, its controls where they stand; waits while it is prepared.

        Raises:
            RelatifError: The preparation failed, in the words that the widget shows.
        """
        self.wait()
        assert self._explanation is not None
        return self._at_settings(self._explanation.with_panels(self.labels))

    def selected(self) -> pd.DataFrame:
        """The selected training examples, a line each.

        Returns:
            index, label, predicted, probability (of the training label), loss, self_influence
            (at the explainer's default damping) and tags, in the order of selection.
        """
        explainer = self._open()
        frame = explainer.examples(self.selection)
        frame["tags"] = [explainer.tags[index] for index in self.selection]
        return frame

    def tagged(self) -> pd.DataFrame:
        """The tagged training examples by index, with the columns of `selected`.

        `explainer.tags` holds them, writes them (`to_csv`, `to_json`) and reads them (`load`).
        """
        return self._open().tags.to_frame()

    def to_frame(self) -> pd.DataFrame:
        """Everything shown, one row per card.

        Returns:
            The query's name, then the columns of `Explanation.to_frame` for every panel and method
            on display (`method` first, then the compared ones), then rank_<method> for each method
            where several are compared (None where a table has ended), selected and tags. Cards of
            "more like this" are in a panel of that name.
        """
        shown = [self.explanation]
        if self._similar is not None and self.like is not None:
            similar = self._at_settings(self._similar)
            panel = replace(similar.panels[0], name=f"more like #{self.like}")
            shown.append(replace(similar, panels=(panel, *similar.panels[1:])))
        found = tables.cards(shown, self._methods())
        found["selected"] = found["index"].isin(self.selection)
        found["tags"] = [self._open().tags[index] for index in found["index"]]
        return found

    def check(self, indices: int | Sequence[int] | None = None) -> Check:
        """Retrain without some training examples and compare with what influence predicts.

        Args:
            indices: Rows of the training set; None for the selection.

        Returns:
            The `Check`: the query's loss before and after, at each label on display, and the
            predicted change, Σ I/n over what was removed.

        Raises:
            ChoiceError: Nothing is selected, an index is outside, or no retraining is on offer.
        """
        return self._check(indices)[1]

    def _check(self, indices: int | Sequence[int] | None) -> tuple[int, Check]:
        """The row that was checked, and what was found."""
        queries = self._open_queries()
        chosen = self.selection if indices is None else as_indices(indices, self._explainer.train_size)
        if not chosen:
            raise ChoiceError("Nothing is selected: select cards, or pass indices=[...].")
        if not self.can_check:
            raise ChoiceError(
                "No retraining is on offer: this model is not linear in its scored parameters, so pass "
                "ExplanationWidget(..., retrain=callable(removed_indices) -> model)."
            )
        self.wait()
        row, labels, damping = self.query, list(self.labels), self.damping

        def work(progress: Callable[[float], None]) -> Check:
            return queries.check(
                row, list(chosen), labels, retrain=self._retrain, damping=damping, progress=progress
            )

        return row, self._checks.run(f"test #{row}", work, own=self._retrain is not None)

    def checks(self) -> pd.DataFrame:
        """Every check of this widget so far, a line for each label.

        Returns:
            query, removed (a tuple), the columns of `Check.to_frame`, damping.
        """
        self._open()
        return self._checks.to_frame()

    def report(self, rows: Sequence[int] | None = None, *, title: str = "") -> Report:
        """Several queries in one document, with the controls where they stand.

        Args:
            rows: Of the test set, in the report's order; None for all that were prepared here (the last 50).
            title: What stands above the report's index.

        Returns:
            The `Report`: `save`, `to_html`. Queries that are not at hand are prepared now, with their
            own labels.

        Raises:
            ChoiceError: A row is outside the test set, or there is none.
        """
        queries = self._open_queries()
        self.wait()
        chosen = self._prepared.rows() if rows is None else as_indices(rows, len(queries), "Test")
        shown = []
        for row in chosen:
            found = self._prepared.get(row)
            if not self._holds(found):
                found = queries.explain(row, damping=self.damping)
                self._prepared.keep(row, found)
            assert found is not None
            shown.append(self._on_display(found, self._prepared.labels(row)))
        return Report(shown, title)

    def cancel(self) -> None:
        """Stop the preparation that runs; what is ranked already of the training set is kept and marked."""
        self._cancelled = self._wanted

    def cancel_checks(self) -> None:
        """Stop the checks by retraining that run or wait; a `retrain=` callable at work is waited for."""
        self._checks.cancel()

    def resume(self) -> None:
        """Prepare what was cut short to its end."""
        with self._guard:
            self._prepared.forget(self.query)
            self._explanation = None
        self._ensure()

    def wait(self, timeout: float | None = None) -> None:
        """Block until what the traits ask for is prepared.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Raises:
            RelatifError: The preparation failed or was cancelled; or what the user's own code raised in it.
            TimeoutError: It took longer.
        """
        if not self._closed:
            self._ensure()
        if not self._settled.wait(timeout):
            raise TimeoutError(f"Test example {self.query} was not prepared within {timeout} s.")
        if self._failure is not None:
            raise self._failure

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        found = super()._repr_mimebundle_(**kwargs)
        if found is None or self._closed:
            return found
        data, metadata = found
        shown = self._explanation
        if shown is None:
            # Something to draw in this place once the notebook is saved: the extension writes it there.
            data[MIME_TYPE] = {"schema_version": SCHEMA_VERSION, "pending": True}
        else:
            data.update(self._on_display(shown, self.labels)._repr_mimebundle_())
        return data, metadata

    def __repr__(self) -> str:
        compare = f", compare={self.compare}" if self.compare else ""
        return (
            f"ExplanationWidget(query={self.query}, labels={self.labels}, method={self.method!r}{compare}, "
            f"k={self.k}, damping={self.damping:g}, sign={self.sign!r})"
        )

    # Validation: a wrong value is refused before anything is drawn

    @traitlets.validate("query")
    def _valid_query(self, proposal: dict[str, Any]) -> int:
        count = len(self._open_queries())
        if not 0 <= proposal["value"] < count:
            raise ChoiceError(
                f"query={proposal['value']} is outside the test set; expected 0 to {count - 1}."
            )
        return int(proposal["value"])

    @traitlets.validate("labels")
    def _valid_labels(self, proposal: dict[str, Any]) -> list[str]:
        names = self._open_queries().class_names
        labels = [self._name(label) for label in proposal["value"]]
        for label in labels:
            if names:
                one_of("label", label, names)
        return list(dict.fromkeys(labels))

    @traitlets.validate("method")
    def _valid_method(self, proposal: dict[str, Any]) -> str:
        return str(one_of("method", proposal["value"], METHODS))

    @traitlets.validate("compare")
    def _valid_compare(self, proposal: dict[str, Any]) -> list[str]:
        return list(dict.fromkeys(str(one_of("compare", method, METHODS)) for method in proposal["value"]))

    @traitlets.validate("selection")
    def _valid_selection(self, proposal: dict[str, Any]) -> list[int]:
        return as_indices(proposal["value"], self._open().train_size)

    @traitlets.validate("tags")
    def _valid_tags(self, proposal: dict[str, Any]) -> dict[int, list[str]]:
        return self._open().tags.valid(proposal["value"])

    @traitlets.validate("like")
    def _valid_like(self, proposal: dict[str, Any]) -> int | None:
        value = proposal["value"]
        return None if value is None else as_indices(value, self._open().train_size)[0]

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
            self._set("labels", self._prepared.labels(self.query))  # a new query has its own
        self._ensure()

    def _on_need(self, change: dict[str, Any]) -> None:
        if change["name"] == "like" and change["new"] is None:
            self._similar = None
        self._ensure()

    def _on_setting(self, change: dict[str, Any]) -> None:
        if change["name"] in self.follows:
            self.follows = [name for name in self.follows if name != change["name"]]
        self._send_returned()

    def _open(self) -> Attachable:
        if self._closed:
            assert self._failure is not None
            raise self._failure
        return self._explainer

    def _open_queries(self) -> Queries:
        self._open()
        return self._queries

    def _methods(self) -> list[Method]:
        chosen = dict.fromkeys([self.method, *self.compare])
        return [method for method in METHODS if method in chosen]

    def _on_display(self, found: Explanation, labels: Sequence[str]) -> Explanation:
        """Only these labels' panels, as far as they are prepared, with the controls where they stand."""
        kept = [label for label in labels if label in found.labels]
        return self._at_settings(found.with_panels(kept) if kept else found)

    def _at_settings(self, shown: Explanation) -> Explanation:
        # Under the identity the one stop stands for every damping.
        damping = shown.dampings[shown.stop_at(self.damping) or 0]
        return shown.with_settings(method=self.method, k=self.k, damping=damping, sign=self.sign)

    def _name(self, label: str | int) -> str:
        names = self._queries.class_names
        if isinstance(label, str) or not 0 <= label < len(names):
            return str(label)
        return names[label]

    def _set(self, trait: str, value: Any) -> None:
        """Set what follows from an answer, which is no new question."""
        needs = ["labels", "damping", "like"]
        self.unobserve(self._on_need, needs)
        setattr(self, trait, value)
        self.observe(self._on_need, needs)

    def _holds(self, found: Explanation | None) -> bool:
        return found is not None and (len(found.dampings) == 1 or found.stop_at(self.damping) is not None)

    def _answers(self, found: Explanation | None, labels: Sequence[str]) -> bool:
        """Whether an explanation has these panels, at the damping that is asked for."""
        return found is not None and self._holds(found) and set(labels) <= set(found.labels)

    def _is_prepared(self) -> bool:
        found, similar = self._prepared.get(self.query), self._prepared.similar(self.like)
        return self._answers(found, self.labels) and (self.like is None or self._holds(similar))

    def _ensure(self) -> None:
        """Start preparing what the traits ask for, unless it is there or on its way."""
        with self._guard:
            request = (self.query, tuple(self.labels), self.damping, self.like)
            if self._closed or self._request == request:
                return
            if self._is_prepared():
                if not self.labels:
                    known = self._prepared.get(self.query)
                    self._set(
                        "labels", self._prepared.labels(self.query) or list(known.labels if known else ())
                    )
                self._wanted += 1  # whatever still runs was for something else
                self._request = self._failure = None
                self._display(self._prepared.get(self.query), self._prepared.similar(self.like))
                self._settled.set()
                message = _cut_short(self._explanation)
                if (self.status, self.message) != ("ready", message):
                    self._report("ready", message)
                return
            self._wanted += 1
            ticket = self._wanted
            self._request = request
            self._failure = None
            self._settled.clear()
            self._worker = _background(self._prepare, ticket, self._worker, request)
            # Where the query itself is at hand, it is its like that is missing.
            at_hand = self._answers(self._prepared.get(self.query), self.labels)
            what = f"what is like #{self.like}" if at_hand else f"test #{self.query}"
            self._report("preparing", f"Preparing {what}…")
            self._worker.start()

    def _prepare(self, ticket: int, previous: threading.Thread | None, request: _Request) -> None:
        if previous is not None:
            previous.join()  # it stops at its next progress call
        query, labels, damping, like = request
        shown = self._prepared.get(query)
        if labels and shown is not None:
            # Panels that were there stay at hand: removing one and adding it again costs nothing.
            labels = tuple(dict.fromkeys([*labels, *shown.labels]))

        def progress(fraction: float) -> None:
            if ticket != self._wanted or _ending.is_set():
                raise _Superseded
            if ticket <= self._cancelled:
                raise Cancelled
            if fraction in (0.0, 1.0) or abs(fraction - self.progress) >= 0.01:
                self.progress = round(fraction, 3)

        try:
            progress(0.0)
            queries, explainer = self._open_queries(), self._open()
            if shown is not None and self._answers(shown, labels):
                explanation = shown
            else:
                explanation = queries.explain(query, labels or None, damping=damping, progress=progress)
            similar = self._prepared.similar(like)
            if like is not None and not self._holds(similar):
                similar = explainer.more_like(like, damping=damping, progress=progress)
        except _Superseded:
            return
        except Exception as error:  # whatever it is, the person at the widget must read it
            with self._guard:
                if ticket == self._wanted:
                    self._give_up(error)
            return
        with self._guard:
            if ticket != self._wanted:
                return
            self._request = None
            self._prepared.keep(query, explanation)
            if similar is not None and like is not None:
                self._prepared.keep_similar(like, similar)
            if not set(self.labels) <= set(explanation.labels) or not self.labels:
                # In a regression a panel's name is its target in words, whatever was asked for.
                asked = len(self.labels) or len(explanation.labels)
                self._set("labels", list(explanation.labels[:asked]))
            self._display(explanation, similar)
            self._report("ready", _cut_short(explanation))
            self._settled.set()

    def _give_up(self, error: Exception) -> None:
        """Back to what is on display, so that asking again is a change."""
        self._request = None
        shown = self._explanation
        cancelled = isinstance(error, Cancelled)
        if cancelled:
            self._failure = RelatifError(f"The preparation of test #{self.query} was cancelled.")
            if shown is not None and shown.query.index is not None and shown.query.index != self.query:
                self.unobserve(self._on_query, "query")
                self._set("labels", list(self._prepared.labels(shown.query.index)))
                self.query = shown.query.index
                self.observe(self._on_query, "query")
        else:
            self._failure = error
        if shown is not None and shown.query.index == self.query:
            kept = [label for label in self.labels if label in shown.labels]
            self._set("labels", kept or list(shown.labels))
        if self._similar is None or not self._holds(self._prepared.similar(self.like)):
            self._set("like", None)
            self._similar = None
        if cancelled:
            self._report("idle" if shown is None else "ready", "Cancelled.")
        else:
            self._report("error", in_words(error))
        self._settled.set()

    def _display(self, explanation: Explanation | None, similar: Explanation | None) -> None:
        """Make these what is on display, and tell the browser where that is news."""
        if explanation is not self._explanation:
            self._explanation = explanation
            self._send_explanation()
        if similar is not self._similar:
            self._similar = similar
            self._send_similar()
        self._prepared.leave(self.query, self.labels)
        self._send_returned()

    def _report(self, status: str, message: str = "") -> None:
        with self.hold_sync():
            self.message = message
            if status != "preparing":
                self.progress = 1.0 if status == "ready" else 0.0
            self.status = status

    # The browser

    def _on_message(self, _: Any, content: Any, buffers: Any) -> None:
        kind = content.get("kind") if isinstance(content, dict) else None
        if self._closed:
            return
        if kind == "ready":
            self._ensure()
            if self._explanation is not None:
                self._send_explanation()
                self._send_similar()
                self._send_returned()
        elif kind == "strip":
            _background(self._send_strip, content).start()
        elif kind == "detail":
            _background(self._send_detail, content).start()
        elif kind == "check":
            _background(self._send_check, content).start()
        elif kind == "still":
            _background(self._send_still).start()
        elif kind == "cancel":
            self.cancel()
        elif kind == "cancel_checks":
            self.cancel_checks()
        elif kind == "resume":
            self.resume()

    def _send_explanation(self) -> None:
        if self._explanation is not None:
            self.send({"kind": "explanation", "document": self._explanation.to_dict()})

    def _send_similar(self) -> None:
        document = None if self._similar is None else self._similar.to_dict()
        self.send({"kind": "similar", "index": self.like, "document": document})

    def _send_returned(self) -> None:
        """For how many of the queries prepared so far each example on display is among the cards as well."""
        if self._explanation is None or self._closed:
            return
        shown = {
            example.index
            for explanation in (self._explanation, self._similar)
            if explanation is not None
            for example in explanation.examples
        }
        counts = self._prepared.returned(
            shown, self._methods(), damping=self.damping, sign=self.sign, k=self.k
        )
        self.send({"kind": "returned", "of": len(self._prepared), "counts": counts})

    def _send_detail(self, request: dict[str, Any]) -> None:
        """The picture of one training example, larger than its thumbnail."""
        try:
            index = int(request["index"])
            media = self._open().show(index)
        except Exception as error:
            self.send({"kind": "error", "id": request.get("id"), "message": in_words(error)})
            return
        self.send({"kind": "detail", "id": request.get("id"), "index": index, "media": asdict(media)})

    def _send_still(self) -> None:
        """What is on display for hosts without scripts, to be kept with the notebook."""
        with self._guard:
            shown = self._explanation
            if shown is None:
                return
            settled = self._on_display(shown, self.labels)
        # The document is there already.
        still = settled._repr_mimebundle_(include={"text/html", "text/plain"})
        self.send({"kind": "still", "html": still["text/html"], "text": still["text/plain"]})

    def _send_check(self, request: dict[str, Any]) -> None:
        identity, indices, row = request.get("id"), request.get("indices", []), self.query
        answer = {"kind": "check", "id": identity, "removed": indices}
        try:
            row, found = self._check([int(index) for index in indices])
        except Exception as error:
            self.send({**answer, "query": row, "error": in_words(error)})
            return
        self.send({**answer, "query": row, "check": asdict(cast(Any, found))})

    def _send_strip(self, request: dict[str, Any]) -> None:
        identity = request.get("id")
        try:
            count = min(STRIP_LIMIT, int(request["count"]))
            page = self._queries.page(
                request["filter"], int(request["offset"]), count, around=request.get("around")
            )
        except Exception as error:
            self.send({"kind": "error", "id": identity, "message": in_words(error)})
            return
        self.send({"kind": "strip", "id": identity, **asdict(page)})


_Request = tuple[int, tuple[str, ...], float, int | None]  # query, labels, damping, like


class _Superseded(Exception):
    """A newer request came; this preparation is no longer wanted."""


def _cut_short(explanation: Explanation | None) -> str:
    """What to say of an explanation whose preparation was cancelled on the way; "" of a whole one."""
    if explanation is None or explanation.provenance.examined is None:
        return ""
    part, whole = explanation.provenance.examined, explanation.provenance.train_size
    return f"Cancelled: ranks the first {part:,} of {whole:,} training examples."


def _listed(labels: Any) -> list[Any]:
    if labels is None:
        return []
    return (
        [labels] if isinstance(labels, (str, int, float)) or not hasattr(labels, "__iter__") else list(labels)
    )


def in_words(error: Exception) -> str:
    """An error as the widget shows it: ours as they are, others with their kind."""
    if isinstance(error, RelatifError):
        return str(error)
    notes = " ".join(getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{'. ' if notes else ''}{notes}"


def _background(target: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, name="relatif-prepare", daemon=True)
    _threads.add(thread)
    return thread


_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_ending = threading.Event()


@atexit.register
def _stop() -> None:
    """Preparations end before Python does: a thread that it stops within torch takes the process down."""
    _ending.set()
    until = time.monotonic() + LAST_SECONDS
    for thread in list(_threads):
        if thread.is_alive():
            thread.join(max(0.0, until - time.monotonic()))
