"""A real Jupyter server, a real Chromium, and the notebook's own kernel, for the browser tests.

What a test clicks in the page it then reads back as a value from the kernel:

    page = open_notebook("01-first-explanation.ipynb", host="lab")
    page.run_all()
    page.locator(".relatif").get_by_role("slider").press("ArrowRight")
    page.expect_in_kernel("widget.k", 6)
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import nbformat
import websocket
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, WebSocket

Host = Literal["lab", "notebook"]

LOCAL = {"127.0.0.1", "localhost"}

# What a page of the host throws with no widget of ours in it, and from which of its scripts.
BARE_HOST_ERRORS = [
    # Notebook 7 listens to a settings plugin that only JupyterLab loads.
    ("Cannot read properties of undefined (reading 'schema')", "/static/notebook/notebook_core"),
    # Notebook 7 opens its file browser at the notebook's folder, and has none in this view.
    ("Command 'filebrowser:open-path' not registered", "/static/notebook/notebook_core"),
]

SETTINGS = {
    # Every output stays in the page, also those out of view.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    # No question about news, and no request for them.
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # A workspace or a document saved behind a test's back would only disturb it.
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}


class JupyterServer:
    """`jupyter lab` over one folder, with settings, kernels and history of its own.

    Args:
        home: An empty folder; the notebooks are to go in `home / "root"`.
    """

    def __init__(self, home: Path) -> None:
        self.root = home / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "jupyter.log"
        for name, value in SETTINGS.items():
            file = home / "settings" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(value))
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "IPYTHONDIR": str(home / "ipython"),
            "RELATIF_OUT": str(self.root),
        }
        command = [
            *(sys.executable, "-m", "jupyterlab"),
            *("--no-browser", "--allow-root", "--expose-app-in-browser"),
            "--JupyterNotebookApp.expose_app_in_browser=True",
            f"--ServerApp.ip={urlsplit(self.url).hostname}",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.root}",
            f"--IdentityProvider.token={self.token}",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(timeout=60)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"jupyter lab ended by itself:\n{self.log.read_text()}")
            try:
                self.api("GET", "status")
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(f"jupyter lab was not ready after {timeout} s:\n{self.log.read_text()}")

    def api(self, method: str, path: str) -> Any:
        """Ask the server's REST interface, and give back what its JSON holds."""
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def write_notebook(self, name: str, cells: Sequence[str]) -> str:
        """Lay a notebook of code cells in the server's folder; gives back its name."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(notebook, self.root / name)
        return name

    def sessions(self, path: str) -> list[dict[str, Any]]:
        """The running sessions of one notebook."""
        return [session for session in self.api("GET", "sessions") if session["path"] == path]

    def shut_down(self, path: str) -> None:
        """End the kernels of one notebook."""
        for session in self.sessions(path):
            try:
                self.api("DELETE", f"sessions/{session['id']}")
            except urllib.error.HTTPError as error:
                if error.code != 404:  # it ended by itself in between
                    raise

    def stop(self) -> None:
        """End the server and, with its process group, every kernel."""
        for sent, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            if self._process.poll() is None:
                os.killpg(self._process.pid, sent)
                try:
                    self._process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class Kernel:
    """A second channel to a running kernel: reads values there, past the page.

    Args:
        server: Where it runs.
        identity: The kernel's id.
    """

    def __init__(self, server: JupyterServer, identity: str) -> None:
        self._session = uuid.uuid4().hex
        self._socket = websocket.create_connection(
            f"ws{server.url.removeprefix('http')}/api/kernels/{identity}/channels?session_id={self._session}",
            header={"Authorization": f"token {server.token}"},
            suppress_origin=True,
            timeout=30,
        )

    def run(self, code: str, *, timeout: float = 30) -> None:
        """Run statements.

        Raises:
            AssertionError: They raised, with the kernel's traceback.
            TimeoutError: The kernel had not answered by then.
        """
        self._execute(code, {}, timeout)

    def value(self, expression: str, *, timeout: float = 30) -> Any:
        """What an expression evaluates to, by way of JSON: tuples come as lists, arrays too.

        Raises:
            AssertionError: It raised, or its value has no JSON.
            TimeoutError: The kernel had not answered by then.
        """
        code = f"__import__('json').dumps(({expression}), default=lambda value: value.tolist())"
        answer = self._execute("", {"value": code}, timeout)["user_expressions"]["value"]
        _raise_kernel_error(answer, expression)
        return json.loads(ast.literal_eval(answer["data"]["text/plain"]))

    def close(self) -> None:
        """Leave the kernel as it is."""
        self._socket.close()

    def _execute(self, code: str, expressions: dict[str, str], timeout: float) -> dict[str, Any]:
        identity = uuid.uuid4().hex
        message = {
            "header": {
                "msg_id": identity,
                "msg_type": "execute_request",
                "username": "test",
                "session": self._session,
                "version": "5.3",
            },
            "parent_header": {},
            "metadata": {},
            "content": {
                "code": code,
                "silent": True,
                "store_history": False,
                "user_expressions": expressions,
                "allow_stdin": False,
                "stop_on_error": False,
            },
            "channel": "shell",
            "buffers": [],
        }
        self._socket.send(json.dumps(message))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                received = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                break
            if not isinstance(received, str):
                continue  # a message with buffers is for the page
            reply = json.loads(received)
            if reply["msg_type"] == "execute_reply" and reply["parent_header"].get("msg_id") == identity:
                _raise_kernel_error(reply["content"], code)
                return dict(reply["content"])
        raise TimeoutError(f"The kernel did not answer within {timeout} s: {code or expressions}")


class NotebookPage:
    """A notebook in JupyterLab 4 or Notebook 7, as a person at the browser has it.

    Args:
        server: Where the notebook lies.
        browser: Gives the page a context of its own.
        host: "lab" or "notebook".

    Attributes:
        page: Playwright's page.
        errors: What went wrong in it so far: console errors and uncaught exceptions.
        foreign: Addresses outside this machine that it asked for.
        comm_messages: How many widget messages it has sent to the kernel.
    """

    def __init__(self, server: JupyterServer, browser: Browser, host: Host) -> None:
        self.server = server
        self.host = host
        self.path: str | None = None
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.comm_messages = 0
        self._kernel: Kernel | None = None
        self._context = browser.new_context(
            viewport={"width": 1280, "height": 900},
            extra_http_headers={"Authorization": f"token {server.token}"},
        )
        self._context.on("console", self._on_console)
        self._context.on("request", self._on_request)
        self._context.on("weberror", lambda error: self._note(error.error.stack or str(error.error)))
        self.page: Page = self._context.new_page()
        self.page.on("websocket", self._on_websocket)

    # What happens in the page

    def open(self, path: str) -> None:
        """Open a notebook, in the light theme, and wait until its kernel is idle."""
        self.path = path
        # A workspace of its own: nothing that another test had open comes back.
        place = (
            f"lab/workspaces/{uuid.uuid4().hex}/tree/{quote(path)}"
            if self.host == "lab"
            else f"notebooks/{quote(path)}"
        )
        self.page.goto(f"{self.server.url}/{place}?token={self.server.token}", wait_until="domcontentloaded")
        self._wait_for_kernel()
        self.set_theme(dark=False)  # the server remembers what the last test chose

    def reload(self) -> None:
        """Load the page again, as F5 does; the kernel goes on."""
        self.page.reload(wait_until="domcontentloaded")
        self._wait_for_kernel()

    def _wait_for_kernel(self) -> None:
        self.page.wait_for_function(
            """() => {
                const panel = window.jupyterapp?.shell?.currentWidget;
                return panel?.sessionContext?.session?.kernel?.status === "idle" && panel.content.widgets.length > 0;
            }""",
            timeout=60_000,
        )

    def run_all(self, *, timeout: float = 120) -> None:
        """Run every cell and wait until the last is done.

        Raises:
            AssertionError: A cell raised, in its own words.
            TimeoutError: Cells were still running by then.
        """
        self.page.evaluate(
            """() => {
                window.relatifRun = "running";
                window.jupyterapp.commands.execute("notebook:run-all-cells").then(
                    () => { window.relatifRun = "done"; },
                    (error) => { window.relatifRun = String(error); },
                );
            }"""
        )
        self.page.wait_for_function('() => window.relatifRun !== "running"', timeout=timeout * 1000)
        failures = self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap((cell) =>
                cell.model.type !== "code" ? [] : cell.model.sharedModel.getOutputs()
                    .filter((output) => output.output_type === "error")
                    .map((output) => `${output.ename}: ${output.evalue}`))"""
        )
        assert not failures, f"{self.path}: {failures}"
        result = self.page.evaluate("() => window.relatifRun")
        assert result == "done", f"{self.path}: {result}"

    def save(self) -> None:
        """Save the notebook, as Ctrl-S does."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def set_theme(self, *, dark: bool) -> None:
        """Switch the host's theme."""
        theme = "JupyterLab Dark" if dark else "JupyterLab Light"
        self.page.evaluate(
            "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
        )
        light = "false" if dark else "true"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached", timeout=15_000)

    def locator(self, selector: str) -> Any:
        """Playwright's locator, within the notebook's outputs."""
        return self.page.locator(".jp-OutputArea-output").locator(selector)

    # What holds in the kernel

    @property
    def kernel(self) -> Kernel:
        """The kernel of the notebook on display."""
        if self._kernel is None:
            assert self.path is not None, "open a notebook first"
            (session,) = self.server.sessions(self.path)
            self._kernel = Kernel(self.server, session["kernel"]["id"])
        return self._kernel

    def evaluate_in_kernel(self, expression: str, *, timeout: float = 30) -> Any:
        """What a Python expression evaluates to in the notebook's kernel; see `Kernel.value`."""
        return self.kernel.value(expression, timeout=timeout)

    def run_in_kernel(self, code: str, *, timeout: float = 30) -> None:
        """Run Python statements in the notebook's kernel."""
        self.kernel.run(code, timeout=timeout)

    def expect_in_kernel(self, expression: str, expected: Any, *, timeout: float = 10) -> None:
        """Wait until an expression has a value: what a click changes reaches the kernel a little later.

        Raises:
            AssertionError: It had another one to the end.
        """
        deadline = time.monotonic() + timeout
        while (found := self.evaluate_in_kernel(expression)) != expected:
            assert time.monotonic() < deadline, f"{expression} is {found!r}; expected {expected!r}"
            self.page.wait_for_timeout(50)

    # What must not happen

    def assert_quiet(self) -> None:
        """Nothing went wrong in the page, and it asked for nothing outside this machine."""
        assert not self.errors, "errors in the page:\n" + "\n".join(self.errors)
        assert not self.foreign, "asked for outside this machine:\n" + "\n".join(self.foreign)

    def close(self) -> None:
        """Close the page and end its kernel."""
        if self._kernel is not None:
            self._kernel.close()
        self._context.close()
        if self.path is not None:
            self.server.shut_down(self.path)

    def _note(self, text: str) -> None:
        if not any(message in text and script in text for message, script in BARE_HOST_ERRORS):
            self.errors.append(text)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"{message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        self._on_address(request.url)

    def _on_websocket(self, socket: WebSocket) -> None:
        self._on_address(socket.url)
        socket.on("framesent", self._on_frame)

    def _on_frame(self, payload: bytes | str) -> None:
        if b"comm_msg" in (payload.encode() if isinstance(payload, str) else payload):
            self.comm_messages += 1

    def _on_address(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname not in LOCAL:
            self.foreign.append(address)


def launch_options() -> dict[str, Any]:
    """How the tests start Chromium: quiet towards the network, and as root where they are root."""
    arguments = [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to start as root with it
    return {"headless": True, "args": arguments}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _raise_kernel_error(answer: dict[str, Any], code: str) -> None:
    if answer["status"] == "error":
        traceback = "\n".join(answer.get("traceback", []))
        raise AssertionError(f"In the kernel, {code}: {answer['ename']}: {answer['evalue']}\n{traceback}")
