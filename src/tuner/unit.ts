/**
 * Units of tuning: kernels that are chosen together and run together. The driver makes them of a spec; the tuner knows a unit by
 * what it asks of kernel families and by the jobs it makes of choices.
 */
import type { PlanShape } from '../kernels/schedule-source.ts';
import type { Job, UnitData } from './job.ts';
import { type AnySchedule, type Asked, type Choice, showParams } from './space/types.ts';

/** One candidate. */
export interface Config {
  /** Rows of the tiles of the plan; absent where the unit has no sorted plan. */
  readonly tileRows?: number;
  /** One for each of `asked(tileRows)`. */
  readonly choices: readonly Choice[];
}

/** A configuration as it is stored. */
export interface PlainConfig {
  readonly tileRows?: number;
  readonly schedules: readonly AnySchedule[];
}

export const plainConfig = ({ tileRows, choices }: Config): PlainConfig => ({
  ...(tileRows === undefined ? {} : { tileRows }),
  schedules: choices.map((c) => c.chosen.schedule),
});

export const configText = ({ tileRows, choices }: Config): string => `${tileRows ?? ''}|${choices.map((c) => c.text).join('|')}`;

/** For people: `tiles of 16 | bm16 bn32 tm4 tn2 register | …` */
export function showConfig({ tileRows, choices }: Config): string {
  return [...(tileRows === undefined ? [] : [`tiles of ${tileRows}`]), ...choices.map((c) => showParams(c.params))].join(' | ');
}

/** What is timed: one case of several, such as a distribution of tokens over experts. */
export interface Scenario {
  readonly name: string;
  readonly weight: number;
}

export interface Unit {
  /** Of what is computed: equal for equal problems, whatever the spec calls them. */
  readonly id: string;
  /** `experts of layer.moe`, `attn.q` */
  readonly name: string;
  /** Most tokens of the calls it is tuned for, and fewest: the range a winner will serve. */
  readonly tokens: number;
  readonly from: number;
  /** The sorted plan, where there is one. */
  readonly plan?: PlanShape & { readonly standard: number };
  readonly scenarios: readonly Scenario[];
  /** Whether schedules must add up as the standard ones do. */
  readonly exact: boolean;
  /** Multiply-adds of a call with all tokens. */
  readonly work: number;
  /** Bytes of weights. */
  readonly bytes: number;
  /** Problems that families are asked for, in a fixed order. */
  asked(tileRows: number | undefined): readonly Asked[];
  /** What an untuned package runs on this device for so many tokens. */
  standardJob(tokens: number): Job;
  /** @throws Error where the compiler refuses */
  job(config: Config, tokens: number): Job;
  /** Weights, inputs and expected results of a seed. */
  data(tokens: number, seed: number): Promise<UnitData>;
}
