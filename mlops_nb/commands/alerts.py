"""Commands that have somebody told, and the figures for those who collect them elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..grammar import Text
from ..shapes import Facts, Listing
from ..vocabulary import A_RULE, AN_ENDPOINT, DURATION
from .group import mlops

if TYPE_CHECKING:
    from ..store.alerts import Rule


@mlops.group(default="list", heading="Watching")
def alerts() -> None:
    """List alerts, watch for one, or silence it."""


@alerts.command("list", hidden=True, examples=["alerts", "alerts delays"])
@click.argument("endpoint", type=AN_ENDPOINT, required=False)
def list_alerts(endpoint: str | None) -> Listing[Rule]:
    """List what is watched, the alerts that fire first."""
    from .. import alerts as watching

    return Listing(watching.of(endpoint), what="alert", line='alerts add "error_rate > 5% for 5m" --endpoint ENDPOINT')


@alerts.command(
    "add",
    examples=[
        'alerts add "error_rate > 5% for 5m" --endpoint delays',
        'alerts add "p99 > 200ms" --endpoint delays',
        'alerts add "no requests for 1h" --endpoint delays',
        'alerts add "cpu > 90% for 5m" --endpoint delays',
        'alerts add "refused > 1%" --endpoint delays',
        'alerts add "requests anomalous" --endpoint delays',
        'alerts add "error_rate anomalous" --endpoint delays',
        'alerts add "p95 anomalous" --endpoint delays',
        "alerts add drift --endpoint delays",
    ],
)
@click.argument("condition")
@click.option("--endpoint", type=AN_ENDPOINT, required=True, help="Whose requests are watched.")
def add_alert(condition: str, endpoint: str) -> Rule:
    """Have the agent watch an endpoint.

    CONDITION compares error_rate, requests (a second) or a latency (p50, p90, p95, p99, p99.9) over the last five minutes, or as long as `for` says; or how
    full any deployment is: cpu and memory of what it may use, in_flight of the requests it takes before it refuses more, waiting (a number of requests),
    refused (the share answered 429). Or it is `no requests for 1h`; or says that requests, error_rate or a latency is `anomalous`: in the last hour beside
    the same hour of earlier days or weeks, with one false alarm a month; or is `drift`: the newest drift check found it, in a feature that nobody silenced.
    """
    from .. import agent
    from .. import alerts as watching

    rule = watching.add(endpoint, condition)
    agent.ensure()
    return rule


@alerts.command("acknowledge", examples=["alerts acknowledge delays-1"])
@click.argument("rule", type=A_RULE)
def acknowledge_alert(rule: str) -> Rule:
    """Say that you have seen an alert; it is silent until it is over."""
    from .. import alerts as watching

    return watching.acknowledge(rule)


@alerts.command("snooze", examples=["alerts snooze delays-1 --for 2h"])
@click.argument("rule", type=A_RULE)
@click.option("--for", "seconds", type=DURATION, required=True, help="How long, such as 2h.")
def snooze_alert(rule: str, seconds: float) -> Rule:
    """Have an alert be silent for a while; it goes on being judged."""
    from .. import alerts as watching

    return watching.snooze(rule, seconds)


@alerts.command("delete", examples=["alerts delete delays-1"])
@click.argument("rule", type=A_RULE)
def delete_alert(rule: str) -> Facts:
    """Watch for it no longer."""
    from .. import alerts as watching

    return Facts(deleted=watching.delete(rule).id)


@mlops.command(heading="Watching", examples=["metrics", "metrics delays", "metrics --serve", "metrics --stop"])
@click.argument("endpoint", type=AN_ENDPOINT, required=False)
@click.option("--serve", is_flag=True, help="Have the agent serve them on 127.0.0.1 for Prometheus to scrape.")
@click.option("--stop", is_flag=True, help="Have it serve them no longer.")
def metrics(endpoint: str | None, serve: bool, stop: bool) -> Text | Any:
    """Show rates, errors, latencies and saturation in Prometheus' format.

    With --serve the card says where they are, and how Prometheus is told.
    """
    from .. import agent, scraping
    from .. import metrics as figures

    if (serve and stop) or (endpoint and (serve or stop)):
        raise UsageError("--serve and --stop are about the whole workspace, one at a time.", hint="%mlops metrics --serve")
    if serve:
        begun = scraping.begin()
        agent.ensure()
        return begun
    if stop:
        return Facts(serving=scraping.end())
    return Text(figures.exposition(endpoint))
