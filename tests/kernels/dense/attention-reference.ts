/** Operands of attention, its definition in f64, and its launches on the interpreter. */
import { evalSize } from '../../../src/base/size.ts';
import type { AttentionProblem } from '../../../src/kernels/dense/attention.ts';
import type { Launch, LaunchGroup } from '../../../src/kernels/launch.ts';
import { random, run } from './harness.ts';
import type { Call, Operands } from './harness.ts';

export type Small = Omit<AttentionProblem, 'scale' | 'vFromK'> & Partial<AttentionProblem>;

export interface Data {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly sinks: Float32Array;
}

export const fullProblem = (p: Small): AttentionProblem => ({ scale: 1 / Math.sqrt(p.qkDim), vFromK: false, ...p });

/** Rows of the cache beyond past + T hold NaN: nothing may read them. */
export function makeData(p: AttentionProblem, T: number, past: number, spread = 2): Data {
  const rows = past + T;
  const cache = (width: number, seed: number): Float32Array => {
    const data = new Float32Array((rows + 3) * width).fill(NaN);
    data.set(random(rows * width, seed));
    return data;
  };
  return {
    q: random(T * p.heads * p.qkDim, 1).map((x) => x * spread),
    k: cache(p.kvHeads * p.qkDim, 2).map((x) => x * spread),
    v: cache(p.kvHeads * p.vDim, 3),
    sinks: random(p.heads, 4),
  };
}

/** The definition, in f64. */
export function reference(p: AttentionProblem, d: Data, T: number, past: number): Float64Array {
  const y = new Float64Array(T * p.heads * p.vDim);
  const values = p.vFromK ? d.k : d.v;
  const stride = p.vFromK ? p.qkDim : p.vDim;
  for (let t = 0; t < T; t++) {
    for (let h = 0; h < p.heads; h++) {
      const g = Math.floor(h / (p.heads / p.kvHeads));
      const position = past + t;
      const first = p.window === undefined ? 0 : Math.max(0, position - p.window + 1);
      const scores: number[] = [];
      for (let key = first; key <= position; key++) {
        let dot = 0;
        for (let i = 0; i < p.qkDim; i++) {
          dot += (d.q[(t * p.heads + h) * p.qkDim + i] ?? 0) * (d.k[(key * p.kvHeads + g) * p.qkDim + i] ?? 0);
        }
        scores.push(dot * p.scale);
      }
      const sink = p.sinksElem === undefined ? -Infinity : (d.sinks[h] ?? 0);
      const top = Math.max(sink, ...scores);
      const weights = scores.map((x) => Math.exp(x - top));
      const sum = weights.reduce((a, c) => a + c, Math.exp(sink - top));
      weights.forEach((w, i) => {
        for (let c = 0; c < p.vDim; c++) {
          const at = (t * p.heads + h) * p.vDim + c;
          y[at] = (y[at] ?? 0) + (w / sum) * (values[((first + i) * p.kvHeads + g) * stride + c] ?? 0);
        }
      });
    }
  }
  return y;
}

/** The launch of a group of one. */
export function single({ launches }: LaunchGroup): Launch {
  const [launch, second] = launches;
  if (launch === undefined || second !== undefined) throw new Error(`${launches.length} launches, not one`);
  return launch;
}

/** What lives between the launches, filled with NaN: whoever reads what none wrote gives NaN. */
export const scratchOf = (group: LaunchGroup, T: number): Record<string, Float32Array> =>
  Object.fromEntries(group.scratch.map((s) => [s.name, new Float32Array(evalSize(s.size, { T, past: 0, seq: T, cap: 0 })).fill(NaN)]));

/** Runs the launches one after the other; `y` is written in place. */
export function runGroup(group: LaunchGroup, operands: Operands, call: Call): void {
  const scratch = scratchOf(group, call.T);
  for (const launch of group.launches) run(launch, { ...operands, ...scratch }, call);
}
