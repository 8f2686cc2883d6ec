/** What is chosen from: legal schedules of the problems that a unit asks kernel families for. */
import { stableJson } from '../../base/hash.ts';
import type { TunedFamilies, TunedFamily } from '../../kernels/schedule-source.ts';

/** A problem that a kernel family is asked for. */
export type Asked = { readonly [F in TunedFamily]: { readonly family: F; readonly problem: TunedFamilies[F]['problem'] } }[TunedFamily];

/** The same with a schedule to run it by. */
export type Chosen = {
  readonly [F in TunedFamily]: { readonly family: F; readonly problem: TunedFamilies[F]['problem']; readonly schedule: TunedFamilies[F]['schedule'] };
}[TunedFamily];

/** Numbers and names of a schedule without its nesting: what is compared, printed and stepped through. */
export type Params = Readonly<Record<string, number | string>>;

export interface Choice {
  readonly chosen: Chosen;
  readonly params: Params;
  /** Of the schedule; equal for equal schedules. */
  readonly text: string;
}

function flatten(value: object, into: Record<string, number | string>): Record<string, number | string> {
  for (const [name, x] of Object.entries(value)) {
    if (typeof x === 'number' || typeof x === 'string') into[name] = x;
    else if (typeof x === 'object' && x !== null) flatten(x, into);
  }
  return into;
}

export const choice = (chosen: Chosen): Choice => ({ chosen, params: flatten(chosen.schedule, {}), text: stableJson(chosen.schedule) });

/** `bm16 bn64 tm4 tn2 register` */
export const showParams = (params: Params): string => {
  const words = Object.entries(params).map(([name, value]) => (typeof value === 'string' ? value : `${name}${value}`));
  return words.join(' ');
};

/** A number that changes whenever the same stored schedule may mean another kernel, or spaces another set. */
export const SPACE_VERSION = 1;

export type AnySchedule = Chosen['schedule'];

/** Legal schedules, and how many were looked at to find them. */
export interface Space<S> {
  readonly legal: readonly S[];
  readonly considered: number;
}

export const legalOf = <S>(all: readonly S[], isLegal: (s: S) => boolean): Space<S> => ({ legal: all.filter(isLegal), considered: all.length });
export const mapSpace = <S, R>({ legal, considered }: Space<S>, f: (s: S) => R): Space<R> => ({ legal: legal.map(f), considered });
