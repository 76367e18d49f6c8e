"""Which card each noun has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import lists, models, serving, watching
from .card import Card, of_anything, of_facts


def card_of(thing: Any) -> Card:
    """The card of anything a command gives back."""
    for kind in type(thing).__mro__:
        if draw := _CARDS.get(f"{kind.__module__}.{kind.__qualname__}"):
            return draw(thing)
    return of_anything(thing)


def knows(thing: Any) -> bool:
    """Whether *thing* has a card of its own."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}" in _CARDS


_CARDS: dict[str, Callable[[Any], Card]] = {
    "mlops_nb.shapes.Listing": lists.listing,
    "mlops_nb.shapes.Facts": of_facts,
    "mlops_nb.shapes.Key": serving.key,
    "mlops_nb.shapes.Dashboard": serving.dashboard,
    "mlops_nb.store.models.ModelVersion": models.model_version,
    "mlops_nb.registry.Registered": models.registered,
    "mlops_nb.converting.Converted": models.converted,
    "mlops_nb.hls.ConvertedToFpga": models.converted_to_fpga,
    "mlops_nb.store.datasets.DatasetVersion": models.dataset_version,
    "mlops_nb.rollout.Deployed": serving.deployed,
    "mlops_nb.rollout.EndpointView": serving.endpoint,
    "mlops_nb.fleet.devices.DeviceView": serving.device,
    "mlops_nb.store.rollouts.Rollout": serving.rollout,
    "mlops_nb.store.alerts.Rule": watching.alert,
    "mlops_nb.scraping.Scraped": watching.scraped,
    "mlops_nb.rollout.WorkspaceStatus": serving.workspace,
    "mlops_nb.client.Answer": serving.answer,
    "mlops_nb.store.checks.DriftCheck": watching.drift,
    "mlops_nb.monitoring.causes.Causes": watching.causes,
    "mlops_nb.store.schedules.Schedule": watching.schedule,
    "mlops_nb.store.silences.Silence": watching.silence,
    "mlops_nb.store.checks.Profile": models.profile,
    "mlops_nb.lineage.Lineage": models.lineage,
    "mlops_nb.history.Serving": serving.serving,
    "mlops_nb.labels.Labelled": watching.labelled,
    "mlops_nb.performance.Performance": watching.performance,
    "mlops_nb.store.replays.Replay": watching.replay,
    "mlops_nb.agreement.ShadowReport": watching.shadow_report,
    "mlops_nb.store.events.Event": watching.event,
    "mlops_nb.store.environments.Environment": models.environment,
    "mlops_nb.store.rehearsals.Rehearsal": models.rehearsal,
    "mlops_nb.store.packages.Package": models.package,
}
"""By full name, so that a card costs no import of what it shows."""
