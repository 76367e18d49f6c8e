import { LabIcon } from '@jupyterlab/ui-components';

import mlopsSvg from '../style/icons/mlops.svg';

/** Two paths that part and meet again: a model's traffic. */
export const mlopsIcon = new LabIcon({ name: 'mlops-nb:mlops', svgstr: mlopsSvg });
