"""Commands on the workspace as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..grammar import face
from ..shapes import Dashboard, Facts
from .group import mlops

if TYPE_CHECKING:
    from ..rollout import WorkspaceStatus


@mlops.command(heading="The workspace", examples=["dashboard", "dashboard --port 8600 --open", "dashboard stop"])
@click.argument("word", metavar="[stop]", type=click.Choice(["stop"]), required=False)
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="A port on 127.0.0.1.  [default: the one it had, or a free one]")
@click.option("--open", "open_browser", is_flag=True, help="Open it in a browser.")
@click.option("--stop", is_flag=True, help="Stop it, as the word stop does.")
def dashboard(word: str | None, port: int | None, open_browser: bool, stop: bool) -> Dashboard | Facts:
    """Start the dashboard, or stop it, and say where it is."""
    from .. import dashboards

    if stop or word:
        return Facts({"dashboard": "stopped" if dashboards.stop() else "was not running"})
    with face().reporting("starting the dashboard") as report:
        url = dashboards.seen_from_here(dashboards.start(port=port, open_browser=open_browser))
        report.step(f"the dashboard is at {url}")
    return Dashboard(url=url)


@mlops.command(heading="The workspace", examples=["status"])
def status() -> WorkspaceStatus:
    """Show what the workspace holds and runs."""
    from .. import rollout

    return rollout.status()


@mlops.command(heading="The workspace", examples=["up"])
def up() -> WorkspaceStatus:
    """Start everything that should run.

    Such as after a restart of the machine, or after `mlops down`.
    """
    from .. import rollout

    with face().reporting("starting what should run") as report:
        now = rollout.up()
        report.step("started")
    return now


@mlops.command(heading="The workspace", examples=["down"])
def down() -> WorkspaceStatus:
    """Stop everything this workspace started.

    Servers, gateway, agent and dashboard; `mlops up` brings back what should run.
    """
    from .. import rollout

    with face().reporting("stopping everything") as report:
        now = rollout.down()
        report.step("stopped")
    return now


@mlops.command(heading="The workspace", examples=["clean"])
def clean() -> Facts:
    """Delete kept files, and emulations of FPGAs, that nothing needs any more."""
    from .. import artifacts, store
    from ..fpga import emulation
    from ..store import deployments, models

    with store.writing() as tx:  # under the lock nobody can start to need one of them
        freed = artifacts.forget(artifacts.settled() - models.files_in_use(tx))
        emulated = [project["sha256"] for deployment in deployments.of(tx) if (project := deployment.spec.options.get("project"))]
    return Facts({"freed_bytes": freed + emulation.forget(emulated)})
