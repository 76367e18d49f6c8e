import { Clipboard } from '@jupyterlab/apputils';
import { Time } from '@jupyterlab/coreutils';
import { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import { IAlert, IDeployment, IEndpoint, IModel, ISummary, IVersion } from '../tokens';
import { Health } from './health';
import { Overview } from './overview';

/** What a press in a section may do. */
export interface IActions {
  deploy: (model: string) => void;
  /** Opens the dashboard at a page of it. */
  show: (page: string) => void;
}

type Section = (props: { summary: ISummary; trans: TranslationBundle } & IActions) => JSX.Element;

/** One section of the panel, drawn anew whenever the overview changes. */
export function section(
  draw: Section,
  overview: Overview,
  trans: TranslationBundle,
  actions: IActions
): ReactWidget {
  const Draw = draw;
  const widget = ReactWidget.create(
    <UseSignal signal={overview.changed}>
      {() => (overview.summary ? <Draw summary={overview.summary} trans={trans} {...actions} /> : <p className="mlops-Nothing">{trans.__('Reading the workspace…')}</p>)}
    </UseSignal>
  );
  widget.addClass('mlops-Section');
  return widget;
}

export const Models: Section = ({ summary, trans, deploy }) =>
  summary.models.length ? (
    <>
      <ul className="mlops-List" aria-label={trans.__('Models')}>
        {summary.models.map(model => (
          <Model key={model.name} model={model} trans={trans} deploy={deploy} />
        ))}
      </ul>
      <Rest text={trans._n('and %1 model registered earlier', 'and %1 models registered earlier', summary.model_count - summary.models.length)} shown={summary.model_count > summary.models.length} />
    </>
  ) : (
    <NothingYet
      text={trans.__('No model yet. In a notebook cell, after %1:', '%load_ext mlops_nb')}
      line="%mlops register model --name churn"
      trans={trans}
    />
  );

function Model(props: { model: IModel; trans: TranslationBundle; deploy: (model: string) => void }): JSX.Element {
  const { model, trans, deploy } = props;
  const older = model.count - model.versions.length;
  return (
    <li className="mlops-Group">
      <div className="mlops-Group-title">
        <span className="mlops-Name">{model.name}</span>
        <span className="mlops-Aside">{trans._n('%1 version', '%1 versions', model.count)}</span>
      </div>
      <ul className="mlops-List" aria-label={trans.__('Versions of %1', model.name)}>
        {model.versions.map(version => (
          <Version key={version.version} version={version} trans={trans} deploy={deploy} />
        ))}
      </ul>
      <Rest text={trans._n('and %1 older version', 'and %1 older versions', older)} shown={older > 0} />
    </li>
  );
}

function Version(props: { version: IVersion; trans: TranslationBundle; deploy: (model: string) => void }): JSX.Element {
  const { version, trans, deploy } = props;
  const tags = Object.entries(version.tags).map(([key, value]) => `${key}=${value}`);
  return (
    <li className="mlops-Item" title={[version.description, ...tags].filter(Boolean).join('\n')}>
      <div className="mlops-Line">
        <span className="mlops-Ref">{version.ref}</span>
        {version.aliases.map(alias => (
          <span key={alias} className="mlops-Alias">
            @{alias}
          </span>
        ))}
        <button
          className="jp-mod-styled mlops-Button mlops-mod-end"
          aria-label={trans.__('Deploy %1…', version.ref)}
          onClick={() => deploy(version.ref)}
        >
          {trans.__('Deploy…')}
        </button>
      </div>
      <p className="mlops-Aside">
        {version.flavor} · <When time={version.created_at} />
        {tags.map(tag => (
          <span key={tag}> · {tag}</span>
        ))}
      </p>
      {version.description && <p className="mlops-Description">{version.description}</p>}
    </li>
  );
}

export const Deployments: Section = ({ summary, trans }) => {
  const newest = summary.models.length ? `${summary.models[0].name}:${summary.models[0].newest}` : 'churn:1';
  return summary.endpoints.length ? (
    <ul className="mlops-List" aria-label={trans.__('Endpoints')}>
      {summary.endpoints.map(endpoint => (
        <Endpoint key={endpoint.name} endpoint={endpoint} trans={trans} />
      ))}
    </ul>
  ) : (
    <NothingYet text={trans.__('Nothing is deployed yet.')} line={`%mlops deploy ${newest} --endpoint ${newest.split(':')[0]}`} trans={trans} />
  );
};

function Endpoint(props: { endpoint: IEndpoint; trans: TranslationBundle }): JSX.Element {
  const { endpoint, trans } = props;
  return (
    <li className="mlops-Group">
      <div className="mlops-Group-title">
        <span className="mlops-Name">{endpoint.name}</span>
        <span className="mlops-Aside">{trans._n('%1 deployment', '%1 deployments', endpoint.deployments.length)}</span>
      </div>
      <ul className="mlops-List" aria-label={trans.__('Deployments of %1', endpoint.name)}>
        {endpoint.deployments.map(deployment => (
          <Deployment key={deployment.ref} deployment={deployment} trans={trans} />
        ))}
      </ul>
    </li>
  );
}

function Deployment(props: { deployment: IDeployment; trans: TranslationBundle }): JSX.Element {
  const { deployment, trans } = props;
  const { share } = deployment;
  return (
    <li className="mlops-Item">
      <div className="mlops-Line">
        <Health status={deployment.status} untried={deployment.untried} trans={trans} />
        <span className="mlops-Ref">{deployment.ref}</span>
        <span className="mlops-Share mlops-mod-end" title={trans.__("Its share of the endpoint's requests")}>
          {trans.__('%1%', share)}
        </span>
      </div>
      <svg className="mlops-ShareBar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
        <rect className="mlops-ShareBar-all" width="100" height="1" />
        <rect className="mlops-ShareBar-part" width={Math.min(100, Math.max(0, share))} height="1" />
      </svg>
      <p className="mlops-Aside">
        {deployment.model} · {deployment.target} · <When time={deployment.changed_at} />
      </p>
      {deployment.reason && <p className="mlops-Reason">{deployment.reason}</p>}
    </li>
  );
}

export const Alerts: Section = ({ summary, trans, show }) =>
  summary.alerts.length ? (
    <ul className="mlops-List" aria-label={trans.__('Alerts')}>
      {summary.alerts.map(alert => (
        <Alert key={alert.kind + alert.subject} alert={alert} trans={trans} show={show} />
      ))}
    </ul>
  ) : (
    <p className="mlops-Nothing">{trans.__('No alert: deployments answer, no drift was found and no rule fires.')}</p>
  );

function Alert(props: { alert: IAlert; trans: TranslationBundle; show: (page: string) => void }): JSX.Element {
  const { alert, trans, show } = props;
  return (
    <li className="mlops-Item">
      <div className="mlops-Line">
        <Health status={alert.status} trans={trans} />
        <span className="mlops-Ref">{alert.endpoint ?? alert.subject}</span>
        <button
          className="jp-mod-styled mlops-Button mlops-mod-end"
          aria-label={trans.__('Show %1 in the dashboard', alert.subject)}
          onClick={() => show(pageOf(alert))}
        >
          {trans.__('Show')}
        </button>
      </div>
      {alert.condition ? <Rule alert={alert} trans={trans} /> : <Why alert={alert} trans={trans} />}
      <p className="mlops-Aside">
        {alert.condition ? trans.__('since') : null} <When time={alert.time} />
      </p>
    </li>
  );
}

/** The rule as it was said, and what was seen. */
function Rule(props: { alert: IAlert; trans: TranslationBundle }): JSX.Element {
  const { alert, trans } = props;
  return (
    <dl className="mlops-Rule">
      <dt>{trans.__('rule')}</dt>
      <dd>
        <code>{alert.condition}</code>
      </dd>
      <dt>{trans.__('seen')}</dt>
      <dd>{alert.value}</dd>
    </dl>
  );
}

function Why(props: { alert: IAlert; trans: TranslationBundle }): JSX.Element | null {
  const { alert, trans } = props;
  const text = alert.features?.length ? trans.__('Requests differ from the training data in: %1', alert.text) : alert.text;
  return text ? <p className="mlops-Reason">{text}</p> : null;
}

/** The page of the dashboard that tells more. */
function pageOf(alert: IAlert): string {
  const [page, name, value] = {
    deployment: ['deployments', 'deployment', alert.subject],
    drift: ['drift', 'endpoint', alert.subject],
    rule: ['rollout', 'endpoint', alert.endpoint ?? alert.subject]
  }[alert.kind];
  return `${page}?${name}=${encodeURIComponent(value)}`;
}

function Rest(props: { text: string; shown: boolean }): JSX.Element | null {
  return props.shown ? <p className="mlops-Aside mlops-More">{props.text}</p> : null;
}

function NothingYet(props: { text: string; line: string; trans: TranslationBundle }): JSX.Element {
  const { text, line, trans } = props;
  return (
    <div className="mlops-Nothing">
      <p>{text}</p>
      <code>{line}</code>
      <button className="jp-mod-styled mlops-Button" aria-label={trans.__('Copy the line %1', line)} onClick={() => Clipboard.copyToSystem(line)}>
        {trans.__('Copy')}
      </button>
    </div>
  );
}

function When(props: { time: string }): JSX.Element {
  return (
    <time dateTime={props.time} title={Time.format(props.time)}>
      {Time.formatHuman(props.time)}
    </time>
  );
}
