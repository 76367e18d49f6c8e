import { Toolbar, CommandToolbarButton, ReactWidget, SidePanel, UseSignal } from '@jupyterlab/ui-components';
import { TranslationBundle } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';
import { Message } from '@lumino/messaging';
import * as React from 'react';

import { worded } from '../api';
import { mlopsIcon } from '../icons';
import { CommandIDs, ISummary } from '../tokens';
import { Overview } from './overview';
import { Alerts, Deployments, Models, section } from './sections';

/** The panel at the left: models, deployments and alerts of the workspace of the notebook in front. */
export class MlopsPanel extends SidePanel {
  constructor(
    private readonly _overview: Overview,
    commands: CommandRegistry,
    trans: TranslationBundle
  ) {
    super();
    this.id = 'mlops-nb:panel';
    this.addClass('mlops-Panel');
    this.title.icon = mlopsIcon;
    this.title.caption = trans.__('MLOps');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('MLOps'));

    this.toolbar.addItem(CommandIDs.deploy, new CommandToolbarButton({ commands, id: CommandIDs.deploy, label: trans.__('Deploy…') }));
    this.toolbar.addItem(CommandIDs.openDashboard, new CommandToolbarButton({ commands, id: CommandIDs.openDashboard, label: trans.__('Dashboard') }));
    this.toolbar.addItem('spacer', Toolbar.createSpacerItem());
    this.toolbar.addItem(CommandIDs.refresh, new CommandToolbarButton({ commands, id: CommandIDs.refresh, label: '' }));
    this.toolbar.node.setAttribute('aria-label', trans.__('MLOps actions'));
    this.header.addWidget(state(_overview, trans));

    const actions = {
      deploy: (model: string) => void commands.execute(CommandIDs.deploy, { model }),
      show: (page: string) => void commands.execute(CommandIDs.openDashboard, { page })
    };
    for (const [label, draw] of [
      [trans.__('Models'), Models],
      [trans.__('Deployments'), Deployments],
      [trans.__('Alerts'), Alerts]
    ] as const) {
      const widget = section(draw, _overview, trans, actions);
      widget.title.label = label;
      // It scrolls, so the keyboard must be able to enter it.
      widget.node.tabIndex = 0;
      widget.node.setAttribute('role', 'group');
      widget.node.setAttribute('aria-label', label);
      this.addWidget(widget);
    }
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this._overview.shown = true;
  }

  protected onAfterHide(msg: Message): void {
    super.onAfterHide(msg);
    this._overview.shown = false;
  }
}

/** `2 live · 1 alert`. */
export function counts(summary: ISummary, trans: TranslationBundle): string {
  const live = trans.__('%1 live', summary.live);
  return `${live} · ${trans._n('%1 alert', '%1 alerts', summary.alerts.length)}`;
}

/** The line under the toolbar: which workspace, what counts, and why it could not be read. */
function state(overview: Overview, trans: TranslationBundle): ReactWidget {
  const widget = ReactWidget.create(
    <UseSignal signal={overview.changed}>
      {() => (
        <>
          {overview.summary && (
            <p className="mlops-State-where" title={overview.summary.workspace}>
              {overview.summary.workspace.split(/[\\/]/).slice(-2).join('/')}
            </p>
          )}
          <p role="status" className="mlops-State-counts">
            {overview.summary && counts(overview.summary, trans)}
          </p>
          {overview.failure !== null && (
            <p role="alert" className="mlops-Reason">
              {trans.__('Not up to date: %1', worded(overview.failure))}
            </p>
          )}
        </>
      )}
    </UseSignal>
  );
  widget.addClass('mlops-State');
  return widget;
}
