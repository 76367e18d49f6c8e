"""The Dockerfile of a package: base, packages, server, and the model last, so that a new version changes the last layer alone.

Every stage starts from the same base, named with its platform.  Fixed text but for tokens that went through `safety.text_for`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..safety import text_for
from .contents import HOME, Contents

PYTHON = f"{HOME}/python/bin/python"
"""The interpreter in an image."""
USER = 10001
"""Who runs in an image; a number, so that an orchestrator can tell that it is not root."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """All that tells one Dockerfile from another."""

    base: str
    platform: str
    python: str
    """The minor version the packages are for, such as `3.11`."""
    contents: Contents
    pip: str = ""
    """The file of pip's wheel in the wheelhouse; empty where packages come from an index."""
    conda: bool = False
    files_go_to: str = ""
    """Where added files stand in the image; empty where none are."""
    working_folder: str = f"{HOME}/files"
    lean: bool = False
    """Whether the packages' own tests are left out: of those that the server needs, which are known to run without."""
    secrets: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}


def text(recipe: Recipe) -> str:
    """The Dockerfile."""
    stages = [_packages(recipe), _server(), _final(recipe)]
    return "\n".join("\n".join(stage) + "\n" for stage in stages)


def _packages(recipe: Recipe) -> list[str]:
    head = [f"FROM --platform={recipe.platform} {recipe.base} AS packages", "USER root"]
    return [*head, *(_by_conda(recipe) if recipe.conda else _by_pip(recipe))]


def _by_pip(recipe: Recipe) -> list[str]:
    steps = [f"python3 -m venv --without-pip {HOME}/python", _install(recipe, with_python="python3"), *_tidied(recipe)]
    return [f"RUN {_has_python(recipe.python)}", _copied(recipe), _run(recipe, steps)]


def _by_conda(recipe: Recipe) -> list[str]:
    """Python and what conda brings from its channels, the rest as anywhere: locked by hash, from the wheelhouse where there is one."""
    no_conda = "mlops: the base image has neither micromamba nor mamba nor conda"
    find = "conda=$(command -v micromamba || command -v mamba || command -v conda)"
    created = [
        f"{{ {find} || {{ echo {text_for('shell', no_conda)} >&2; exit 1; }}; }}",
        f'case "$conda" in *micromamba) "$conda" create --yes --prefix {HOME}/python --file /build/environment.yml ;; '
        f'*) "$conda" env create --prefix {HOME}/python --file /build/environment.yml ;; esac',
    ]
    rest = [_install(recipe, with_python=PYTHON), *_tidied(recipe)]
    return ["COPY environment.yml /build/", _run(recipe, created), _copied(recipe), _run(recipe, rest)]


def _copied(recipe: Recipe) -> str:
    return f"COPY requirements.txt {'wheelhouse/ ' if recipe.pip else ''}/build/"


def _install(recipe: Recipe, *, with_python: str) -> str:
    """The command that installs what is locked; *with_python* has a pip of its own, where no wheel of it was brought."""
    if recipe.pip:
        install = f"{PYTHON} /build/{recipe.pip}/pip install --no-index --find-links=/build"
    else:
        install = f"{with_python} -m pip --python {PYTHON} install --no-cache-dir"
    return f"{install} --disable-pip-version-check --no-deps --require-hashes --no-compile --requirement=/build/requirements.txt"


def _tidied(recipe: Recipe) -> list[str]:
    """Some packages hold templates that are no Python, which nothing compiles; whoever imports one is told then."""
    compiled = f"{{ {PYTHON} -m compileall -qq --invalidation-mode unchecked-hash {HOME}/python/lib || true; }}"
    return [*([f"find {HOME}/python -type d -name tests -prune -exec rm -r {{}} +"] if recipe.lean else []), compiled]


def _run(recipe: Recipe, steps: list[str]) -> str:
    chain = " \\\n && ".join(steps)
    return f"RUN {_mounts(recipe)}{_settings(recipe)}{chain}"


def _has_python(wanted: str) -> str:
    """A shell command that ends with a line beginning `mlops:` when the base has no python3 that can take the packages."""
    none = "mlops: the base image has no python3"
    check = (
        "import sys, importlib.util as u; v = '%d.%d' % sys.version_info[:2]; "
        f"sys.exit('mlops: the base image has Python ' + v + ', and the packages are for {wanted}' if v != '{wanted}' "
        "else None if u.find_spec('venv') else 'mlops: the python3 of the base image has no venv')"
    )
    return f'command -v python3 >/dev/null || {{ echo {text_for("shell", none)} >&2; exit 1; }}; python3 -c "{check}"'


def _mounts(recipe: Recipe) -> str:
    return "".join(f"--mount=type=secret,id={name} " for name in recipe.secrets)


def _settings(recipe: Recipe) -> str:
    """Where pip and conda look for the secrets of these names."""
    known = {"pip.conf": "PIP_CONFIG_FILE", "netrc": "NETRC", "condarc": "CONDARC"}
    return "".join(f"export {variable}=/run/secrets/{name}; " for name, variable in known.items() if name in recipe.secrets)


def _server() -> list[str]:
    return [
        "FROM packages AS server",
        f"COPY server/ {HOME}/server/",
        f"RUN {PYTHON} -m compileall -q --invalidation-mode unchecked-hash {HOME}/server",
    ]


def _final(recipe: Recipe) -> list[str]:
    contents = recipe.contents
    return [
        f"FROM --platform={recipe.platform} {recipe.base}",
        f"COPY --from=packages {HOME}/python {HOME}/python",
        f"COPY --from=server {HOME}/server {HOME}/server",
        f'ENV PATH="{HOME}/python/bin:$PATH" PYTHONPATH={HOME}/server PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1',
        f"WORKDIR {recipe.working_folder}",
        f"USER {USER}:{USER}",
        *([f"EXPOSE {contents.port}", _healthcheck(contents.port)] if contents.port else []),
        "STOPSIGNAL SIGTERM",
        "ENTRYPOINT []",
        f'CMD ["{PYTHON}", "-m", "{contents.module}", "{contents.spec}"]',
        *([f"COPY files/ {recipe.files_go_to}/"] if recipe.files_go_to else []),
        f"COPY version/ {HOME}/",
        *labels(recipe.labels),
    ]


def _healthcheck(port: int) -> str:
    """Slim images have no curl.  The variable is the one by which a container may be told another port."""
    ask = (
        f"import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('MLOPS_PORT', {port})), timeout=2); "
        "c.request('GET', '/v2/health/ready'); raise SystemExit(c.getresponse().status != 200)"
    )
    return f'HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["{PYTHON}", "-I", "-S", "-c", "{ask}"]'


def labels(given: Mapping[str, str]) -> list[str]:
    """One LABEL instruction for all of them; the names are ours."""
    return ["LABEL " + " \\\n      ".join(f"{name}={text_for('dockerfile', value)}" for name, value in given.items())]
