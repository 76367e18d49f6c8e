import { ISignal, Signal } from '@lumino/signaling';
import { Poll } from '@lumino/polling';

import { Api } from '../api';
import { ISummary } from '../tokens';

/** How often to ask, in seconds; 0 stops asking. */
export interface IPace {
  whileShown: number;
  whileHidden: number;
}

/**
 * The workspace as last read from the server.
 *
 * It is read often while the panel is shown, rarely while only the status bar tells of it, and never while the page is hidden.
 * Failures are retried ever more slowly; the last good reading stays.
 */
export class Overview {
  constructor(private readonly _api: Api) {
    this._poll = new Poll<void, unknown>({
      name: 'mlops-nb:overview',
      auto: false,
      factory: () => this._read(),
      frequency: { interval: Poll.NEVER, backoff: true },
      standby: 'when-hidden'
    });
  }

  get summary(): ISummary | null {
    return this._summary;
  }

  /** Why the last reading failed, or null. */
  get failure(): unknown {
    return this._failure;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** The folder from which the user looks, relative to the server's root: it decides the workspace. */
  get folder(): string {
    return this._folder;
  }

  set folder(folder: string) {
    if (folder !== this._folder) {
      this._folder = folder;
      this._summary = null; // it was of another workspace
      this._failure = null;
      this._changed.emit();
      void this.refresh();
    }
  }

  set pace(pace: IPace) {
    this._pace = pace;
    this._setFrequency();
  }

  /** Whether the panel is on the screen. */
  set shown(shown: boolean) {
    this._shown = shown;
    this._setFrequency();
  }

  /** Read now. */
  async refresh(): Promise<void> {
    await this._poll.refresh();
    await this._poll.tick.catch(() => undefined);
  }

  dispose(): void {
    this._poll.dispose();
    Signal.clearData(this);
  }

  private _setFrequency(): void {
    const seconds = this._shown ? this._pace.whileShown : this._pace.whileHidden;
    const interval = seconds > 0 ? seconds * 1000 : Poll.NEVER;
    this._poll.frequency = { interval, backoff: true, max: Math.max(interval, 60_000) };
    // What was scheduled at the old frequency gives way to a reading now.
    void this._poll.refresh();
  }

  /** Once more where the user looks from another folder by then: while a reading is on its way, the poll takes no other wish. */
  private async _read(): Promise<void> {
    let folder: string;
    do {
      folder = this._folder;
      try {
        const summary = await this._api.summary(folder);
        if (folder === this._folder) {
          this._summary = summary;
          this._failure = null;
        }
      } catch (reason) {
        if (folder === this._folder) {
          this._failure = reason;
          throw reason;
        }
      } finally {
        this._changed.emit();
      }
    } while (folder !== this._folder);
  }

  private readonly _poll: Poll<void, unknown>;
  private readonly _changed = new Signal<this, void>(this);
  private _summary: ISummary | null = null;
  private _failure: unknown = null;
  private _folder = '';
  private _shown = false;
  private _pace: IPace = { whileShown: 5, whileHidden: 60 };
}
