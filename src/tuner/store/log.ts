/** Every measurement, one line each, as it is made: an interrupted run loses nothing but the one it was at. */
import { isObject } from '../../base/is-object.ts';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { stableHash } from '../../base/hash.ts';
import { isFailureClass, type Outcome } from '../outcome.ts';
import { DISK, type StoreFs, type Warn } from './store.ts';

const LINE_VERSION = 1;

/** What was measured: a configuration at one stage of the search for an entry. */
export interface Measurement {
  readonly key: string;
  /** `search`, `final`, `again`, `edge` with the numbers that tell two of them apart. */
  readonly stage: string;
  readonly config: string;
}

const idOf = ({ key, stage, config }: Measurement): string => `${key} ${stage} ${stableHash(config).slice(0, 16)}`;

function outcomeOf(x: unknown): Outcome | undefined {
  if (!isObject(x)) return undefined;
  const { ok, failure, message, ms, besideMs, ratio, noise, batches, rough } = x;
  if (ok === false && isFailureClass(failure) && typeof message === 'string') return { ok, failure, message };
  const numbers = [ms, besideMs, ratio, noise, batches];
  if (ok !== true || typeof rough !== 'boolean' || !numbers.every((n) => typeof n === 'number' && Number.isFinite(n) && n >= 0)) return undefined;
  return { ok, ms: Number(ms), besideMs: Number(besideMs), ratio: Number(ratio), noise: Number(noise), batches: Number(batches), rough };
}

/** Lines that are whole and ours; of several for one measurement the last one. */
function parseLog(text: string): Map<string, Outcome> {
  const known = new Map<string, Outcome>();
  for (const line of text.split('\n')) {
    if (line === '') continue;
    try {
      const x: unknown = JSON.parse(line);
      if (!isObject(x) || x['v'] !== LINE_VERSION || typeof x['id'] !== 'string') continue;
      const outcome = outcomeOf(x['outcome']);
      if (outcome !== undefined) known.set(x['id'], outcome);
    } catch {
      // A line that was being written when its process ended.
    }
  }
  return known;
}

export class TuneLog {
  readonly path: string;
  readonly #fs: StoreFs;
  readonly #warn: Warn;
  readonly #known: Map<string, Outcome>;
  /** Something may stand on the last line that its writer never ended. */
  #open: boolean;
  #failed = false;

  /** @param resume whether earlier measurements count */
  constructor(directory: string, warn: Warn, resume: boolean, fs: StoreFs = DISK) {
    this.path = join(directory, 'log.jsonl');
    this.#fs = fs;
    this.#warn = warn;
    let text = '';
    try {
      fs.makeDirectory(directory);
      text = readFileSync(this.path, 'utf8');
    } catch {
      // None yet; a directory that cannot be written is told when there is something to write.
    }
    this.#open = text !== '' && !text.endsWith('\n');
    this.#known = resume ? parseLog(text) : new Map();
  }

  /** Measurements that a resumed run does not make again. */
  get known(): number {
    return this.#known.size;
  }

  find(m: Measurement): Outcome | undefined {
    return this.#known.get(idOf(m));
  }

  add(m: Measurement, outcome: Outcome): void {
    const line = JSON.stringify({ v: LINE_VERSION, id: idOf(m), config: m.config, outcome });
    try {
      this.#fs.append(this.path, `${this.#open ? '\n' : ''}${line}\n`);
      this.#open = false;
    } catch (error) {
      // What was written of the line is not known.
      this.#open = true;
      if (!this.#failed) this.#warn(`measurements cannot be logged in ${this.path}: ${error instanceof Error ? error.message : String(error)}`);
      this.#failed = true;
    }
  }
}
