"""The three choke points, fuzzed: a name becomes a path, a text enters a file, a URL is called."""

from __future__ import annotations

import html.parser
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.errors import BadName, BadReference, UnsafePath, UnsafeText, UnsafeUrl
from mlops_nb.reference import DeploymentRef, ModelRef
from mlops_nb.safety import checked_name, checked_url, path_inside, text_for

NASTY = st.text(alphabet=st.sampled_from(list("ab/.\\#?%:*~\0\n\r\t '\"`$(){}<>&;|=é\u2028\u202e")), max_size=40) | st.text(max_size=40)
ESCAPES = [
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "%2e%2e/x",
    "a%2fb",
    "a#b",
    "a?b",
    "C:/x",
    "C:\\x",
    "//proc/self/root",
    "a\0b",
    "a\nb",
    "",
    ".",
    "./a",
    "a//b",
    " a",
    "a ",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        (root / "out").symlink_to("/etc")
        (root / "up").symlink_to("..")
        yield root


@given(parts=st.lists(NASTY, min_size=1, max_size=3))
def test_whatever_a_name_is_its_path_stays_inside(folder: Path, parts: list[str]) -> None:
    try:
        path = path_inside(folder, *parts)
    except UnsafePath:
        return
    assert path.is_relative_to(folder.resolve())
    assert path != folder.resolve()
    assert path == Path(path.as_posix())


@pytest.mark.parametrize("name", ESCAPES)
def test_known_ways_out_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(UnsafePath):
        path_inside(folder, name)


@pytest.mark.parametrize("name", ["out/passwd", "out", "up/x"])
def test_a_symlink_is_no_way_out(folder: Path, name: str) -> None:
    with pytest.raises(UnsafePath):
        path_inside(folder, name)


@pytest.mark.parametrize("name", ["model.onnx", "code/pkg/__init__.py", "weights/part-1.bin", "été.txt"])
def test_plain_names_are_let_through(folder: Path, name: str) -> None:
    assert path_inside(folder, name) == folder.resolve() / name


@given(name=NASTY)
def test_a_checked_name_is_one_plain_segment(name: str) -> None:
    try:
        checked_name(name)
    except BadName:
        return
    assert name == shlex.quote(name) and "/" not in name and not name.startswith(".") and ".." not in name


@given(text=NASTY)
def test_text_in_yaml_comes_back_as_it_was(text: str) -> None:
    try:
        token = text_for("yaml", text)
    except UnsafeText:
        return
    assert yaml.safe_load(f"before: 1\nkey: {token}\nafter: 2\n") == {"before": 1, "key": text, "after": 2}


@given(text=NASTY)
def test_text_in_html_adds_no_element(text: str) -> None:
    seen: list[str] = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)
            assert [name for name, _ in attrs] == (["title"] if tag == "b" else [])

    Parser().feed(f'<b title="{text_for("html", text)}">{text_for("html", text)}</b>')
    assert seen == ["b"]


@given(text=NASTY.filter(lambda text: text))
def test_text_in_shell_is_one_word(text: str) -> None:
    try:
        word = text_for("shell", text)
    except UnsafeText:
        return
    assert shlex.split(f"echo {word} end") == ["echo", text, "end"]


@given(text=NASTY)
def test_text_in_a_dockerfile_is_one_word_that_names_no_variable(text: str) -> None:
    try:
        word = text_for("dockerfile", text)
    except UnsafeText:
        return
    inner = word[1:-1]
    assert word == f'"{inner}"' and not re.search(r'(?<!\\)(?:\\\\)*["$]', inner)
    assert re.sub(r"\\(.)", r"\1", inner, flags=re.DOTALL) == text


@given(text=NASTY)
def test_text_in_a_label_that_prometheus_scrapes_is_one_value(text: str) -> None:
    try:
        value = text_for("prometheus", text)
    except UnsafeText:
        return
    inner = value[1:-1]
    assert value == f'"{inner}"' and not re.search(r'(?<!\\)(?:\\\\)*"', inner) and "\n" not in inner
    assert re.sub(r"\\(.)", r"\1", inner, flags=re.DOTALL) == text


def test_a_real_shell_agrees() -> None:
    nasty = "`touch /tmp/no` $(touch /tmp/no) '; touch /tmp/no; \" {{x}} ${HOME} \\ !"
    done = subprocess.run(["bash", "-c", f"printf %s {text_for('shell', nasty)}"], capture_output=True, text=True, check=True)
    assert done.stdout == nasty


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x", "file:///etc/passwd", "http://169.254.169.254/latest", "http://10.0.0.1/", "http://example.com/", "http://127.0.0.1@evil.test/",
        "http://user:pw@localhost/", "http://localhost\\@evil.test/", "http://[::ffff:10.0.0.1]/", "http://", "javascript:alert(1)", "http://127.0.0.1:99999/",
        "http://127.0.0.1/\r\nx: y", "http://0.0.0.0/", "http://localhost.evil.test/", "gopher://localhost/",
    ],
)  # fmt: skip
def test_addresses_that_are_not_called(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        checked_url(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/delays/score", "https://localhost/x", "http://[::1]:80/"])
def test_this_machine_is_called(url: str) -> None:
    assert checked_url(url) == url


def test_an_allowed_host_is_called() -> None:
    assert checked_url("https://hooks.example.com/x", allowed_hosts=["hooks.example.com"]) == "https://hooks.example.com/x"


@given(text=NASTY)
def test_a_reference_is_read_back_as_it_was_written(text: str) -> None:
    for kind in (ModelRef, DeploymentRef):
        try:
            ref = kind.parse(text)
        except (BadName, BadReference):
            continue
        assert kind.parse(str(ref)) == ref


@pytest.mark.parametrize("text", ["churn:0", "churn:x", "churn:-1", "churn:", "churn:1:2", ":1", "@a", "churn@", "churn:1@a", "chu rn", "../churn:1"])
def test_what_names_no_version_is_refused(text: str) -> None:
    with pytest.raises((BadReference, BadName)):
        ModelRef.parse(text)
