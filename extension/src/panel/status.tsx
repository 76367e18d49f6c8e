import { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import { Overview } from './overview';
import { counts } from './panel';

/** `2 live · 1 alert` in the status bar; a press shows the panel. */
export function statusItem(overview: Overview, trans: TranslationBundle, show: () => void): ReactWidget {
  const widget = ReactWidget.create(
    <UseSignal signal={overview.changed}>
      {() =>
        overview.summary && (
          <button className="mlops-Status jp-StatusBar-TextItem" title={trans.__('Show models and deployments')} onClick={show}>
            {counts(overview.summary, trans)}
          </button>
        )
      }
    </UseSignal>
  );
  widget.addClass('mlops-StatusItem');
  return widget;
}
