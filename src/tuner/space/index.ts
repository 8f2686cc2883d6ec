/**
 * The space: for a problem of a kernel family, every schedule that is worth a look and legal on a device, its default among them.
 * Schedules from a file are found in it or refused; nothing of a file is ever used by itself.
 */
import { stableJson } from '../../base/hash.ts';
import {
  type AttentionProblem, type AttentionSchedule, attention, attentionSchedule, type GroupedProblem, type GroupedSchedule, groupedSchedule, type HeadLinearProblem,
  lanesFor, type LinearProblem, type LinearSchedule, linearSchedule, linearShape, type MatmulProblem, type MatvecSchedule, rowsSchedule, type TileShape,
} from '../../kernels/index.ts';
import { epilogueCount } from '../../kernels/epilogue.ts';
import type { TunedFamilies, TunedFamily } from '../../kernels/schedule-source.ts';
import type { Capabilities } from '../../target/types.ts';
import { matvecSpace } from './matvec.ts';
import { tileSpace } from './tiles.ts';
import { type Asked, type Choice, type Chosen, choice, legalOf, mapSpace, type Params, type Space } from './types.ts';

export * from './types.ts';

export interface Choices {
  /** What the family takes by itself. */
  readonly standard: Choice;
  /** Each once, the standard first. */
  readonly all: readonly Choice[];
  /** Schedules that were looked at to find those. */
  readonly considered: number;
}

interface Family<F extends TunedFamily> {
  standard(problem: TunedFamilies[F]['problem'], caps: Capabilities): TunedFamilies[F]['schedule'];
  space(problem: TunedFamilies[F]['problem'], caps: Capabilities): Space<TunedFamilies[F]['schedule']>;
}

/** Rows up to which teams of subgroups serve a dense product. */
const TEAM_ROWS = 8;
const BANDS = [8, 16, 32, 64] as const;

const matmulStandard = (p: MatmulProblem, caps: Capabilities): LinearSchedule | MatvecSchedule => rowsSchedule(p, caps) ?? linearSchedule(p, caps);

function matmulSpace(p: MatmulProblem, caps: Capabilities): Space<LinearSchedule | MatvecSchedule> {
  const lanes = lanesFor(p.k);
  const width = p.heads * Math.min(p.k, p.n);
  const shape: TileShape = { k: p.k, lanes, count: p.products, weightElem: p.weightElem, xElem: p.xElem ?? 'f32', width };
  const few = p.maxRows !== undefined && p.maxRows <= TEAM_ROWS;
  const { bk } = linearSchedule(p, caps);
  const rows = few ? [...new Set([Math.min(4, p.maxRows ?? 4), 2 ** Math.ceil(Math.log2(p.maxRows ?? 4))])] : BANDS;
  const tiles = tileSpace({ rows, n: p.n, loops: [shape], depth: bk }, caps);
  const dense = tiles.legal.flatMap((tile) => (few && tile.bm > 1 ? [1, 0] as const : [0] as const).map((oneRow): LinearSchedule => ({ ...tile, oneRow })));
  if (!few) return { legal: dense, considered: tiles.considered };
  const teams = matvecSpace({ count: p.products, n: p.n, depth: p.k / lanes, slots: 1, weightElem: p.weightElem, subgroupsOnly: true }, caps);
  return { legal: [...dense, ...teams.legal], considered: tiles.considered + teams.considered };
}

const groupedShapes = (p: GroupedProblem): readonly TileShape[] => {
  const count = epilogueCount(p.epilogue);
  const x = p.xElem ?? 'f32';
  const routed: TileShape = { k: p.k, lanes: lanesFor(p.k), count, weightElem: p.weightElem, xElem: x, width: Math.min(p.k, p.n), bias: p.biasElem !== undefined };
  if (p.shared === undefined) return [routed];
  const { k, n, weightElem } = p.shared;
  return [routed, { ...routed, k, lanes: lanesFor(k), weightElem, xElem: p.shared.ownX ? (p.shared.xElem ?? 'f32') : x, width: Math.min(k, n) }];
};

function groupedSpace(p: GroupedProblem, caps: Capabilities): Space<GroupedSchedule> {
  const n = Math.max(p.n, p.shared?.n ?? 0);
  if (p.mode === 'sorted' && !p.combine) {
    const depth = groupedSchedule(p, caps).tile?.bk ?? 16;
    return mapSpace(tileSpace({ rows: [p.tileRows], n, loops: groupedShapes(p), depth }, caps), (tile) => ({ tile }));
  }
  const slots = p.combine ? p.slots : 1;
  return mapSpace(matvecSpace({ count: epilogueCount(p.epilogue), n, depth: p.k / lanesFor(p.k), slots, weightElem: p.weightElem, subgroupsOnly: false }, caps), (matvec) => ({ matvec }));
}

/** Whether the family makes a kernel of it: attention says so by making one. */
function makes(p: AttentionProblem, s: AttentionSchedule, caps: Capabilities): boolean {
  try {
    attention(p, s, caps);
    return true;
  } catch {
    return false;
  }
}

function attentionSpace(p: AttentionProblem, caps: Capabilities): Space<AttentionSchedule> {
  const blocks = [8, 16, 32, 64, 128, 256];
  const byRows = blocks.flatMap((block) => [1, 2, 4, 8].flatMap((rows) => [1, 2, 4].map((tn): AttentionSchedule => ({ block, rows, tn }))));
  return legalOf(byRows, (s) => makes(p, s, caps));
}

const headShape = (p: HeadLinearProblem): MatmulProblem => ({ ...p, products: 1 });

const FAMILIES: { readonly [F in TunedFamily]: Family<F> } = {
  linear: { standard: (p: LinearProblem, caps) => matmulStandard(linearShape(p), caps), space: (p, caps) => matmulSpace(linearShape(p), caps) },
  head_linear: { standard: (p, caps) => matmulStandard(headShape(p), caps), space: (p, caps) => matmulSpace(headShape(p), caps) },
  'grouped-linear': { standard: groupedSchedule, space: groupedSpace },
  attention: { standard: attentionSchedule, space: attentionSpace },
};

/** Pairs a problem with a schedule of its own family. */
function choicesWith<F extends TunedFamily>(family: F, problem: TunedFamilies[F]['problem'], caps: Capabilities, pair: (s: TunedFamilies[F]['schedule']) => Chosen): Choices {
  const { standard, space } = FAMILIES[family];
  const first = choice(pair(standard(problem, caps)));
  const { legal, considered } = space(problem, caps);
  const all = new Map([first, ...legal.map((s) => choice(pair(s)))].map((c) => [c.text, c]));
  return { standard: first, all: [...all.values()], considered };
}

/** Whether two schedules add up in the same order, so that results agree to the bit. */
function sameSums(a: Params, b: Params): boolean {
  const orders = (p: Params): readonly unknown[] => ('bm' in p ? [p['variant'] ?? 'fma'] : 'team' in p ? [p['team'] === 1 ? 'fma' : p['team']] : [p['block']]);
  return orders(a).every((x, i) => x === orders(b)[i]);
}

/** Those that give the standard's bits: for specs that promise a token's result whatever else is in the call. */
export const withSameSums = (c: Choices): Choices => ({ ...c, all: c.all.filter((x) => sameSums(c.standard.params, x.params)) });

/** What there is to choose from for a problem. */
export function choicesOf(asked: Asked, caps: Capabilities): Choices {
  switch (asked.family) {
    case 'linear':
      return choicesWith(asked.family, asked.problem, caps, (schedule) => ({ ...asked, schedule }));
    case 'head_linear':
      return choicesWith(asked.family, asked.problem, caps, (schedule) => ({ ...asked, schedule }));
    case 'grouped-linear':
      return choicesWith(asked.family, asked.problem, caps, (schedule) => ({ ...asked, schedule }));
    case 'attention':
      return choicesWith(asked.family, asked.problem, caps, (schedule) => ({ ...asked, schedule }));
  }
}

/** The choice that a schedule from outside names; undefined where the space has none such. */
export const findChoice = (asked: Asked, schedule: unknown, caps: Capabilities): Choice | undefined => {
  const text = stableJson(schedule);
  return choicesOf(asked, caps).all.find((c) => c.text === text);
};
