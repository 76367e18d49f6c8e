/** The three questions this extension asks of mlops_nb/server_extension.py. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import { IDeployed, IDeployRequest, ISummary } from './tokens';

/** What the server refused, and the next step it names. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly hint: string
  ) {
    super(message);
  }
}

export class Api {
  constructor(private readonly _server: ServerConnection.ISettings) {}

  summary(folder: string): Promise<ISummary> {
    return this._ask('summary' + URLExt.objectToQueryString({ folder }));
  }

  deploy(request: IDeployRequest, folder: string): Promise<IDeployed> {
    return this._ask('deploy', { ...request, folder });
  }

  dashboard(folder: string): Promise<{ url: string }> {
    return this._ask('dashboard', { folder });
  }

  private async _ask<T>(path: string, body?: object): Promise<T> {
    const url = URLExt.join(this._server.baseUrl, 'mlops_nb', path);
    const init = body ? { method: 'POST', body: JSON.stringify(body) } : {};
    const response = await ServerConnection.makeRequest(url, init, this._server);
    const answer = await response.json().catch(() => ({ error: response.statusText, hint: '' }));
    if (!response.ok) {
      throw new ApiError(answer.error ?? answer.message ?? response.statusText, answer.hint ?? '');
    }
    return answer.result;
  }
}

/** One line for a person: what is true and what to do next. */
export function worded(reason: unknown): string {
  if (reason instanceof ApiError && reason.hint) {
    return `${reason.message} ${reason.hint}`;
  }
  return reason instanceof Error ? reason.message : String(reason);
}
