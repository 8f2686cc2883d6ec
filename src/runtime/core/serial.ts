/** One call at a time, in the order of asking; waiting for one can be given up. */
import { AbortError, type Signal } from './errors.ts';

/** `work`, or the abort, whichever is first; `work` itself goes on. */
export function orAborted<T>(work: Promise<T>, signal: Signal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new AbortError(undefined, { cause: signal.reason }));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    void work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

export class Serial {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs `work` after all work asked for before. */
  run<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(work);
    this.#last = mine.then(() => undefined, () => undefined);
    return mine;
  }

  /** Resolves when everything asked for so far is over. */
  idle(): Promise<unknown> {
    return this.#last;
  }
}

/**
 * Rejects work when something is lost for good. Holds on to work only while it runs: a bare Promise.race
 * against a promise that never settles would keep every result alive.
 */
export class LossGuard {
  readonly #waiting = new Set<(error: Error) => void>();
  #error: Error | undefined;

  constructor(lost: Promise<Error>) {
    void lost.then((error) => {
      this.#error = error;
      for (const reject of this.#waiting) reject(error);
      this.#waiting.clear();
    });
  }

  get error(): Error | undefined {
    return this.#error;
  }

  race<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#error !== undefined) reject(this.#error);
      else this.#waiting.add(reject);
      void work.then(resolve, reject).finally(() => this.#waiting.delete(reject));
    });
  }
}
