/**
 * One list of choices, explored: the estimate says where to begin, and what was measured corrects it. Scores are modelled as
 * estimate times one factor per value of each parameter.
 */
import type { Choice, Params } from '../space/types.ts';
import type { Random } from '../random.ts';
import { dot, ridge } from './regression.ts';

const LAMBDA = 0.05;
/** Scales of features: the larger, the freer is the weight. */
const INTERCEPT = 20;
const OWN = 0.5;
/** Weight of the log of the estimate before anything is measured. */
const TRUST = 0.25;

interface Entry {
  readonly choice: Choice;
  readonly features: readonly number[];
  /** log of the estimate. */
  readonly estimate: number;
  /** log score beside the other choices of the axis; undefined: not measured. */
  y: number | undefined;
  failed: boolean;
}

/** A factor for each value, and a valley over all of them: values that were not tried are between those that were. */
function featuresOf(value: number | string, list: readonly string[]): readonly number[] {
  const at = list.indexOf(String(value));
  const z = list.length < 2 ? 0 : (2 * at) / (list.length - 1) - 1;
  const own = list.map((_, i) => (i === at ? OWN : 0));
  return typeof value === 'number' && list.length > 2 ? [...own, z, z * z - 0.5] : own;
}

/** Values of all parameters by name, ascending; names and absent values by text. */
function valuesOf(choices: readonly Choice[]): ReadonlyMap<string, readonly string[]> {
  const values = new Map<string, Set<number | string>>();
  const names = new Set(choices.flatMap((c) => Object.keys(c.params)));
  for (const name of names) values.set(name, new Set(choices.map((c) => c.params[name] ?? '')));
  const order = (a: number | string, b: number | string): number => (typeof a === 'number' && typeof b === 'number' ? a - b : String(a) < String(b) ? -1 : 1);
  return new Map([...values].filter(([, set]) => set.size > 1).map(([name, set]) => [name, [...set].sort(order).map(String)]));
}

/** Steps between two schedules: along the values of each parameter. */
export function distance(a: Params, b: Params, values: ReadonlyMap<string, readonly string[]>): number {
  let steps = 0;
  for (const [name, list] of values) {
    const i = list.indexOf(String(a[name] ?? ''));
    const j = list.indexOf(String(b[name] ?? ''));
    steps += typeof a[name] === 'string' || typeof b[name] === 'string' ? (i === j ? 0 : 2) : Math.abs(i - j);
  }
  return steps;
}

export class Axis {
  readonly #entries: readonly Entry[];
  readonly #byText: ReadonlyMap<string, Entry>;
  readonly #values: ReadonlyMap<string, readonly string[]>;
  #level = 0;

  /** @param estimate of a choice, positive */
  constructor(choices: readonly Choice[], estimate: (choice: Choice) => number) {
    this.#values = valuesOf(choices);
    const names = [...this.#values];
    this.#entries = choices
      .map((choice): Entry => {
        const features = names.flatMap(([name, list]) => featuresOf(choice.params[name] ?? '', list));
        return { choice, features: [INTERCEPT, ...features], estimate: Math.log(Math.max(1e-30, estimate(choice))), y: undefined, failed: false };
      })
      .sort((a, b) => a.estimate - b.estimate || (a.choice.text < b.choice.text ? -1 : 1));
    this.#byText = new Map(this.#entries.map((e) => [e.choice.text, e]));
  }

  get size(): number {
    return this.#entries.length;
  }

  /** The choice with the smallest estimate. */
  get first(): Choice | undefined {
    return this.#entries[0]?.choice;
  }

  get measured(): number {
    return this.#entries.filter((e) => e.y !== undefined || e.failed).length;
  }

  /** From here on scores are beside that of `choice`, which is `score` now: other parts of the unit have changed. */
  anchor(choice: Choice, score: number): void {
    const known = this.#byText.get(choice.text);
    this.#level = Math.log(score) - (known?.y ?? 0);
    if (known !== undefined) known.y ??= 0;
  }

  observe(choice: Choice, score: number | undefined): void {
    const entry = this.#byText.get(choice.text);
    if (entry === undefined) return;
    if (score === undefined) entry.failed = true;
    else entry.y = Math.log(score) - this.#level;
  }

  /**
   * What to measure next: by turns what is predicted to be fast, something beside the best so far, and something that is unlike
   * what is known, of the better part.
   * @param turn how many were taken before in this visit
   */
  next(turn: number, r: Random): Choice | undefined {
    const open = this.#entries.filter((e) => e.y === undefined && !e.failed);
    const seen = this.#entries.filter((e) => e.y !== undefined);
    const predicted = this.#predictions(open, seen);
    const order = open.map((entry, i) => ({ entry, value: predicted[i] ?? 0 })).sort((a, b) => a.value - b.value).map((o) => o.entry);
    const best = seen.reduce<Entry | undefined>((a, b) => (a === undefined || (b.y ?? 0) < (a.y ?? 0) ? b : a), undefined);
    const steps = (a: Entry, b: Entry): number => distance(a.choice.params, b.choice.params, this.#values);
    const kind = turn % 4;
    if (kind === 1 && turn > 6 && best !== undefined) {
      const near = order.find((e) => steps(e, best) <= 1);
      if (near !== undefined) return near.choice;
    }
    if (kind === 3 && seen.length > 0) {
      const better = order.slice(0, Math.ceil(order.length / 4));
      const far = better.map((entry) => ({ entry, steps: Math.min(...seen.map((s) => steps(s, entry))) }));
      const farthest = Math.max(...far.map((f) => f.steps));
      const pool = far.filter((f) => f.steps === farthest);
      return pool[r.below(pool.length)]?.entry.choice;
    }
    return order[0]?.choice;
  }

  #predictions(open: readonly Entry[], seen: readonly Entry[]): readonly number[] {
    if (seen.length < 2) return open.map((e) => e.estimate);
    const center = seen.reduce((sum, e) => sum + e.estimate, 0) / seen.length;
    const row = (e: Entry): readonly number[] => [e.estimate - center, ...e.features];
    const residual = seen.map((e) => (e.y ?? 0) - TRUST * (e.estimate - center));
    const w = ridge(seen.map(row), residual, LAMBDA);
    return open.map((e) => dot(row(e), w) + TRUST * (e.estimate - center));
  }
}
