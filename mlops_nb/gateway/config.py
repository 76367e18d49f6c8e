"""What Envoy is told, as plain data: a bootstrap that never changes, and three resources that it rereads when their files are replaced.

Names and fields are those of Envoy's v3 API.  The model: one listener; per endpoint a few routes that want its key; per backend
one cluster with one host.  A cluster is called `endpoint/deployment@port`, so that a deployment which comes back on another port
is a new cluster: it is known to Envoy before the first request is sent there, and the old one finishes what it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .. import splits
from ..errors import listed
from ..safety import checked_name

LISTENER = "gateway"
MAX_BODY_BYTES = 64 * 1024 * 1024
CALLED_AS = ("127.0.0.1", "localhost")
"""Names a caller may use for the gateway; any other means that a web page made a browser believe we are its own host."""

_TYPES = "type.googleapis.com/envoy."
_BODY_LIMIT = "envoy.filters.http.buffer"
_BODY_LIMIT_TYPES = _TYPES + "extensions.filters.http.buffer.v3."
_OPEN_CONNECTIONS = 4096
_PICKED = "azureml-model-deployment"
_TOKEN = "x-mlops-token"
_ID = "x-request-id"
_JSON, _MUTATION, _LUA = "envoy.filters.http.json_to_metadata", "envoy.filters.http.header_mutation", "envoy.filters.http.lua"
_FIELD_FILTERS = {
    _JSON: "extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
    _MUTATION: "extensions.filters.http.header_mutation.v3.HeaderMutation",
    _LUA: "extensions.filters.http.lua.v3.Lua",
}
"""What reads a field of the request's JSON, in the order of the work; each is off but for routes that are sticky by a field."""
_MARKED = {"header": {"key": _ID, "value": f"%REQ({_ID})%{splits.COPY_MARK}"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
"""The id of a copy, by which its answer is told from callers' and compared with theirs."""
_FIELD_HEADER = "x-mlops-sticky"
_FIELD_SPACE = "mlops.sticky"


class Backend(msgspec.Struct, frozen=True):
    """One deployment that can be reached on 127.0.0.1; *weight* is its share of the endpoint's requests, 0 to 100 percent."""

    name: str
    port: int
    token: str
    weight: int

    def __repr__(self) -> str:
        return f"Backend({self.name!r}, port={self.port}, weight={self.weight})"


class Route(msgspec.Struct, frozen=True):
    """One endpoint: the key its callers show and the deployments behind it."""

    endpoint: str
    key: str
    backends: Sequence[Backend]
    slots: Sequence[tuple[str, int]] = ()
    """Which of a hundred callers meet which backend, as runs of (name, how many); empty: by the backends' weights, in their order."""
    sticky: splits.Sticky | None = None
    """By what a caller is known, to have the same slot each time; None: each request has one by chance."""
    mirrors: Sequence[tuple[str, int]] = ()
    """Backends that are sent copies, (name, percent of the requests); their answers go nowhere."""
    leaving: Sequence[Backend] = ()
    """Backends to which no request is led any more, though some that were may be on their way: their bodies are still to come."""

    def __repr__(self) -> str:
        return f"Route({self.endpoint!r}, {list(self.backends)!r})"


def cluster_name(endpoint: str, backend: Backend) -> str:
    """What Envoy calls this backend."""
    return f"{checked_name(endpoint, what='endpoint')}/{checked_name(backend.name, what='deployment')}@{backend.port}"


def stat_name(cluster: str) -> str:
    """What Envoy's statistics call a cluster; a dot would end the name there."""
    return cluster.replace(".", "%2E")


def named_by(stat: str) -> tuple[str, str]:
    """The endpoint and deployment of the cluster that `stat_name` was given."""
    endpoint, _, deployment = stat.replace("%2E", ".").rpartition("@")[0].partition("/")
    return endpoint, deployment


def carrying(routes: Iterable[Route]) -> set[str]:
    """The clusters that take a share of their endpoint's requests, or copies of them."""
    return {cluster_name(r.endpoint, backend) for r in routes for backend in r.backends if backend.weight > 0 or backend.name in dict(r.mirrors)}


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────────


def bootstrap(folder: Path, admin_socket: Path) -> dict[str, Any]:
    """What Envoy starts with: where its own door is and which files to watch."""
    return {
        "node": {"id": "gateway", "cluster": "mlops_nb"},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "overload_manager": {"resource_monitors": [_connection_limit()]},
        "dynamic_resources": {"lds_config": watched(folder / "listeners.json"), "cds_config": watched(folder / "clusters.json")},
    }


def _connection_limit() -> dict[str, Any]:
    monitor = _TYPES + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    config = {"@type": monitor, "max_active_downstream_connections": _OPEN_CONNECTIONS}
    return {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": config}


def watched(path: Path) -> dict[str, Any]:
    """A source of configuration that is a file, reread whenever another is renamed onto it."""
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}


def discovered(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """Resources as a file of Envoy's; its version is the content's hash, by which we see that Envoy took it."""
    digest = hashlib.sha256(msgspec.json.encode(resources)).hexdigest()
    return {"version_info": digest[:32], "resources": resources}


# ── the listener ─────────────────────────────────────────────────────────────────────────────────────────────────────


def listeners(port: int, routing_file: Path) -> dict[str, Any]:
    """The one listener, on 127.0.0.1 alone."""
    return discovered([
        {
            "@type": _TYPES + "config.listener.v3.Listener",
            "name": LISTENER,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "enable_reuse_port": False,  # with it, a second workspace could silently share the port
            "connection_balance_config": {"exact_balance": {}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": _http(routing_file)}]}],
        }
    ])  # fmt: skip


def _http(routing_file: Path) -> dict[str, Any]:
    return {
        "@type": _TYPES + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": LISTENER,
        "rds": {"route_config_name": LISTENER, "config_source": watched(routing_file)},
        "http_filters": [_body_limit(), *(_unused(name, kind) for name, kind in _FIELD_FILTERS.items()), _router()],
        "local_reply_config": {"mappers": _own_answers()},
        "use_remote_address": True,  # with the next: nobody may steer Envoy by x-envoy-… headers
        "internal_address_config": {"unix_sockets": False, "cidr_ranges": [{"address_prefix": "0.0.0.0", "prefix_len": 32}]},
        "skip_xff_append": True,
        "normalize_path": True,
        "merge_slashes": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_headers_timeout": "10s",
        "request_timeout": "300s",  # to receive it whole
        "stream_idle_timeout": "0s",
    }


def _body_limit() -> dict[str, Any]:
    return {"name": _BODY_LIMIT, "typed_config": {"@type": _BODY_LIMIT_TYPES + "Buffer", "max_request_bytes": MAX_BODY_BYTES}}


def _unused(name: str, kind: str) -> dict[str, Any]:
    """A filter that is in the chain for the routes that switch it on."""
    needed = {"request_rules": _field_rules(["parameters"])} if name == _JSON else {}
    return {"name": name, "disabled": True, "typed_config": {"@type": _TYPES + kind} | needed}


def _router() -> dict[str, Any]:
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": _TYPES + "extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}}


# ── what Envoy itself answers ────────────────────────────────────────────────────────────────────────────────────────


def failure(error: str, *, code: str, hint: str) -> dict[str, Any]:
    """The shape of every refusal, the same as a command's under `--json`."""
    return {"ok": False, "error": error, "code": code, "hint": hint}


def _own_answers() -> list[dict[str, Any]]:
    """Envoy's own plain-text answers, put into our shape.  %…% stands for what Envoy knows of the request."""
    deployment = "%METADATA(CLUSTER:mlops:deployment)%"
    unreached = {"code": "DeploymentUnreachable", "hint": f"%%mlops logs {deployment}"}
    too_large = failure(f"The request is larger than {MAX_BODY_BYTES // 1024**2} MB.", code="RequestTooLarge", hint="send fewer rows at once")
    too_late = failure(f"{deployment} did not answer in time.", code="DeploymentTimedOut", hint=f"%%mlops logs {deployment}")
    return [
        _answer(_status(413), too_large),
        _answer(_flags("UT"), too_late),
        _answer(_flags("UH"), failure(f"{deployment} does not pass its health check.", **unreached)),
        _answer(_flags("UC", "UR", "LR"), failure(f"{deployment} ended the connection before it answered.", **unreached)),
        _answer(_flags("UF", "URX", "UO", "NC"), failure(f"{deployment} cannot be reached.", **unreached)),
    ]


def _answer(when: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return {"filter": when, "body_format_override": {"json_format": body}}


def _status(code: int) -> dict[str, Any]:
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": f"mlops.status_{code}"}}}}


def _flags(*flags: str) -> dict[str, Any]:
    return {"response_flag_filter": {"flags": list(flags)}}


def _set(headers: dict[str, str]) -> list[dict[str, Any]]:
    """Headers set to these values, whatever the caller sent; `%` is Envoy's own sign."""
    how = {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD", "keep_empty_value": True}
    return [{"header": {"key": name, "value": value.replace("%", "%%")}} | how for name, value in headers.items()]


# ── the routes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def routing(routes: Iterable[Route], *, timeout_seconds: float) -> dict[str, Any]:
    """Which request goes where: by endpoint and key, then by the deployment the caller picks, then by weight."""
    known = [rule for route in routes for rule in _rules(route, timeout_seconds)]
    return discovered([
        {
            "@type": _TYPES + "config.route.v3.RouteConfiguration",
            "name": LISTENER,
            "ignore_port_in_host_matching": True,
            "virtual_hosts": [
                {"name": "endpoints", "domains": list(CALLED_AS), "routes": [*known, _unknown()]},
                {"name": "foreign", "domains": ["*"], "routes": [_foreign()]},
            ],
        }
    ])  # fmt: skip


def _rules(route: Route, timeout_seconds: float) -> list[dict[str, Any]]:
    """The routes of one endpoint; the first that fits counts, and all but the last fit only with the key."""
    picked = [_picked(route, backend, timeout_seconds) for backend in route.backends]
    return [*picked, _nobody_picked(route), _shared(route, timeout_seconds), _keyless(route)]


def _picked(route: Route, backend: Backend, timeout_seconds: float) -> dict[str, Any]:
    """The caller named this deployment, so its weight does not count."""
    match = _match(route, _is(route), {"name": _PICKED, "string_match": {"exact": backend.name}})
    return _forward(match, timeout_seconds, {"cluster": cluster_name(route.endpoint, backend)}) | {"request_headers_to_add": _set({_TOKEN: backend.token})}


def _nobody_picked(route: Route) -> dict[str, Any]:
    names = listed(backend.name for backend in route.backends)
    error = f"{route.endpoint} has no deployment of the name in the header {_PICKED}. It has: {names}."
    body = failure(error, code="DeploymentNotFound", hint=f"%mlops endpoints {route.endpoint}")
    return _refusal(_match(route, _is(route), {"name": _PICKED, "present_match": True}), 404, body)


def _shared(route: Route, timeout_seconds: float) -> dict[str, Any]:
    named = {backend.name: backend for backend in route.backends}
    slots = route.slots or [(backend.name, backend.weight) for backend in route.backends if backend.weight > 0]
    if not slots:
        return _refusal(_match(route, _is(route)), 503, _no_traffic(route))
    shares = {"clusters": [_share(route.endpoint, named[name], count) for name, count in slots]}
    copies = {"request_mirror_policies": [_mirror(route.endpoint, named[name], percent) for name, percent in route.mirrors]} if route.mirrors else {}
    if not route.sticky:
        return _forward(_match(route, _is(route)), timeout_seconds, {"weighted_clusters": shares} | copies)
    known_by = {"weighted_clusters": shares | {"use_hash_policy": True}, "hash_policy": [_hashed(route.sticky)]}
    return _forward(_match(route, _is(route)), timeout_seconds, known_by | copies) | _field_read(route.sticky)


def _share(endpoint: str, backend: Backend, weight: int) -> dict[str, Any]:
    return {"name": cluster_name(endpoint, backend), "weight": weight, "request_headers_to_add": _set({_TOKEN: backend.token})}


def _mirror(endpoint: str, backend: Backend, percent: int) -> dict[str, Any]:
    """A copy of a part of the requests, marked as one; nobody waits for its answer."""
    return {
        "cluster": cluster_name(endpoint, backend),
        "runtime_fraction": {"default_value": {"numerator": percent}},
        "request_headers_mutations": [{"append": _set({_TOKEN: backend.token})[0]}, {"append": _MARKED}],
        "disable_shadow_host_suffix_append": True,
    }


def _hashed(sticky: splits.Sticky) -> dict[str, Any]:
    """What is hashed; a request without it gets a slot by chance."""
    if sticky.by == "cookie":
        return {"cookie": {"name": sticky.name}}
    return {"header": {"header_name": sticky.name if sticky.by == "header" else _FIELD_HEADER}}


def _field_read(sticky: splits.Sticky) -> dict[str, Any]:
    """For a field of the request's JSON: read it, put it into a header, and choose the route's share anew, by that header."""
    if sticky.by != "field":
        return {}
    value = {_FIELD_HEADER: f"%DYNAMIC_METADATA({_FIELD_SPACE}:value)%"}
    header = {"append": {"header": {"key": _FIELD_HEADER, "value": value[_FIELD_HEADER]}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    configs = {
        _JSON: {"@type": _TYPES + _FIELD_FILTERS[_JSON], "request_rules": _field_rules(sticky.name.split("."))},
        _MUTATION: {"@type": _TYPES + _FIELD_FILTERS[_MUTATION] + "PerRoute", "mutations": {"request_mutations": [{"remove": _FIELD_HEADER}, header]}},
        _LUA: {"@type": _TYPES + _FIELD_FILTERS[_LUA] + "PerRoute", "source_code": {"inline_string": _CHOSEN_ANEW}},
    }
    return {"typed_per_filter_config": configs}


_CHOSEN_ANEW = f"""
function envoy_on_request(handle)
  local value = handle:headers():get("{_FIELD_HEADER}")
  if value and value:find("%c") then
    handle:headers():replace("{_FIELD_HEADER}", (value:gsub("%c", function(one) return string.format("%%%02X", one:byte()) end)))
  end
  handle:clearRouteCache()
end
"""
"""A field may hold a line's end, which no header can: it stands there by its number."""


def _field_rules(path: list[str]) -> dict[str, Any]:
    """One field, of a body that is JSON whatever its content type says: `curl -d` calls it a form."""
    rule = {"selectors": [{"key": key} for key in path], "on_present": {"metadata_namespace": _FIELD_SPACE, "key": "value"}}
    return {"rules": [rule], "allow_content_types_regex": {"regex": ".*"}, "allow_empty_content_type": True}


def _no_traffic(route: Route) -> dict[str, Any]:
    name = route.endpoint
    hint = f"%mlops traffic {name} {route.backends[0].name}=100" if route.backends else f"%mlops deploy MODEL:VERSION --endpoint {name}"
    return failure(f"No deployment of {name} takes traffic.", code="NoTraffic", hint=hint)


def _keyless(route: Route) -> dict[str, Any]:
    error = f"{route.endpoint} wants its key in the header 'Authorization: Bearer KEY'."
    body = failure(error, code="KeyRequired", hint=f"%mlops endpoints key {route.endpoint}")
    return _refusal(_match(route), 401, body, headers={"www-authenticate": "Bearer"})


def _unknown() -> dict[str, Any]:
    return _refusal({"prefix": "/"}, 404, failure("No endpoint has this address.", code="EndpointNotFound", hint="%mlops endpoints"))


def _foreign() -> dict[str, Any]:
    return _refusal({"prefix": "/"}, 403, failure("The gateway answers as 127.0.0.1 or localhost only.", code="HostNotAllowed", hint="call http://127.0.0.1"))


def _match(route: Route, *headers: dict[str, Any]) -> dict[str, Any]:
    return {"path_separated_prefix": "/" + checked_name(route.endpoint, what="endpoint"), "headers": list(headers)}


def _is(route: Route) -> dict[str, Any]:
    """The caller shows the endpoint's key.  (Envoy's own filter for keys is, at 1.40, outside its security promises; matching is not.)"""
    if not route.key:
        raise ValueError(f"no key for {route.endpoint}")
    return {"name": "authorization", "string_match": {"exact": f"Bearer {route.key}"}}


def _refusal(match: dict[str, Any], status: int, body: dict[str, Any], *, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Answer without asking anybody and without waiting for the request's body."""
    return {
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": msgspec.json.encode(body).decode()}},
        "response_headers_to_add": _set({"content-type": "application/json"} | (headers or {})),
        "typed_per_filter_config": {_BODY_LIMIT: {"@type": _BODY_LIMIT_TYPES + "BufferPerRoute", "disabled": True}},
    }


def _forward(match: dict[str, Any], timeout_seconds: float, to: dict[str, Any]) -> dict[str, Any]:
    return {"match": match, "route": _action(timeout_seconds) | to, "request_headers_to_remove": ["authorization"]}


def _action(timeout_seconds: float) -> dict[str, Any]:
    """How to ask a server: without the endpoint in the path, again only where it cannot have seen the request."""
    return {
        "regex_rewrite": {"pattern": {"regex": "^/[^/]+/?"}, "substitution": "/"},
        "timeout": f"{timeout_seconds}s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"},  # a server that restarts is back within this
        },
    }


# ── the backends ─────────────────────────────────────────────────────────────────────────────────────────────────────


def clusters(routes: Iterable[Route]) -> dict[str, Any]:
    """Every backend, whether or not it takes a share, and also those that leave."""
    return discovered([_cluster(route.endpoint, backend) for route in routes for backend in (*route.backends, *route.leaving)])


def _cluster(endpoint: str, backend: Backend) -> dict[str, Any]:
    name = cluster_name(endpoint, backend)
    host = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": backend.port}}}}
    return {
        "@type": _TYPES + "config.cluster.v3.Cluster",
        "name": name,
        "alt_stat_name": stat_name(name),
        "metadata": {"filter_metadata": {"mlops": {"deployment": f"{endpoint}/{backend.name}"}}},
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [host]}]},
        "health_checks": [_health_check()],
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http_upstream()},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [{"max_connections": 1024, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 1024}]},
    }


def _http_upstream() -> dict[str, Any]:
    """HTTP/1.1; an idle connection is dropped well before the server would, so that no request meets a closing one."""
    return {
        "@type": _TYPES + "extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": "10s"},
    }


def _health_check() -> dict[str, Any]:
    """Slow to give a server up, since a busy one answers late; quick to have it back."""
    return {
        "http_health_check": {"path": "/v2/health/ready"},
        "timeout": "3s",
        "interval": "1s",
        "no_traffic_interval": "1s",
        "unhealthy_interval": "0.2s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
    }
