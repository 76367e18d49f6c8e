import { ILabShell, ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification, showErrorMessage } from '@jupyterlab/apputils';
import { PathExt } from '@jupyterlab/coreutils';
import { DocumentWidget } from '@jupyterlab/docregistry';
import { ILauncher } from '@jupyterlab/launcher';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator, TranslationBundle } from '@jupyterlab/translation';
import { refreshIcon } from '@jupyterlab/ui-components';

import { Api, worded } from './api';
import { mlopsIcon } from './icons';
import { askWhatToDeploy } from './panel/deploy';
import { Overview } from './panel/overview';
import { MlopsPanel } from './panel/panel';
import { statusItem } from './panel/status';
import { CommandIDs, PLUGIN_ID } from './tokens';

export * from './tokens';

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN_ID,
  description: 'Models, deployments and alerts of the MLOps workspace, live beside the notebook.',
  autoStart: true,
  optional: [ITranslator, ICommandPalette, ISettingRegistry, ILayoutRestorer, IStatusBar, ILabShell, ILauncher],
  activate
};

export default plugin;

function activate(
  app: JupyterFrontEnd,
  translator: ITranslator | null,
  palette: ICommandPalette | null,
  settings: ISettingRegistry | null,
  restorer: ILayoutRestorer | null,
  statusBar: IStatusBar | null,
  labShell: ILabShell | null,
  launcher: ILauncher | null
): void {
  const trans = (translator ?? nullTranslator).load('mlops_nb');
  const api = new Api(app.serviceManager.serverSettings);
  const overview = new Overview(api);

  addCommands(app, api, overview, trans);
  const panel = new MlopsPanel(overview, app.commands, trans);
  app.shell.add(panel, 'left', { rank: 650 });
  restorer?.add(panel, panel.id);
  for (const command of Object.values(CommandIDs)) {
    palette?.addItem({ command, category: trans.__('MLOps') });
  }
  launcher?.add({ command: CommandIDs.openDashboard, args: { isLauncher: true }, category: trans.__('MLOps'), rank: 1 });
  statusBar?.registerStatusItem('mlops-nb:status', {
    item: statusItem(overview, trans, () => void app.commands.execute(CommandIDs.showPanel)),
    align: 'left',
    rank: 80
  });
  void followSettings(settings, overview, statusBar !== null);
  void app.restored.then(() => followDocument(app, labShell, overview));
}

function addCommands(app: JupyterFrontEnd, api: Api, overview: Overview, trans: TranslationBundle): void {
  app.commands.addCommand(CommandIDs.openDashboard, {
    label: args => (args.isLauncher ? trans.__('MLOps dashboard') : trans.__('Open dashboard')),
    caption: trans.__('Open the dashboard of this workspace in a new tab'),
    icon: args => (args.isLauncher ? mlopsIcon : undefined),
    describedBy: { args: { type: 'object', properties: { page: { type: 'string', description: 'A page such as drift?endpoint=churn' } } } },
    execute: args => openDashboard(api, overview, trans, typeof args.page === 'string' ? args.page : '')
  });
  app.commands.addCommand(CommandIDs.deploy, {
    label: trans.__('Deploy a model…'),
    caption: trans.__('Run a model version behind an endpoint'),
    describedBy: { args: { type: 'object', properties: { model: { type: 'string', description: 'A model version such as churn:3' } } } },
    execute: args => deploy(api, overview, trans, typeof args.model === 'string' ? args.model : undefined)
  });
  app.commands.addCommand(CommandIDs.refresh, {
    label: trans.__('Refresh models and deployments'),
    caption: trans.__('Refresh models and deployments'),
    icon: args => (args.isPalette ? undefined : refreshIcon),
    execute: () => overview.refresh()
  });
  app.commands.addCommand(CommandIDs.showPanel, {
    label: trans.__('Show models and deployments'),
    icon: args => (args.isPalette ? undefined : mlopsIcon),
    execute: () => app.shell.activateById('mlops-nb:panel')
  });
}

async function openDashboard(api: Api, overview: Overview, trans: TranslationBundle, page: string): Promise<void> {
  const starting = api.dashboard(overview.folder).then(({ url }) => new URL(`${url.replace(/\/$/, '')}/${page}`, window.location.href).href);
  Notification.promise(starting, {
    pending: { message: trans.__('Starting the dashboard…') },
    success: {
      message: url => trans.__('The dashboard is at %1', url),
      options: { autoClose: 10_000 }
    },
    error: { message: reason => trans.__('The dashboard did not start: %1', worded(reason)) }
  });
  const url = await starting.catch(() => null); // told by the notification
  if (url !== null && /^https?:\/\//.test(url)) {
    openTab(url, trans);
  }
}

/** A browser that blocks the new tab gets a button to press instead. */
function openTab(url: string, trans: TranslationBundle): void {
  const opened = window.open(url, '_blank');
  if (opened) {
    opened.opener = null;
    return;
  }
  const again = { label: trans.__('Open dashboard'), callback: () => void window.open(url, '_blank', 'noopener') };
  Notification.info(trans.__('Your browser blocked the new tab.'), { actions: [again] });
}

async function deploy(api: Api, overview: Overview, trans: TranslationBundle, model?: string): Promise<void> {
  await overview.refresh();
  const { summary, folder } = overview;
  if (!summary?.models.length) {
    const why = summary ? trans.__('No model is registered yet: %1', '%mlops register model --name churn') : worded(overview.failure);
    await showErrorMessage(trans.__('Deploy a model'), why);
    return;
  }
  const request = await askWhatToDeploy(summary, trans, model);
  if (!request) {
    return;
  }
  const asked = api.deploy(request, folder).then(() => request.model);
  Notification.promise(asked, {
    pending: { message: trans.__('Deploying %1…', request.model) },
    success: { message: () => trans.__('%1 is on its way; the panel shows when it answers.', request.model), options: { autoClose: 5_000 } },
    error: { message: reason => trans.__('%1 was not deployed: %2', request.model, worded(reason)) }
  });
  await asked.catch(() => undefined); // told by the notification
  await overview.refresh();
}

async function followSettings(registry: ISettingRegistry | null, overview: Overview, hasStatusBar: boolean): Promise<void> {
  const settings = await registry?.load(PLUGIN_ID);
  const apply = () => {
    const whileShown = (settings?.get('refreshSeconds').composite as number) ?? 5;
    const whileHidden = (settings?.get('statusBarRefreshSeconds').composite as number) ?? 60;
    overview.pace = { whileShown, whileHidden: hasStatusBar ? whileHidden : 0 };
  };
  settings?.changed.connect(apply);
  apply();
}

/** The workspace shown is that of the document in front, as its kernel would find it. */
function followDocument(app: JupyterFrontEnd, labShell: ILabShell | null, overview: Overview): void {
  const follow = () => {
    const widget = app.shell.currentWidget;
    if (widget instanceof DocumentWidget) {
      overview.folder = PathExt.dirname(app.serviceManager.contents.localPath(widget.context.path));
    }
  };
  (labShell ?? app.shell).currentChanged?.connect(follow);
  follow();
}
