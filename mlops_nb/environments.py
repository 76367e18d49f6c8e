"""Which Python and packages a model needs: only what it imports and what that requires in turn, with exact versions.

Requirements follow PEP 508 (markers evaluated here, extras only where a requirement asks for them); packages installed from
elsewhere than an index follow PEP 610.  What cannot be recorded so that it can be had again is an error that lists it.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from packaging.markers import default_environment

from . import store
from .distributions import Installed, installed, local_folder, normalised
from .errors import EnvironmentIncomplete
from .safety import text_for
from .sources import OURSELVES
from .store import environments as table
from .store.environments import Environment, Package

_TELLING = ("torch", "xgboost", "lightgbm", "sklearn", "onnxruntime", "statsmodels", "catboost", "transformers")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_PLAIN_VERSION = re.compile(r"[A-Za-z0-9.!+_*-]+", re.ASCII)


def capture(modules: Iterable[str]) -> Environment:
    """The environment that *modules* (import names) need, recorded, or the one already recorded with the same content.

    Raises EnvironmentIncomplete listing every module that no installed package brings, and every package that exists only here.
    """
    modules = sorted(set(modules) - {OURSELVES})
    found, problems = _owners(modules)
    packages = _closure(found)
    problems += [problem for distribution in packages if (problem := _why_not(distribution))]
    if problems:
        raise EnvironmentIncomplete(problems)
    return _recorded(_environment(modules, [_package(d, direct=d in found) for d in packages]))


def installed_here(names: Iterable[str]) -> list[Package]:
    """The distributions of these names and all that they require, as they are installed here, by name; one that is not is left out."""
    known = installed()
    direct = [known[name] for name in map(normalised, names) if name in known]
    return [_package(distribution, direct=distribution in direct) for distribution in _closure(direct)]


def requirement(package: Package) -> str:
    """The package as PEP 508 words it: `name==version`, or `name @ URL` for one that came from no index."""
    return _requirement(package)


def requirements(environment: Environment) -> str:
    """The packages as pip's requirements file."""
    lines = [f"# Python {environment.python} on {environment.platform}", *map(_requirement, environment.packages)]
    return "\n".join(lines) + "\n"


def conda(environment: Environment, *, pip: bool = False) -> str:
    """The packages as conda's environment.yml; those that came from PyPI stand below `pip:`.  With *pip* it has pip even where none did."""
    by_conda = [f"{_conda_name(p)}={p.version}" for p in environment.packages if p.conda]
    by_pip = [_requirement(p) for p in environment.packages if not p.conda]
    lines = [f"name: {text_for('yaml', environment.name)}", "channels:", "  - conda-forge", "dependencies:"]
    lines += [f"  - {text_for('yaml', spec)}" for spec in (f"python={environment.python}", *(["pip"] if pip or by_pip else []), *by_conda)]
    lines += ["  - pip:", *(f"      - {text_for('yaml', spec)}" for spec in by_pip)] if by_pip else []
    return "\n".join(lines) + "\n"


def differences(environment: Environment) -> list[str]:
    """How the running interpreter differs: `scikit-learn 1.5.0 here, 1.9.1 when the model was made`; empty when it does not."""
    here = installed()
    found = []
    minor = ".".join(environment.python.split(".")[:2])
    if minor != f"{sys.version_info.major}.{sys.version_info.minor}":
        found.append(f"Python {platform.python_version()} here, {environment.python} when the model was made")
    for package in environment.packages:
        there = here.get(normalised(package.name))
        if there is None:
            found.append(f"{package.name} not installed here, {package.version} when the model was made")
        elif there.version != package.version:
            found.append(f"{package.name} {there.version} here, {package.version} when the model was made")
    return found


# ── what a module comes from ─────────────────────────────────────────────────────────────────────────────────────────


def _owners(modules: Iterable[str]) -> tuple[list[Installed], list[str]]:
    """The distributions that bring these modules, and a line for each module that none brings."""
    found: dict[str, Installed] = {}
    problems = []
    for module in modules:
        owners = [d for d in installed().values() if d.has(module)] or _in_place(module)
        found |= {owner.key: owner for owner in owners}
        if not owners:
            problems.append(f"{module} (no installed package brings it)")
    return list(found.values()), problems


def _in_place(module: str) -> list[Installed]:
    """The package installed in place whose folder holds the module."""
    live = sys.modules.get(module)
    file = getattr(live, "__file__", None) or next(iter(getattr(live, "__path__", ())), None)
    if not file:
        return []
    return [d for d in installed().values() if d.editable_root and Path(file).resolve().is_relative_to(d.editable_root)]


def _closure(direct: Iterable[Installed]) -> list[Installed]:
    """These distributions and all that they require, by name."""
    known = installed()
    found: dict[str, Installed] = {}
    waiting: list[tuple[Installed, frozenset[str]]] = [(distribution, frozenset()) for distribution in direct]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        distribution, extras = waiting.pop()
        if (distribution.key, extras) in seen:
            continue
        seen.add((distribution.key, extras))
        found[distribution.key] = distribution
        for name, wanted in _required(distribution, extras):
            if name in known:
                waiting.append((known[name], wanted))
    return [found[key] for key in sorted(found)]


def _required(distribution: Installed, extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """The names it requires here, each with the extras asked of it."""
    settings = [{**_markers(), "extra": extra} for extra in ("", *sorted(extras))]
    return [
        (normalised(requirement.name), frozenset(requirement.extras))
        for requirement in distribution.requires
        if requirement.marker is None or any(requirement.marker.evaluate(setting) for setting in settings)
    ]


@cache
def _markers() -> dict[str, str]:
    return {key: str(value) for key, value in default_environment().items()}


# ── how it can be had again ──────────────────────────────────────────────────────────────────────────────────────────


def _package(distribution: Installed, *, direct: bool) -> Package:
    return Package(
        name=distribution.name, version=distribution.version, direct=direct, conda=distribution.conda, source=_source(distribution)
    )  # fmt: skip


def _why_not(distribution: Installed) -> str | None:
    """Why this distribution could not be installed again elsewhere; None when it could."""
    if not _PLAIN_NAME.fullmatch(distribution.name) or not _PLAIN_VERSION.fullmatch(distribution.version):
        return f"{distribution.key} (its metadata gives no plain name and version)"
    where = local_folder(distribution.direct)
    if where is None:
        return None
    how = "in place from" if distribution.editable_root else "from"
    return None if where.is_file() and _digest(distribution.direct) else f"{distribution.name} (installed {how} {where})"


def _source(distribution: Installed) -> str:
    direct = distribution.direct
    if distribution.conda:
        name = _conda_package(distribution)
        return f"conda:{name}" if name and normalised(name) != distribution.key else ""
    if not direct:
        return ""
    url = _without_password(direct["url"])
    if version_control := direct.get("vcs_info"):
        url = f"{version_control['vcs']}+{url}@{version_control['commit_id']}"
    folder = direct.get("subdirectory")
    marks = [mark for mark in (_digest(direct), f"subdirectory={folder}" if folder else "") if mark]
    return url + (f"#{'&'.join(marks)}" if marks else "")


def _digest(direct: dict[str, Any]) -> str:
    archive = direct.get("archive_info", {})
    for name, value in archive.get("hashes", {}).items():
        return f"{name}={value}"
    return archive.get("hash", "")


def _without_password(url: str) -> str:
    """A URL as it may be stored: PEP 610 lets `user:password@` stand in it."""
    return re.sub(r"(?<=://)[^/@]+@", "", url)


def _conda_package(distribution: Installed) -> str | None:
    """conda's own name for a distribution it installed: the package whose list of files has the distribution's metadata."""
    history = Path(sys.prefix) / "conda-meta"
    likely = sorted(history.glob("*.json"), key=lambda path: normalised(distribution.key) not in normalised(path.name))
    wanted = f"/{distribution.folder.name}/"
    for path in likely:
        record = msgspec.json.decode(path.read_bytes())
        if any(wanted in file for file in record.get("files", ())):
            return record.get("name")
    return None


def _requirement(package: Package) -> str:
    if package.source and not package.source.startswith("conda:"):
        return f"{package.name} @ {package.source}"
    return f"{package.name}=={package.version}"


def _conda_name(package: Package) -> str:
    return package.source.removeprefix("conda:") if package.source.startswith("conda:") else package.name.lower()


# ── recording ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _environment(modules: list[str], packages: list[Package]) -> Environment:
    python, system = platform.python_version(), sysconfig.get_platform()
    manager = "conda" if any(package.conda for package in packages) else "pip"
    content = msgspec.json.encode([python, system, manager, packages])
    digest = hashlib.sha256(content).hexdigest()
    return Environment(
        name=_name(modules, digest), version=1, hash=digest, python=python, platform=system, interpreter=sys.executable, packages=packages,
        manager=manager, created_at=store.now(),
    )  # fmt: skip


def _name(modules: list[str], digest: str) -> str:
    """`py311-sklearn-1a2b`: the Python, the package that tells most, and the content."""
    tops = [module.partition(".")[0] for module in modules]
    telling = next((name for name in _TELLING if name in tops), next((top for top in tops if not top.startswith("_")), "plain"))
    return f"py{sys.version_info.major}{sys.version_info.minor}-{re.sub(r'[^A-Za-z0-9_]', '', telling)[:40] or 'plain'}-{digest[:4]}"


def _recorded(environment: Environment) -> Environment:
    """The recorded environment with this content, which may be this one."""
    with store.reading() as tx:
        known = table.with_hash(tx, environment.hash)
    if known:
        return known
    with store.writing() as tx:
        known = table.with_hash(tx, environment.hash)
        if known:
            return known
        numbered = msgspec.structs.replace(environment, version=table.next_version(tx, environment.name))
        table.add(tx, numbered)
    return numbered
