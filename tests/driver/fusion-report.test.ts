/** The fusion report: the counts fusion is for, and how it reads. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import { fusionReport, type FusionReport } from '../../src/driver/fusion-report.ts';
import { renderFusionReport } from '../../src/driver/fusion-report-text.ts';
import { resolve } from '../../src/model/index.ts';
import type { Spec } from '../../src/model/types.ts';
import { parse } from '../../src/parser/index.ts';
import { type Capabilities, WEBGPU_BASELINE, WEBGPU_MAX } from '../../src/target/types.ts';
import { layer, LAYER_CASES, moe, MODEL_CASES, shared, swiglu } from '../lower/specs.ts';

const report = (spec: Spec, caps: Capabilities = WEBGPU_BASELINE, disabled: readonly string[] = []): FusionReport =>
  fusionReport(lowerToGraphs(spec), { caps, plans: [], disabled: new Set(disabled), deterministicBatch: false });

const EXAMPLES = join(import.meta.dirname, '../../examples');
const examples: readonly (readonly [string, Spec])[] = readdirSync(EXAMPLES, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.moe'))
  .sort()
  .flatMap((path) => {
    const { ast } = parse(readFileSync(join(EXAMPLES, path), 'utf8'), path);
    if (ast === undefined) throw new Error(`${path} does not parse`);
    return resolve(ast).specs.map((spec) => [`${path} ${spec.name}`, spec] as const);
  });

/** Most dispatches of a mixture at 1, 8 and 512 tokens. */
const mixtures = (r: FusionReport): readonly (readonly number[])[] =>
  r.sections.flatMap(({ calls }) =>
    calls[0]?.after.mixtureDispatches === undefined ? [] : [calls.map((c) => c.after.mixtureDispatches ?? Infinity)],
  );

const expectFused = (r: FusionReport): void => {
  for (const [one = Infinity, eight = Infinity, many = Infinity] of mixtures(r)) {
    expect(one).toBeLessThanOrEqual(4);
    expect(eight).toBeLessThanOrEqual(4);
    expect(many).toBeLessThanOrEqual(6);
  }
};

describe('a mixture takes at most 4 dispatches when decoding and 6 when prefilling, norm and residual included', () => {
  it.each(Object.entries<Spec>({ ...LAYER_CASES, ...MODEL_CASES }))('%s', (_name, spec) => {
    const made = report(spec);
    expectFused(made);
    expect(mixtures(made)).toHaveLength(spec.kind === 'layer' ? 1 : spec.kinds.filter((k) => k.ffn.kind === 'moe').length);
  });

  it.each(examples)('%s', (_name, spec) => {
    expectFused(report(spec, WEBGPU_MAX));
    // A bank that is split takes a dispatch a segment anyhow; and at the smallest limits even one expert may not fit as a whole.
    const smallest = report(spec);
    if (smallest.sections.every((s) => s.calls.every((c) => c.after.splitDispatches === 0))) expectFused(smallest);
  });

  it('gated shared experts, with norm and residual', () => {
    const spec = layer('t', 8, moe(4, 2, swiglu(4), {}, shared(1, 4, 'sigmoid')), {
      norm: { kind: 'rms', eps: 1e-6, bias: false },
      residual: true,
    });
    expect(mixtures(report(spec))).toEqual([[4, 4, 5]]);
  });
});

describe('the numbers', () => {
  const spec = layer('t', 8, moe(6, 2, swiglu(4), {}, shared(1, 4)), { norm: { kind: 'rms', eps: 1e-6, bias: false }, residual: true });

  it('before and after', () => {
    const [one, , many] = report(spec).sections[0]?.calls ?? [];
    // norm, logits, route; permute, gate, up, glu, down, combine; gate, up, glu, down; two sums; and the plan of the sorted form.
    expect([one?.before.dispatches, one?.after.dispatches]).toEqual([15, 3]);
    expect([many?.before.dispatches, many?.after.dispatches]).toEqual([16, 5]);
    for (const call of [one, many]) {
      expect(call?.after.bytes).toBeLessThan(call?.before.bytes ?? 0);
      expect(call?.after.scratch).toBeLessThan(call?.before.scratch ?? 0);
    }
  });

  it('scratch when decoding one token: weights, ids, normalised rows, routed and shared rows', () => {
    const one = report(spec).sections[0]?.calls[0];
    // topk_weights and topk_indices are outputs of the layer.
    expect(one?.after.scratch).toBe(4 * (8 + 2 * 4 + 4));
  });

  it('nothing changes where all fusion is off', () => {
    const names = ['fuse-router', 'fuse-gather', 'fuse-gate-up', 'fuse-activation', 'fuse-shared', 'fuse-combine'];
    for (const { before, after } of report(spec, WEBGPU_BASELINE, names).total) expect(after).toEqual(before);
  });

  it('every pass is worth something', () => {
    const calls = (disabled: readonly string[]) => report(spec, WEBGPU_BASELINE, disabled).total.map((c) => c.after.dispatches);
    const all = calls([]);
    for (const pass of ['fuse-router', 'fuse-gather', 'fuse-gate-up', 'fuse-activation', 'fuse-shared', 'fuse-combine']) {
      calls([pass]).forEach((n, i) => expect(n).toBeGreaterThan(all[i] ?? 0));
    }
  });

  it('splits are counted apart', () => {
    const small = { ...WEBGPU_BASELINE, maxBindingBytes: 600 };
    const [one] = report(spec, small).sections[0]?.calls ?? [];
    expect(one?.after).toMatchObject({ dispatches: 4, splitDispatches: 3, mixtureDispatches: 4 });
  });

  it('a total runs each section as often as the model does', () => {
    const model = MODEL_CASES['tiny_mixtral'];
    if (model === undefined) throw new Error('no model');
    const { sections, total } = report(model);
    const sum = sections.reduce((n, s) => n + s.runs * (s.calls[0]?.after.dispatches ?? 0), 0);
    expect(sections.map((s) => s.runs)).toEqual([1, 2, 1]);
    expect(total[0]?.after.dispatches).toBe(sum);
  });

  it('is plain data', () => {
    const made = report(spec);
    expect(JSON.parse(JSON.stringify(made, (_k, v: unknown) => (v === undefined ? null : v)))).toMatchObject({ profile: 'baseline' });
  });
});

describe('the text', () => {
  it('of a gated layer', () => {
    const spec = layer('t', 8, moe(4, 2, swiglu(4), {}, shared(1, 4, 'sigmoid')), { residual: true });
    expect(renderFusionReport(report(spec))).toMatchInlineSnapshot(`
      "Fusion, for the limits "baseline": unfused -> fused.
      "+" fired, "-" did not and says why.

      layer

        tokens  dispatches  of the mixture  bytes moved             scratch
             1  16  ->  4   16  ->  4       2.47 KiB  ->  1.64 KiB     192 B  ->      84 B
             8  16  ->  4   16  ->  4       11.5 KiB  ->  4.91 KiB  1.50 KiB  ->     672 B
           512  17  ->  5   17  ->  5        622 KiB  ->   266 KiB   104 KiB  ->  82.4 KiB

        calls of at most 8 tokens:
          +  fuse-router      moe.route %route.weights  the logits are made where they are used
          +  fuse-router      moe.route %route.weights  linear %linear_4, the shared gate, is one more logit
          -  plan             moe.plan %plan            at most 8 tokens: row = token × slots + slot needs no kernel
          +  fuse-gather      moe.permute %permute      read through the plan by moe.grouped_linear %grouped_linear and moe.grouped_linear %grouped_linear_1
          +  fuse-gate-up     glu %glu                  one moe.grouped_linear for gate and up
          +  fuse-gate-up     glu %glu_1                one linear for gate and up
          +  fuse-activation  glu %glu                  the gated silu runs in the epilogue of moe.grouped_linear
          +  fuse-activation  glu %glu_1                the gated silu runs in the epilogue of linear
          +  fuse-shared      add %add                  the combine adds linear %linear_3
          +  fuse-shared      moe.combine %add          linear %linear_3 runs beside moe.grouped_linear %grouped_linear_2
          +  fuse-shared      moe.combine %add          linear %glu_1 runs beside moe.grouped_linear %glu
          +  fuse-combine     moe.combine %add          moe.grouped_linear %grouped_linear_2 sums the rows of its token
          -  fuse-combine     add %add_1                into moe.grouped_linear %add: it would bind 9 buffers, the target binds at most 8

          1  moe  moe.route           route_4x2
          2  moe  moe.grouped_linear  grouped_rows_glu_silu_4x4x8
          3  moe  moe.grouped_linear  grouped_combine_none_4x8x4
          4  moe  add                 add_8

        calls of any number of tokens:
          +  fuse-router      moe.route %route.weights  the logits are made where they are used
          +  fuse-router      moe.route %route.weights  linear %linear_4, the shared gate, is one more logit
          +  plan             moe.plan %plan            rows sorted by expert in tiles of 32
          +  fuse-gather      moe.permute %permute      read through the plan by moe.grouped_linear %grouped_linear and moe.grouped_linear %grouped_linear_1
          +  fuse-gate-up     glu %glu                  one moe.grouped_linear for gate and up
          +  fuse-gate-up     glu %glu_1                one linear for gate and up
          +  fuse-activation  glu %glu                  the gated silu runs in the epilogue of moe.grouped_linear
          +  fuse-activation  glu %glu_1                the gated silu runs in the epilogue of linear
          +  fuse-shared      add %add                  the combine adds linear %linear_3
          +  fuse-shared      moe.combine %add          linear %linear_3 runs beside moe.grouped_linear %grouped_linear_2
          +  fuse-shared      moe.combine %add          linear %glu_1 runs beside moe.grouped_linear %glu
          +  fuse-combine     add %add_1                moe.combine adds %x
          -  fuse-combine     moe.combine %add_1        stays after the last product: rows lie sorted by expert here, those of one token in several tiles

          1  moe  moe.route           route_4x2
          2  moe  moe.plan            plan_4x2
          3  moe  moe.grouped_linear  grouped_tiles_glu_silu_4x4x8
          4  moe  moe.grouped_linear  grouped_tiles_none_4x8x4
          5  moe  moe.combine         combine_sorted_2x8

      All sections, as often as they run (scratch: the largest section)

        tokens  dispatches  of the mixture  bytes moved             scratch
             1  16  ->  4   16  ->  4       2.47 KiB  ->  1.64 KiB     192 B  ->      84 B
             8  16  ->  4   16  ->  4       11.5 KiB  ->  4.91 KiB  1.50 KiB  ->     672 B
           512  17  ->  5   17  ->  5        622 KiB  ->   266 KiB   104 KiB  ->  82.4 KiB
      "
    `);
  });

  it('is aligned and has no trailing blanks', () => {
    for (const spec of Object.values(MODEL_CASES)) {
      for (const line of renderFusionReport(report(spec)).split('\n')) expect(line).toBe(line.trimEnd());
    }
  });
});
