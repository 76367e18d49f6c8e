import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { Status } from '../tokens';

/** The state of a deployment, or what an alert is of. */
export type Sign = Status | 'drift' | 'alert';

/** A shape of its own for each state, so that colour is never the only sign. */
const SHAPES: Record<Sign, string> = {
  healthy: 'M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Zm3.4 4.2L7 9.6 4.9 7.5 3.8 8.6 7 11.8l5.5-5.5Z',
  pending: 'M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Zm0 1.6a5.4 5.4 0 1 0 0 10.8A5.4 5.4 0 0 0 8 2.6Z',
  starting: 'M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Zm0 1.6a5.4 5.4 0 1 0 0 10.8Z',
  restarting: 'M8 2a6 6 0 1 0 6 6h-2a4 4 0 1 1-4-4v2.5L12 3 8-.5Z',
  unhealthy: 'M8 1 15.5 14.5H.5Zm-.8 4.8v4.2h1.6V5.8Zm0 5.4v1.6h1.6v-1.6Z',
  failed: 'M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1Zm.6 3.5L4.5 5.7 6.8 8l-2.3 2.3 1.2 1.2L8 9.2l2.3 2.3 1.2-1.2L9.2 8l2.3-2.3-1.2-1.2L8 6.8Z',
  stopped: 'M2.5 2.5h11v11h-11Z',
  drift: 'M8 .5 15.5 8 8 15.5.5 8Zm0 3.4L3.9 8 8 12.1 12.1 8Z',
  alert: 'M8 .8a1.2 1.2 0 0 1 1.2 1.2v.5a4.4 4.4 0 0 1 3.2 4.2v3.1l1.6 2.2H2l1.6-2.2V6.7a4.4 4.4 0 0 1 3.2-4.2V2A1.2 1.2 0 0 1 8 .8ZM6.2 13.2h3.6a1.8 1.8 0 0 1-3.6 0Z'
};

/** A state as shape, text and colour; one that nothing was ever asked of is no more than untried. */
export function Health(props: { status: Sign; untried?: boolean; trans: TranslationBundle }): JSX.Element {
  const { status, untried, trans } = props;
  const known = status in SHAPES ? status : 'pending';
  return (
    <span className={`mlops-Health mlops-mod-${known}`}>
      <svg className="mlops-Health-shape" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
        <path fillRule="evenodd" d={SHAPES[known]} />
      </svg>
      <span className="mlops-Health-text">{untried ? trans.__('%1, untried', inWords(status, trans)) : inWords(status, trans)}</span>
    </span>
  );
}

function inWords(status: Sign, trans: TranslationBundle): string {
  const words: Record<Sign, string> = {
    healthy: trans.__('healthy'),
    pending: trans.__('pending'),
    starting: trans.__('starting'),
    restarting: trans.__('restarting'),
    unhealthy: trans.__('unhealthy'),
    failed: trans.__('failed'),
    stopped: trans.__('stopped'),
    drift: trans.__('drift'),
    alert: trans.__('alert')
  };
  return words[status] ?? status;
}
