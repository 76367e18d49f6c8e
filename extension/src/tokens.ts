/** Names that others may use, and the shapes the server answers with (mlops_nb/overview.py). */

export const PLUGIN_ID = 'mlops-nb:plugin';

export namespace CommandIDs {
  export const openDashboard = 'mlops:open-dashboard';
  export const deploy = 'mlops:deploy';
  export const refresh = 'mlops:refresh';
  export const showPanel = 'mlops:show-panel';
}

export interface IVersion {
  version: number;
  ref: string;
  aliases: string[];
  tags: Record<string, string>;
  flavor: string;
  description: string;
  created_at: string;
}

export interface IModel {
  name: string;
  newest: number;
  created_at: string;
  /** How many versions there are; `versions` holds the newest and those with an alias. */
  count: number;
  versions: IVersion[];
}

export type Status =
  | 'pending'
  | 'starting'
  | 'healthy'
  | 'unhealthy'
  | 'restarting'
  | 'failed'
  | 'stopped';

export interface IDeployment {
  name: string;
  ref: string;
  model: string;
  target: string;
  status: Status;
  /** Whether nothing was ever asked of it. */
  untried: boolean;
  wanted: 'running' | 'stopped';
  /** One line; empty while it is well. */
  reason: string;
  /** Percent of the endpoint's requests. */
  share: number;
  restarts: number;
  changed_at: string;
}

export interface IEndpoint {
  name: string;
  deployments: IDeployment[];
}

export interface IAlert {
  kind: 'deployment' | 'drift' | 'rule';
  status: Status | 'drift' | 'alert';
  subject: string;
  text: string;
  /** Only of a rule that fires: what it says, what was seen, and of which endpoint. */
  condition?: string;
  value?: string;
  endpoint?: string;
  /** Only of a drift alert: the features that drifted. */
  features?: string[];
  time: string;
}

export interface ISummary {
  workspace: string;
  /** Those registered last, by name. */
  models: IModel[];
  model_count: number;
  endpoints: IEndpoint[];
  live: number;
  alerts: IAlert[];
  events: { type: string; subject: string; time: string }[];
}

export interface IDeployRequest {
  model: string;
  endpoint?: string;
  traffic?: number;
}

export interface IDeployed {
  endpoint: string;
  deployment: string;
}
