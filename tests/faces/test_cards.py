"""Cards: escaped, plain without HTML, and complete."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from mlops_nb import cards, datasets, rollout
from mlops_nb.client import Answer
from mlops_nb.errors import DeploymentNotFound, UnsafeUrl
from mlops_nb.shapes import Dashboard, Facts, Key, Listing, as_data
from mlops_nb.store.deployments import Reason
from mlops_nb.store.models import ModelVersion, StoredFile

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&"


class Tags(HTMLParser):
    """The tags and attributes of a page, and its text outside of style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def version(**more: Any) -> ModelVersion:
    plain: dict[str, Any] = {
        "model": "churn", "version": 3, "flavor": "sklearn", "engine": "onnxruntime", "hash": "ab", "files": [StoredFile(path="m", sha256="ab", bytes=1200)],
        "created_at": datetime.now(UTC) - timedelta(minutes=2),
    }  # fmt: skip
    return ModelVersion(**plain | more)


@pytest.mark.parametrize(
    "thing",
    [
        version(
            description=EVIL,
            tags={EVIL: EVIL},
            author=EVIL,
            dataset=EVIL,
            signature={"inputs": [{"name": EVIL, "type": "string"}]},
            conversion={"reason": EVIL},
        ),
        Listing([version(tags={"a": EVIL}, aliases=[EVIL])], what=EVIL),
        Facts({EVIL: EVIL}),
        cards.Card(
            title=EVIL, kind=EVIL, mark=cards.Mark("bad", EVIL), facts=[(EVIL, EVIL)], tables=[cards.Table([EVIL], [[EVIL]])], log=EVIL, note=EVIL, line=EVIL
        ),
    ],
)
def test_markup_in_what_users_wrote_is_inert(thing: Any) -> None:
    tags = Tags(cards.as_html(thing))

    assert not tags.names & {"img", "script"}
    assert "onerror" not in tags.attributes
    assert "onerror" in tags.text


def test_a_card_says_what_the_version_is() -> None:
    text = cards.as_text(version(aliases=["champion"], metrics={"auc": 0.7123}, tags={"team": "ops"}))

    assert "churn:3  (model version)" in text
    assert all(told in text for told in ("served by ONNX Runtime", "champion", "auc=0.7123", "team=ops", "1, 1.2 kB", "2 minutes ago"))


def test_a_text_column_keeps_its_leading_zeros(workspace: Any, tmp_path: Any) -> None:
    (tmp_path / "rows.csv").write_text("id,n\n001,1.50\n049,2.25\n")

    lines = cards.as_text(datasets.register("rows", tmp_path / "rows.csv")).splitlines()

    assert [line.split()[-2:] for line in lines if line.strip().startswith("id ")] == [["001", "049"]]


def test_a_stopped_workspace_says_what_starts_it() -> None:
    gone = rollout.DeploymentView(
        name="1", model="churn:1", target="local", hardware="cpu", status="stopped", traffic=100, wanted="running", since=datetime.now(UTC)
    )
    status = rollout.WorkspaceStatus(
        workspace="/w", agent=False, gateway="http://127.0.0.1:9", gateway_trouble="", dashboard=None, models=1,
        endpoints=[rollout.EndpointView(name="churn", url="http://127.0.0.1:9/churn", deployments=[gone])],
    )  # fmt: skip

    text = cards.as_text(status)

    assert "gateway      ○ not running (http://127.0.0.1:9)" in text and text.endswith("Try: %mlops up")


def test_an_endpoint_that_answers_still_shows_its_last_error() -> None:
    reason = Reason(kind="exception in a request", message="KeyError: 'missing'", where="score.py:2")
    one = rollout.DeploymentView(
        name="1", model="churn:1", target="local", hardware="cpu", status="healthy", traffic=100, wanted="running", since=datetime.now(UTC), reason=reason
    )

    text = cards.as_text(rollout.EndpointView(name="churn", url="http://127.0.0.1:9/churn", deployments=[one]))

    assert "1: its last error was KeyError: 'missing' (score.py:2)\nTry: %mlops logs churn/1" in text


def test_a_card_follows_light_and_dark() -> None:
    page = cards.as_html(version())

    assert "prefers-color-scheme:dark" in page
    assert "--jp-ui-font-color1" in page
    assert 'data-jp-theme-light="false"' in page


def test_only_an_address_on_this_machine_becomes_a_link() -> None:
    assert 'href="http://127.0.0.1:8600"' in cards.as_html(Dashboard(url="http://127.0.0.1:8600"))
    with pytest.raises(UnsafeUrl):
        cards.as_html(Dashboard(url="javascript:alert(1)"))


def test_a_long_list_is_cut_and_says_so() -> None:
    text = cards.as_text(Listing([version() for _ in range(60)], what="model version"))

    assert text.startswith("60 model versions")
    assert text.endswith("… and 10 more")


def test_an_empty_list_says_what_fills_it() -> None:
    assert cards.as_text(Listing([], what="model version", line="register MODEL --name NAME")).endswith("Try: %mlops register MODEL --name NAME")


def test_a_key_is_left_out_of_repr_and_card_but_not_of_the_data() -> None:
    key = Key(endpoint="delays", key="s3cret")

    assert "s3cret" not in repr(key) + cards.as_text(key) + cards.as_html(key)
    assert as_data(key) == {"endpoint": "delays", "key": "s3cret"}


@pytest.mark.parametrize(("seconds", "told"), [(1, "just now"), (65, "1 minute ago"), (7300, "2 hours ago"), (200_000, "2 days ago"), (-60, "just now")])
def test_times_are_told_as_people_do(seconds: int, told: str) -> None:
    now = datetime.now(UTC)

    assert cards.ago(now - timedelta(seconds=seconds), now=now) == told


def test_a_tag_with_markup_is_inert_in_the_notebook(kernel: Any) -> None:
    kernel.ok("%mlops tag delays:2 'note=<img src=x onerror=alert(1)>'")
    try:
        tags = Tags(kernel.ok("%mlops models delays:2").html)
    finally:
        kernel.ok("%mlops tag delays:2 note=")

    assert "img" not in tags.names
    assert "onerror" in tags.text


def test_a_drift_check_shows_its_card_and_its_figure(kernel: Any) -> None:
    kernel.ok("for _ in range(6):\n    answer = %mlops invoke delays --data X")
    ran = kernel.ok("%mlops drift delays --engine scipy")
    kinds = [set(shown) for shown in ran.displays]

    assert any("application/vnd.plotly.v1+json" in kind for kind in kinds)
    assert any("drift check" in shown.get("text/html", "") for shown in ran.displays)


def test_an_endpoint_given_where_a_deployment_is_meant_is_told_with_its_deployments():
    error = DeploymentNotFound("delays", "", known=["2", "1"])

    assert "'" not in str(error) and "1, 2" in str(error) and error.hint == "delays/1"


def test_the_card_of_an_answer_names_its_id_as_its_attribute_and_labels_do():
    answer = Answer(endpoint="delays", deployment="1", request_id="r-7", latency_ms=1.0, outputs={"label": [1]})

    assert "request_id" in cards.as_text(answer) and answer.request_id in cards.as_text(answer)


def test_what_is_not_known_of_a_limited_deployments_memory_is_left_out() -> None:
    from mlops_nb.cards.serving import _load
    from mlops_nb.metrics import Load

    assert _load(Load(deployment="1", cpus_limit=2.0, memory_limit_mb=512))[-2:] == ["", ""]
    assert _load(Load(deployment="1", memory_mb=128, memory_limit_mb=512))[-1] == "128 of 512 (25%) MB"
