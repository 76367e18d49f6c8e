import { Dialog, ReactWidget, showDialog } from '@jupyterlab/apputils';
import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { IDeployRequest, ISummary } from '../tokens';

const NAME = '[A-Za-z0-9][A-Za-z0-9._\\-]{0,99}';

/** Ask which model version goes where; null when the user thinks better of it. */
export async function askWhatToDeploy(summary: ISummary, trans: TranslationBundle, model?: string): Promise<IDeployRequest | null> {
  const refs = summary.models.flatMap(each => each.versions.map(version => version.ref));
  const result = await showDialog({
    title: trans.__('Deploy a model'),
    body: new DeployForm(refs, summary, trans, model && refs.includes(model) ? model : refs[0]),
    buttons: [Dialog.cancelButton({ label: trans.__('Cancel') }), Dialog.okButton({ label: trans.__('Deploy') })],
    focusNodeSelector: 'select'
  });
  return result.button.accept ? result.value : null;
}

/** Its equivalent line is always in sight. */
class DeployForm extends ReactWidget implements Dialog.IBodyWidget<IDeployRequest> {
  constructor(
    private readonly _refs: string[],
    private readonly _summary: ISummary,
    private readonly _trans: TranslationBundle,
    model: string
  ) {
    super();
    this.addClass('mlops-DeployForm');
    this._request = { model, endpoint: nameOf(model) };
  }

  getValue(): IDeployRequest {
    return this._request;
  }

  render(): JSX.Element {
    const trans = this._trans;
    const { model, endpoint, traffic } = this._request;
    const isFirst = !this._summary.endpoints.some(each => each.name === endpoint && each.deployments.length);
    return (
      <form onSubmit={event => event.preventDefault()}>
        <label htmlFor="mlops-deploy-model">{trans.__('Model version')}</label>
        <select id="mlops-deploy-model" className="jp-mod-styled" value={model} onChange={event => this._choose(event.target.value)}>
          {this._refs.map(ref => (
            <option key={ref} value={ref}>
              {ref}
            </option>
          ))}
        </select>
        <label htmlFor="mlops-deploy-endpoint">{trans.__('Endpoint')}</label>
        <input
          id="mlops-deploy-endpoint"
          className="jp-mod-styled"
          value={endpoint ?? ''}
          required
          pattern={NAME}
          title={trans.__("Letters, digits, '-', '_' and '.', starting with a letter or digit")}
          list="mlops-deploy-endpoints"
          onChange={event => this._change({ endpoint: event.target.value })}
        />
        <datalist id="mlops-deploy-endpoints">
          {this._summary.endpoints.map(each => (
            <option key={each.name} value={each.name} />
          ))}
        </datalist>
        <label htmlFor="mlops-deploy-traffic">{trans.__('Traffic (percent)')}</label>
        <input
          id="mlops-deploy-traffic"
          className="jp-mod-styled"
          type="number"
          min={0}
          max={100}
          step={1}
          placeholder={isFirst ? '100' : '0'}
          value={traffic ?? ''}
          aria-describedby="mlops-deploy-traffic-help"
          onChange={event => this._change({ traffic: event.target.value === '' ? undefined : Number(event.target.value) })}
        />
        <p id="mlops-deploy-traffic-help" className="mlops-Aside">
          {isFirst ? trans.__('The first deployment of an endpoint takes all its traffic.') : trans.__('Left empty, it takes none until you say so.')}
        </p>
        <label htmlFor="mlops-deploy-line">{trans.__('The same in a notebook cell')}</label>
        <output id="mlops-deploy-line">
          <code>{line(this._request)}</code>
        </output>
      </form>
    );
  }

  /** Another model takes its endpoint along unless the user named one. */
  private _choose(model: string): void {
    const followed = this._request.endpoint === nameOf(this._request.model);
    this._change(followed ? { model, endpoint: nameOf(model) } : { model });
  }

  private _change(change: Partial<IDeployRequest>): void {
    this._request = { ...this._request, ...change };
    this.update();
  }

  private _request: IDeployRequest;
}

function line({ model, endpoint, traffic }: IDeployRequest): string {
  const words = ['%mlops deploy', model, ...(endpoint ? ['--endpoint', endpoint] : []), ...(traffic === undefined ? [] : ['--traffic', String(traffic)])];
  return words.join(' ');
}

function nameOf(ref: string): string {
  return ref.split(':')[0];
}
