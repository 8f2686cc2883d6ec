/** Results stored in 16 bits: the f32 result of the same kernel, rounded once. */
import { describe, expect, it } from 'vitest';
import type { TypedArray } from '../../src/ir/kernel/interpret.ts';
import { act, add, gateMul, glu, norm, permute, route } from '../../src/kernels/index.ts';
import type { Launch, RouteProblem } from '../../src/kernels/index.ts';
import { NARROW, random, run, stored } from './dense/harness.ts';
import { run as runGroup } from './moe/harness.ts';
import { makePlan } from './moe/plans.ts';

const HALVES = ['f16', 'bf16'] as const;
const T = 3;

/** Holds the narrow result of a family to the wide one. */
function check(make: (yElem: 'f32' | 'f16' | 'bf16') => Launch, operands: Record<string, TypedArray>, cells: number): void {
  const wide = new Float32Array(cells);
  run(make('f32'), { ...operands, y: wide }, { T });
  for (const elem of HALVES) {
    const y = new Uint16Array(cells);
    run(make(elem), { ...operands, y }, { T });
    expect(y).toEqual(stored(wide, elem).data);
  }
}

describe('rounded once, where they are written', () => {
  for (const width of [12, 7]) {
    const rows = random(T * width, 1);
    const other = random(T * width, 2);
    it(`norm, ${width} columns`, () => {
      const p = { kind: 'rms', dim: width, groups: 1, eps: 1e-6, weightElem: 'f32' } as const;
      check((yElem) => norm({ ...p, yElem }, undefined, NARROW), { x: rows, weight: random(width, 3) }, T * width);
      const layer = { ...p, kind: 'layer', biasElem: 'f32' } as const;
      check((yElem) => norm({ ...layer, yElem }, undefined, NARROW), { x: rows, weight: random(width, 3), bias: random(width, 4) }, T * width);
    });
    it(`element by element, ${width} columns`, () => {
      check((yElem) => glu({ width, activation: 'silu', yElem }, undefined, NARROW), { gate: rows, up: other }, T * width);
      check((yElem) => act({ width, activation: 'relu', yElem }, undefined, NARROW), { x: rows }, T * width);
      check((yElem) => add({ width, scale: 0.5, yElem }, undefined, NARROW), { a: rows, b: other }, T * width);
      check((yElem) => gateMul({ width, yElem }, undefined, NARROW), { x: rows, gate: random(T, 5) }, T * width);
    });
    it(`permuted rows, ${width} columns`, () => {
      const ids = Uint32Array.of(2, 0, 1, 2, 0, 1);
      const { buffer } = makePlan(ids, 3, 2, 2);
      const p = { experts: 3, slots: 2, mode: 'sorted', tileRows: 2, dim: width } as const;
      check((yElem) => permute({ ...p, yElem }, undefined, NARROW), { x: rows, plan: buffer }, T * 2 * width);
      for (const elem of HALVES) {
        const x = stored(rows, elem);
        const [wide, narrow] = [new Float32Array(T * 2 * width), new Uint16Array(T * 2 * width)];
        run(permute({ ...p, xElem: elem }, undefined, NARROW), { x: x.data, plan: buffer, y: wide }, { T });
        run(permute({ ...p, xElem: elem, yElem: elem }, undefined, NARROW), { x: x.data, plan: buffer, y: narrow }, { T });
        expect(stored(wide, elem).data).toEqual(narrow);
      }
    });
  }

  it('rows behind a router: normalised, or as they came; the choice does not change', () => {
    const [dim, experts, slots] = [12, 5, 2];
    const x = random(T * dim, 1);
    const operands = { x, gate: random(experts * dim, 2), normWeight: random(dim, 3) };
    const choose = (source: Partial<Extract<RouteProblem['source'], { kind: 'hidden' }>>, xn: TypedArray): Record<string, TypedArray> => {
      const results = { weights: new Float32Array(T * slots), ids: new Uint32Array(T * slots), faults: new Uint32Array(4) };
      const p: RouteProblem = {
        experts,
        slots,
        score: 'softmax',
        select: { kind: 'top-k' },
        weights: 'scores',
        scale: 1,
        source: { kind: 'hidden', dim, gateElem: 'f32', ...source },
      };
      const hasRows = source.norm !== undefined || source.xnElem !== undefined;
      runGroup(route(p, undefined, NARROW), { ...operands, ...results, xn }, { T }, ['weights', 'ids', ...(hasRows ? ['xn'] : [])]);
      return results;
    };
    const norm = { kind: 'rms', eps: 1e-5, weightElem: 'f32' } as const;
    const normed = new Float32Array(T * dim);
    const [plain, withNorm] = [choose({}, new Float32Array(0)), choose({ norm }, normed)];
    for (const elem of HALVES) {
      const xn = new Uint16Array(T * dim);
      expect(choose({ xnElem: elem }, xn)).toEqual(plain);
      expect(xn).toEqual(stored(x, elem).data);
      expect(choose({ norm, xnElem: elem }, xn)).toEqual(withNorm);
      expect(xn).toEqual(stored(normed, elem).data);
    }
  });
});
