"""Which live endpoints did this data reach, and which data and code made this model?"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mlops_nb import lineage, store
from mlops_nb.errors import AliasNotFound, LineageRootNotFound
from mlops_nb.store import datasets, deployments, environments, models, runs

THEN = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def two_families(workspace):
    """Two models from two data sets in one environment, each live on an endpoint of its own."""
    with store.writing() as tx:
        add_environment(tx)
        add_family(tx, "flights", "delays", status="healthy")
        add_family(tx, "clients", "churn", status="failed")


def test_upstream_of_a_model_is_its_data_its_code_and_its_environment_and_nobody_elses(two_families):
    found = lineage.upstream(lineage.graph(), "model:delays:1")

    assert labels(found) == {"flights:1", "run-of-delays", "py311:1"}


def test_downstream_of_a_dataset_are_the_models_deployments_and_endpoints_it_reached(two_families):
    found = lineage.downstream(lineage.graph(), "dataset:flights:1")

    assert labels(found) == {"run-of-delays", "delays:1", "delays/1", "delays"}


def test_a_dataset_reached_only_the_endpoints_where_something_healthy_answers(two_families):
    whole = lineage.graph()

    assert lineage.live_endpoints(whole, "dataset:flights:1") == ["delays"]
    assert lineage.live_endpoints(whole, "dataset:clients:1") == []


def test_what_an_environment_reached_is_everything_made_in_it(two_families):
    assert {"delays:1", "churn:1", "delays", "churn"} <= labels(lineage.downstream(lineage.graph(), "environment:py311:1"))


def test_a_graph_around_an_endpoint_leaves_the_other_family_out(two_families):
    assert labels(lineage.graph("delays").nodes) == {"flights:1", "run-of-delays", "py311:1", "delays:1", "delays/1", "delays"}


def test_a_graph_can_be_asked_for_by_alias(two_families):
    with store.writing() as tx:
        models.set_alias(tx, models.search(tx, "churn")[0], "champion", author="ada")

    assert lineage.graph("churn@champion") == lineage.graph("churn:1") == lineage.graph("model:churn:1")


def test_an_unknown_alias_is_told_with_the_known_ones(two_families):
    with pytest.raises(AliasNotFound, match="no alias 'champio'"):
        lineage.graph("churn@champio")


def test_a_bare_name_means_its_newest_version(two_families):
    with store.writing() as tx:
        add_dataset(tx, "flights", version=2)

    assert labels(lineage.graph("flights").nodes) == {"flights:2"}


def test_an_unknown_name_is_told_with_the_nearest_known_one(two_families):
    with pytest.raises(LineageRootNotFound) as caught:
        lineage.graph("delay")

    assert caught.value.hint == "did you mean delays?"


def test_a_run_that_made_several_things_does_not_mix_up_their_data(workspace):
    with store.writing() as tx:
        add_run(tx, "one-notebook")
        for data, model in (("flights", "delays"), ("clients", "churn")):
            add_dataset(tx, data)
            add_model(tx, model, dataset=f"{data}:1", run="one-notebook")

    assert labels(lineage.upstream(lineage.graph(), "model:churn:1")) == {"clients:1", "one-notebook"}


def test_data_whose_record_is_gone_is_still_shown_by_its_name(workspace):
    with store.writing() as tx:
        add_model(tx, "churn", dataset="lost:7")

    (data,) = lineage.upstream(lineage.graph(), "model:churn:1")
    assert (data.label, data.details) == ("lost:7", {"missing": True})


def test_an_empty_workspace_has_an_empty_graph(workspace):
    assert lineage.graph() == lineage.Lineage(nodes=[], edges=[])


def labels(nodes):
    return {node.label for node in nodes}


def add_family(tx, data, name, *, status):
    add_dataset(tx, data)
    add_run(tx, f"run-of-{name}")
    add_model(tx, name, dataset=f"{data}:1", run=f"run-of-{name}", environment="py311:1")
    deployments.ensure_endpoint(tx, name, author="ada")
    deployment = deployments.Deployment(
        endpoint=name, name="1", model=name, version=1, target="local", spec=deployments.DeploymentSpec(), wanted="running", generation=1, status=status,
        created_at=THEN, changed_at=THEN,
    )  # fmt: skip
    deployments.put(tx, deployment)


def add_dataset(tx, name, *, version=1):
    datasets.add(tx, datasets.DatasetVersion(name=name, version=version, hash="h", rows=10, schema=[], profile=[], file="f", bytes=1, created_at=THEN))


def add_run(tx, id):
    cell = runs.Cell(number=3, source="clf.fit(X, y)")
    runs.add(tx, runs.Run(id=id, kind="notebook", notebook="train.ipynb", cells=[cell], git=runs.GitState(commit="abc123", dirty=True), started_at=THEN))


def add_model(tx, name, *, dataset, run=None, environment=None):
    version = models.ModelVersion(
        model=name, version=1, flavor="sklearn", engine="onnxruntime", hash="h", files=[], dataset=dataset, run=run, environment=environment, created_at=THEN
    )
    models.add(tx, version)


def add_environment(tx):
    numpy = environments.Package(name="numpy", version="2.4.0")
    known = {"hash": "h", "python": "3.11", "platform": "linux", "interpreter": "/usr/bin/python", "created_at": THEN}
    environments.add(tx, environments.Environment(name="py311", version=1, packages=[numpy], **known))
