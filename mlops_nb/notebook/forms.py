"""`%mlops deploy --form`: the deploy command as fields, checked as you type, with the line that does the same always in sight."""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
from IPython.display import display

from .. import cards, commands, hardware, targets, vocabulary
from ..errors import MissingExtra, MlopsError, UsageError, listed
from ..safety import text_for

if TYPE_CHECKING:
    import ipywidgets as widgets

    from ..progress import Reporter
    from .magics import Notebook

_MOST_LOG_LINES = 8
_NEWEST = "newest"
_OPTIONS = {"endpoint": "--endpoint", "to": "--to", "traffic": "--traffic", "name": "--as", "cpus": "--cpus", "memory_mb": "--memory", "hardware": "--hardware"}
_LABELS = {
    "model": "Model", "version": "Version", "endpoint": "Endpoint", "to": "Target", "name": "Called", "hardware": "Hardware",
    "cpus": "CPU cores", "memory_mb": "Memory", "traffic": "Traffic %",
}  # fmt: skip


def deploy_form(given: Mapping[str, Any], where: Notebook) -> DeployForm:
    """The form, filled with the words that were given with `--form`.

    Raises UsageError for a word that no field of it shows, which would be lost; MissingExtra without ipywidgets.
    """
    if unshown := given.keys() - _OPTIONS.keys() - {"ref", "form"}:
        options = {param.name: param.opts[0] for param in click.get_current_context().command.params}
        raise UsageError(f"The form has no field for {listed(options[name] for name in sorted(unshown))}.", hint="say it without --form")
    try:
        import ipywidgets  # noqa: F401 - asked here once, so that the form itself need not
    except ImportError:
        raise MissingExtra("ipywidgets", extra="notebook", doing="A form") from None
    return DeployForm(given, where)


class DeployForm:
    """The deploy command as a form.

    `fields` are the widgets by name, `messages` what stands under each, `line` the equivalent `%mlops` line, `button` deploys,
    `reason` says why it cannot.  `result` is what the last deploy made, `failure` why it did not.
    """

    def __init__(self, given: Mapping[str, Any], where: Notebook) -> None:
        import ipywidgets as widgets

        self._where = where
        self._shown: Any = None
        self.result: Any = None
        self.failure: Exception | None = None
        self.running: threading.Thread | None = None
        self.fields = _fields(given)
        self.messages = {name: widgets.HTML() for name in self.fields}
        self.button = widgets.Button(description="Deploy", button_style="primary")
        self.copy = widgets.Button(description="Copy the line")
        self.reason = widgets.HTML()
        self.progress = widgets.HTML()
        self._scripts = widgets.Output()
        self.widget = self._laid_out()
        self.button.on_click(lambda _: self.deploy())
        self.copy.on_click(lambda _: self._copy())
        for name, field in self.fields.items():
            field.observe(lambda _, changed=name: self._changed(changed), names="value")
        self._changed("model", keep=_version_choice(given))

    @property
    def line(self) -> str:
        """The line that does what the button does."""
        return shlex.join(["%mlops", *self.words()])

    def words(self) -> list[str]:
        """The command's words, without its prompt."""
        version = self.fields["version"].value
        ref = self.fields["model"].value or "MODEL"
        said = [word for name, option in _OPTIONS.items() if self._said(name) for word in (option, self._said(name))]
        return ["deploy", ref if version in (None, _NEWEST) else f"{ref}:{version}", *said]

    def problems(self) -> dict[str, str]:
        """What is wrong, by field; empty when the line can be carried out."""
        told = {name: self._problem(name) for name in self.fields}
        return {name: text for name, text in told.items() if text}

    def deploy(self) -> None:
        """Carry the line out in the background; `running` is the thread, `result` or `failure` what came of it."""
        if self.problems() or (self.running and self.running.is_alive()):
            return
        self.result, self.failure = None, None
        self._enable(False)
        self.running = threading.Thread(target=self._carry_out, args=(self.words(),), daemon=True, name="mlops-form")
        self.running.start()

    def _ipython_display_(self) -> None:
        """The form, and below it the line as plain HTML, which stays readable in the saved notebook."""
        bundle = self.widget._repr_mimebundle_() or {}
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        display({**data, "text/html": self._fallback(), "text/plain": self.line}, raw=True)
        self._shown = display(_Html(self._fallback(), self.line), display_id=True)

    # ── as it changes ────────────────────────────────────────────────────────────────────────────────────────────────

    def _changed(self, name: str, *, keep: object = None) -> None:
        if name == "model":
            self.fields["version"].options = _versions(self.fields["model"].value)
            self.fields["version"].value = keep if keep in dict(self.fields["version"].options).values() else _NEWEST
            self.fields["endpoint"].placeholder = self.fields["model"].value or ""
        problems = self.problems()
        for field, message in self.messages.items():
            message.value = f'<span role="alert" style="color:var(--jp-error-color1,#b3261e)">✗ {_safe(problems[field])}</span>' if field in problems else ""
        why = next((f"{_LABELS[field]}: {text}" for field, text in problems.items()), "")
        self.button.disabled = bool(why)
        self.button.tooltip = why or self.line
        self.reason.value = f"Deploy is off. {_safe(why)}" if why else ""
        self._show_line()

    def _said(self, name: str) -> str:
        value = self.fields[name].value
        default = {"to": "local", "hardware": "cpu"}.get(name)
        return "" if value is None or str(value).strip() in ("", default) else str(value).strip()

    def _problem(self, name: str) -> str:
        if name == "model":
            return "" if self.fields["model"].value else "no model is registered; %mlops register MODEL --name NAME"
        if name == "version" or not self._said(name):
            return ""
        return problem(name, self._said(name)) or _too_much(name, self._said(name))

    # ── on the click ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _carry_out(self, words: list[str]) -> None:
        try:
            self.result = commands.run(words, _InForm(self._where, self.progress))
            self._show_card(cards.card_of(self.result))
        except MlopsError as error:
            self.failure = error
            self._show_card(cards.Card(title=error.code, mark=cards.Mark("bad", "not deployed"), log=f"{error}\n{error.detail}".strip(), note=error.advice))
        except Exception as error:  # a thread has no cell to show it in
            self.failure = error
            self._show_card(cards.Card(title=type(error).__name__, mark=cards.Mark("bad", "a fault of mlops_nb"), log=str(error)))
        finally:
            self._enable(True)

    def _show_card(self, card: cards.Card) -> None:
        """Put the card below the form, where it stays when the kernel has gone."""
        if self._shown:
            self._shown.update(_Html(f"{self._fallback()}{cards.as_html(card)}", f"{self.line}\n{cards.as_text(card)}"))

    def _show_line(self) -> None:
        if self._shown:
            self._shown.update(_Html(self._fallback(), self.line))

    def _fallback(self) -> str:
        return f'<div>The same as a line: <code style="user-select:all">{_safe(self.line)}</code></div>'

    def _enable(self, on: bool) -> None:
        for field in self.fields.values():
            field.disabled = not on
        self.button.disabled = not on
        self.reason.value = "" if on else "Deploy is off while this one starts."

    def _copy(self) -> None:
        import json

        from IPython.display import Javascript

        said = json.dumps(self.line).replace("<", "\\u003c")
        self._scripts.clear_output()
        with self._scripts:
            display(Javascript(f"navigator.clipboard.writeText({said})"))

    def _laid_out(self) -> widgets.VBox:
        import ipywidgets as widgets

        rows = [widgets.VBox([self.fields[name], self.messages[name]]) for name in self.fields]
        return widgets.VBox([*rows, widgets.HBox([self.button, self.copy]), self.reason, self.progress, self._scripts])


def problem(name: str, text: str) -> str:
    """Why the deploy command would not take *text* for this parameter; empty when it would."""
    command = commands.mlops.commands["deploy"]
    context = click.Context(command, info_name="deploy")
    param = next(p for p in command.params if p.name == name)
    try:
        param.type_cast_value(context, text)
    except MlopsError as error:
        return str(error)
    except click.ClickException as error:
        return error.message
    return ""


def _too_much(name: str, text: str) -> str:
    """More than this machine has would wait for ever, or be killed."""
    import psutil

    cores, memory_mb = os.cpu_count() or 1, psutil.virtual_memory().total // 1_000_000
    if name == "cpus" and float(text) > cores:
        return f"this machine has {cores} cores"
    if name == "memory_mb" and vocabulary.MEMORY.convert(text, None, None) > memory_mb:
        return f"this machine has {memory_mb:,} MB"
    return ""


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    import ipywidgets as widgets

    names = list(vocabulary.model_names())
    ref = given.get("ref")
    memory = given.get("memory_mb")
    filled = {
        "endpoint": given.get("endpoint"),
        "name": given.get("name"),
        "cpus": given.get("cpus"),
        "traffic": given.get("traffic"),
        "memory_mb": memory and f"{memory}m",
    }
    text = {name: "" if value is None else str(value) for name, value in filled.items()}
    style = {"description_width": "90px"}

    def field(kind: Callable[..., Any], name: str, **more: Any) -> Any:
        return kind(description=_LABELS[name], style=style, **more)

    return {
        "model": field(widgets.Dropdown, "model", options=names, value=ref.name if ref and ref.name in names else next(iter(names), None)),
        "version": field(widgets.Dropdown, "version", options=[(_NEWEST, _NEWEST)], value=_NEWEST),
        "endpoint": field(widgets.Combobox, "endpoint", options=list(vocabulary.endpoint_names()), value=text["endpoint"], continuous_update=True),
        "to": field(widgets.Dropdown, "to", options=list(targets.NAMES), value=given.get("to", "local")),
        "name": field(widgets.Text, "name", value=text["name"], placeholder="the version's number"),
        "hardware": field(widgets.Dropdown, "hardware", options=list(hardware.NAMES), value=given.get("hardware", "cpu")),
        "cpus": field(widgets.Text, "cpus", value=text["cpus"], placeholder="all"),
        "memory_mb": field(widgets.Text, "memory_mb", value=text["memory_mb"], placeholder="no limit, or 512m"),
        "traffic": field(widgets.Text, "traffic", value=text["traffic"], placeholder="all if it is the first, else none"),
    }


def _versions(model: str | None) -> list[tuple[str, str]]:
    """What the version field offers: label, value."""
    if not model:
        return [(_NEWEST, _NEWEST)]
    from .. import registry

    found = registry.search(model)
    return [(_NEWEST, _NEWEST), *((_version_label(v), str(v.version)) for v in found)]


def _version_label(version: Any) -> str:
    return f"{version.version} ({', '.join(version.aliases)})" if version.aliases else str(version.version)


def _version_choice(given: Mapping[str, Any]) -> str | None:
    ref = given.get("ref")
    if not ref or (ref.version is None and ref.alias is None):
        return None
    from .. import registry

    return str(registry.get(ref).version)


def _safe(text: object) -> str:
    return text_for("html", text)


class _InForm:
    """The form's own face: the notebook's, but progress is drawn in the form."""

    def __init__(self, notebook: Notebook, drawn: widgets.HTML) -> None:
        self._notebook = notebook
        self._drawn = drawn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._notebook, name)

    @contextlib.contextmanager
    def reporting(self, doing: str) -> Iterator[Reporter]:
        """Steps, and the log's last lines, in the form."""
        progress = _FormProgress(self._drawn)
        progress.step(doing)
        try:
            yield progress
        except BaseException:
            progress.end("✗")
            raise
        progress.end("✓")


class _FormProgress:
    def __init__(self, drawn: widgets.HTML) -> None:
        self._drawn = drawn
        self._steps: list[str] = []
        self._log: list[str] = []
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        self._steps.append(text)
        self._draw("…")

    def log(self, line: str) -> None:
        self._log = [*self._log, line][-_MOST_LOG_LINES:]
        self._draw("…")

    def end(self, mark: str) -> None:
        self._draw(mark)

    def _draw(self, mark: str) -> None:
        seconds = time.monotonic() - self._began
        marks = ["✓"] * (len(self._steps) - 1) + [mark]
        steps = "".join(f"<div>{sign} {_safe(text)}</div>" for sign, text in zip(marks, self._steps, strict=True))
        log = "<pre>" + "\n".join(_safe(line) for line in self._log) + "</pre>" if self._log else ""
        self._drawn.value = f'<div role="status">{steps}<div>{seconds:.1f} s</div></div>{log}'


class _Html:
    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html
