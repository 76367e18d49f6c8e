"""An environment is what a model imports and what that requires, exactly; what cannot be had again is an error that lists it."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml
from packaging.requirements import Requirement

from mlops_nb import environments
from mlops_nb.errors import EnvironmentIncomplete
from mlops_nb.store.environments import Package


def install(
    folder: Path,
    name: str,
    *,
    module: str | None = None,
    requires: tuple[str, ...] = (),
    direct: dict | None = None,
    installer: str = "pip",
    version: str = "1.0",
):
    """A distribution as an installer leaves it, without an index to get it from."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {text}" for text in requires)]
    (info / "METADATA").write_text("\n".join(metadata) + "\n")
    (info / "INSTALLER").write_text(installer)
    module = module or name.replace("-", "_")
    (folder / f"{module}.py").write_text("")
    (info / "RECORD").write_text(f"{module}.py,,\n{info.name}/METADATA,,\n")
    if direct:
        (info / "direct_url.json").write_text(json.dumps(direct))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """One more folder of installed packages."""
    folder = tmp_path / "lib/site-packages"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def names(environment):
    return {package.name for package in environment.packages}


def test_a_scikit_learn_model_needs_what_scikit_learn_requires_and_no_more(workspace):
    found = names(environments.capture({"sklearn"}))

    assert {"scikit-learn", "numpy", "scipy", "joblib"} <= found
    assert not found & {"jupyterlab", "ipykernel", "pytest", "mlops-nb", "mlops_nb", "streamlit"}


def test_versions_are_those_installed(workspace):
    packages = environments.capture({"sklearn"}).packages

    assert {p.name: p.version for p in packages} == {p.name: importlib.metadata.version(p.name) for p in packages}


def test_what_the_model_imports_itself_is_told_from_what_that_requires(workspace):
    direct = {package.name for package in environments.capture({"sklearn"}).packages if package.direct}

    assert direct == {"scikit-learn"}


def test_the_same_content_is_the_same_environment(workspace):
    assert environments.capture({"sklearn", "numpy"}) == environments.capture(["numpy", "sklearn"])


def test_another_content_is_another_environment(workspace):
    assert environments.capture({"sklearn"}).ref != environments.capture({"numpy"}).ref


def test_its_name_tells_the_python_and_the_package_that_matters(workspace):
    environment = environments.capture({"numpy", "sklearn"})

    assert environment.ref == f"py{sys.version_info.major}{sys.version_info.minor}-sklearn-{environment.hash[:4]}:1"


def test_a_model_that_imports_nothing_has_an_environment_too(workspace):
    assert environments.capture(()).packages == []


def test_every_module_that_nothing_brings_is_listed(workspace):
    with pytest.raises(EnvironmentIncomplete, match=r"ghost_a .* ghost_b "):
        environments.capture({"ghost_b", "ghost_a", "numpy"})


def test_nothing_is_recorded_of_an_incomplete_environment(workspace):
    with pytest.raises(EnvironmentIncomplete):
        environments.capture({"ghost"})

    assert not workspace.store.exists()


def test_a_requirement_for_another_platform_or_an_extra_not_asked_for_is_left_out(workspace, site):
    for name in ("wanted", "extra-only", "elsewhere"):
        install(site, name)
    install(site, "top", requires=("wanted", "extra-only; extra == 'x'", "elsewhere; sys_platform == 'plan9'"))

    assert names(environments.capture({"top"})) == {"top", "wanted"}


def test_an_extra_that_a_requirement_asks_for_is_followed(workspace, site):
    install(site, "inner")
    install(site, "middle", requires=("inner; extra == 'x'",))
    install(site, "top", requires=("middle[x]",))

    assert names(environments.capture({"top"})) == {"top", "middle", "inner"}


def test_packages_that_require_each_other_are_both_recorded(workspace, site):
    install(site, "hen", requires=("egg",))
    install(site, "egg", requires=("hen",))

    assert names(environments.capture({"hen"})) == {"hen", "egg"}


def test_a_git_commit_is_recorded_without_the_password_in_its_address(workspace, site):
    install(site, "ours", direct={"url": "https://me:pass@git.example/ours.git", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}})

    assert f"ours @ git+https://git.example/ours.git@{'a' * 40}" in environments.requirements(environments.capture({"ours"}))


@pytest.mark.parametrize("editable", [True, False])
def test_a_package_installed_from_a_folder_of_this_machine_is_listed_as_a_problem(workspace, site, tmp_path, editable):
    project = tmp_path / "projects/ours"
    project.mkdir(parents=True)
    install(site, "ours", direct={"url": project.as_uri(), "dir_info": {"editable": editable}})
    install(site, "top", requires=("ours",))

    with pytest.raises(EnvironmentIncomplete, match=f"ours .*{project}"):
        environments.capture({"top"})


def test_a_conda_packages_build_folder_is_no_problem(workspace, site):
    install(site, "ours", installer="conda", direct={"url": "file:///home/conda/feedstock_root/build", "dir_info": {}})

    assert [p.conda for p in environments.capture({"ours"}).packages] == [True]


def test_condas_form_keeps_conda_and_pip_apart(workspace, site):
    install(site, "from-conda", installer="conda")
    install(site, "from-pip")
    text = environments.conda(environments.capture({"from_conda", "from_pip"}))

    read = yaml.safe_load(text)

    assert (read["dependencies"][2:]) == ["from-conda=1.0", {"pip": ["from-pip==1.0"]}]


@pytest.mark.parametrize("name", ["evil\n  - curl", 'x"y', "{{ x }}", "a: b", "$(id)"])
def test_a_name_from_metadata_stays_one_entry_of_the_yaml_or_is_refused(workspace, name):
    from mlops_nb.errors import UnsafeText

    environment = msgspec.structs.replace(environments.capture(()), packages=[Package(name=name, version="1")])
    try:
        entries = yaml.safe_load(environments.conda(environment))["dependencies"][-1]["pip"]
    except UnsafeText:
        entries = [f"{name}==1"]

    assert entries == [f"{name}==1"]


def test_a_package_with_a_name_no_installer_takes_is_listed(workspace, site):
    install(site, "odd")
    metadata = site / "odd-1.0.dist-info/METADATA"
    metadata.write_text(metadata.read_text().replace("Name: odd", "Name: odd; rm -rf"))

    with pytest.raises(EnvironmentIncomplete, match="odd "):
        environments.capture({"odd"})


def test_pips_form_is_read_by_pip(workspace, tmp_path):
    listing = tmp_path / "requirements.txt"
    listing.write_text(environments.requirements(environments.capture({"sklearn"})))
    checked = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet", "-r", listing], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
    assert all(Requirement(line) for line in listing.read_text().splitlines() if not line.startswith("#"))


def test_a_package_installed_while_the_kernel_runs_is_found(workspace, site):
    with pytest.raises(EnvironmentIncomplete):
        environments.capture({"late_comer"})
    install(site, "late-comer")

    assert names(environments.capture({"late_comer"})) == {"late-comer"}


def test_here_nothing_differs(workspace):
    assert environments.differences(environments.capture({"sklearn"})) == []


def test_differences_say_what_is_here_and_what_was(workspace):
    environment = environments.capture({"sklearn"})
    other = msgspec.structs.replace(
        environment, python="3.1.0", packages=[Package(name="scikit-learn", version="0.1"), Package(name="gone", version="2")]
    )  # fmt: skip
    here = importlib.metadata.version("scikit-learn")

    assert environments.differences(other) == [
        f"Python {sys.version.split()[0]} here, 3.1.0 when the model was made",
        f"scikit-learn {here} here, 0.1 when the model was made",
        "gone not installed here, 2 when the model was made",
    ]


def test_below_a_namespace_only_the_package_that_is_imported_is_needed(workspace, site):
    for name in ("one", "two"):
        install(site, f"shared-{name}")
        (site / "shared" / name).mkdir(parents=True)
        (site / "shared" / name / "__init__.py").write_text("")
        record = site / f"shared_{name}-1.0.dist-info/RECORD"
        record.write_text(f"shared/{name}/__init__.py,,\n")

    from mlops_nb import sources

    assert names(environments.capture(sources.needs(["shared.one"]).modules)) == {"shared-one"}
