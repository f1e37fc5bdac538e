"""What explanations and reports have in common: JSON text, files, and the views that draw them."""

from __future__ import annotations

import base64
import json
import os
import secrets
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from .errors import DocumentError

SCHEMA_VERSION = "1.1"
MIME_TYPE = "application/vnd.relatif.explanation.v1+json"

LARGEST_DOCUMENT = 64_000_000
"""Bytes that a packed document may hold: somebody else's file must not fill the memory."""

Document = TypeVar("Document")


class Saved(ABC):
    """A document that is written, read and drawn."""

    @classmethod
    @abstractmethod
    def _adapter(cls) -> TypeAdapter[Any]:
        """What checks and writes it."""

    @classmethod
    @abstractmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a document.

        Raises:
            DocumentError: The text is no such document, is damaged, or was written
                by a newer major version.
        """

    def _on_request(self) -> Mapping[str, Callable[[], Any]]:
        """What IPython gets only where it asks for it, by MIME type."""
        return MappingProxyType({})

    def to_json(self) -> str:
        """The document as JSON text."""
        return self._adapter().dump_json(self).decode()

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        value: dict[str, Any] = self._adapter().dump_python(self, mode="json")
        return value

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the document, by custom named `*.relatif.json`, in one atomic step."""
        return write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a document that `save` wrote; errors as in `from_json`, or OSError."""
        return cls.from_json(Path(path).read_bytes())

    @overload
    def to_html(self, path: None = None) -> str: ...

    @overload
    def to_html(self, path: str | os.PathLike[str]) -> Path: ...

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """A page of its own, sliders alive, that needs neither kernel nor network.

        Args:
            path: Where to write it, if anywhere.

        Returns:
            The path; without one the page's HTML.
        """
        page: str = view("page")(self)
        return page if path is None else write_atomically(path, page)

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, Any]:
        # JupyterLab takes the document, sliders alive; GitHub, nbconvert and mail the HTML; terminals the text.
        made: dict[str, Callable[[], Any]] = {
            "text/plain": lambda: repr(self),
            "text/html": lambda: view("text/html")(self),
            MIME_TYPE: lambda: pack(self.to_json()),
        }
        if include:
            every = {**made, **self._on_request()}
            made = {mime: make for mime, make in every.items() if mime in include}
        return {mime: make() for mime, make in made.items() if not exclude or mime not in exclude}

    def __repr__(self) -> str:
        text: str = view("text/plain")(self)
        return text


# Views know explanations, not the other way round; they sign up here.
View = Literal["page", "text/html", "text/plain", "image/png", "figure", "gallery"]
_VIEWS: dict[View, Callable[..., Any]] = {}


def register_view(name: View, draw: Callable[..., Any]) -> None:
    """Let `draw` make a view of every explanation; it takes what the method of that name passes on."""
    _VIEWS[name] = draw


def view(name: View) -> Callable[..., Any]:
    """What was registered under that name."""
    return _VIEWS[name]


def pack(text: str) -> dict[str, Any]:
    """A document as notebooks keep it: compressed, since they would put each of its numbers on a line of its own."""
    data = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    return {"schema_version": SCHEMA_VERSION, "packed": data}


def _unpack(data: str) -> str:
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(base64.b64decode(data, validate=True), LARGEST_DOCUMENT)
    except (ValueError, zlib.error) as error:
        raise DocumentError(f"Damaged explanation at packed: {error}.") from None
    if inflate.unconsumed_tail:
        raise DocumentError(f"Damaged explanation at packed: it holds more than {LARGEST_DOCUMENT:,} bytes.")
    if not inflate.eof:
        raise DocumentError("Damaged explanation at packed: it ends too early.")
    return text.decode("utf-8", "replace")


def read_head(text: str | bytes) -> tuple[str, dict[str, Any]]:
    """The text of a document of either kind that this release reads, unpacked, and its top level.

    Raises:
        DocumentError: The text is no document, or of a newer major version.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _incomplete(error) from None
    head = _head(text)
    if isinstance(head.get("packed"), str):
        text = _unpack(head["packed"])
        head = _head(text)
        if "packed" in head:  # one layer, or a file could unfold for ever
            raise DocumentError("Damaged explanation at packed: it is packed twice.")
    if head.get("pending") is True:
        raise DocumentError(
            "No explanation had been prepared when this notebook was saved: run its cell again."
        )
    return text, head


def _head(text: str) -> dict[str, Any]:
    """The top level of a JSON object of a version that this release reads."""
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _incomplete(error) from None
    found = head.get("schema_version") if isinstance(head, dict) else None
    if not isinstance(head, dict) or isinstance(found, bool) or not isinstance(found, (str, int, float)):
        raise DocumentError("No schema_version: this JSON is not a relatif_widgets explanation.")
    version = str(found)
    major, known = (text.partition(".")[0] for text in (version, SCHEMA_VERSION))
    if major == known and not isinstance(found, str):
        raise DocumentError("No schema_version: this JSON is not a relatif_widgets explanation.")
    if major != known:
        raise DocumentError(
            f"The explanation has schema version {version[:20]}; this relatif_widgets reads "
            f"{known}.x. Open it with the release that wrote it, or a newer one."
        )
    return head


def _incomplete(error: Exception) -> DocumentError:
    return DocumentError(f"Not a complete JSON document ({error}). Was the file cut short?")


def read_document(adapter: TypeAdapter[Document], text: str) -> Document:
    """Check the text of a document against its dataclass.

    Raises:
        DocumentError: Where it is damaged, in one sentence.
    """
    try:
        # strict: JSON has types, and true is no 1 in the browser either
        return adapter.validate_json(text, strict=True)
    except UnicodeEncodeError:
        raise DocumentError("The document holds half a character (a lone surrogate).") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        fault = first["msg"].removeprefix("Value error, ")
        fault = fault if len(fault) <= 200 else f"{fault[:199]}…"
        count = error.error_count()
        more = f" ({count} faults in all)" if count > 1 else ""
        raise DocumentError(f"Damaged explanation at {where}: {fault}{more}.") from None


def write_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file so that readers see the old one or the new one, never half."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {target.parent} to write {target.name} into.")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target
