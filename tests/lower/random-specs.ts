/** Random layer specs, valid by construction, and weights that depend on the parameter's name only. */
import fc from 'fast-check';
import type { WeightLookup } from '../../src/ir/graph/evaluate/reference.ts';
import type { GraphParam } from '../../src/ir/graph/types.ts';
import type { Ffn, LayerSpec, MoeLayerFfn, Router } from '../../src/model/types.ts';
import { numbers } from '../ir/graph/run.ts';
import { layer, router } from './specs.ts';

export const VOCAB = 20;

const ffn = (width: number): fc.Arbitrary<Ffn> =>
  fc
    .record({
      gated: fc.boolean(),
      activation: fc.constantFrom('silu', 'gelu', 'gelu-tanh', 'relu'),
      bias: fc.boolean(),
      isClamped: fc.boolean(),
      fused: fc.constantFrom('halves', 'interleaved'),
    })
    .map(({ isClamped, ...rest }) => ({
      ...rest,
      width,
      ...(isClamped && rest.gated && { clamp: { limit: 0.5, alpha: 1.3, upOffset: 1 } }),
    }));

const renormalize: fc.Arbitrary<Router['renormalize']> = fc.constantFrom(
  undefined,
  { p: 1, eps: 0, epsMode: 'add' },
  { p: 1, eps: 1e-20, epsMode: 'add' },
  { p: 2, eps: 1e-12, epsMode: 'clamp' },
);

/** Divisors of the expert count make the groups. */
const groupsOf = (experts: number, slots: number): fc.Arbitrary<Router['groups']> => {
  const counts = [1, 2, 3, 4, 6].filter((n) => experts % n === 0);
  return fc
    .record({ count: fc.constantFrom(...counts), spare: fc.nat(2), score: fc.constantFrom('max', 'top2-sum') })
    .map(({ count, spare, score }) => {
      const least = Math.ceil(slots / (experts / count));
      return { count, keep: Math.min(count, least + spare), score };
    });
};

const topK = (experts: number, active: number): fc.Arbitrary<Router> =>
  fc
    .record({
      score: fc.constantFrom('softmax', 'sigmoid', 'sqrt-softplus'),
      logitBias: fc.boolean(),
      selectionBias: fc.boolean(),
      groups: fc.option(groupsOf(experts, active), { nil: undefined }),
      weights: fc.constantFrom('scores', 'softmax-selected', 'one'),
      renormalize,
      scale: fc.constantFrom(1, 2.5),
      applyTo: fc.constantFrom('output', 'input'),
    })
    .map(({ groups, renormalize: rule, ...rest }) => router({ ...rest, ...(groups && { groups }), ...(rule && { renormalize: rule }) }));

const otherRouters = (): fc.Arbitrary<Router> =>
  fc.constantFrom(
    router({ select: { kind: 'hash', table: 'table' }, score: 'none', weights: 'one' }),
    router({ select: { kind: 'hash', table: 'table' }, score: 'sqrt-softplus', scale: 1.5 }),
    router({ select: { kind: 'sparse-mixer', jitter: 0.05 } }),
    router({ capacity: { limit: { kind: 'tokens', tokens: 2 }, renormalize: 'after' } }),
    router({ capacity: { limit: { kind: 'factor', factor: 1, min: 1 }, renormalize: 'before' } }),
    router({ select: { kind: 'expert-choice', capacityFactor: 2 } }),
  );

export interface Policy {
  /** Only routers that look at one token at a time. */
  readonly perToken: boolean;
}

const isPerToken = (r: Router): boolean => r.capacity === undefined && r.select.kind !== 'expert-choice';

/** A mixture alone, with norm, residual, shared experts and every router as chance has it. */
export const moeLayer = (policy: Policy): fc.Arbitrary<LayerSpec> =>
  fc
    .record({
      experts: fc.constantFrom(1, 2, 3, 4, 6, 8),
      active: fc.integer({ min: 1, max: 8 }),
      hidden: fc.constantFrom(1, 3, 8),
      width: fc.constantFrom(1, 4, 8),
    })
    .chain(({ experts, active, hidden, width }) => {
      const k = Math.min(active, experts);
      return fc
        .record({
          expert: ffn(width),
          shared: fc.option(fc.record({ count: fc.constant(1), ffn: ffn(width + 1), gate: fc.constantFrom('none', 'sigmoid') }), {
            nil: undefined,
          }),
          rule: fc.oneof({ weight: 3, arbitrary: topK(experts, k) }, { weight: 1, arbitrary: otherRouters() }),
          norm: fc.constantFrom(
            undefined,
            { kind: 'rms', eps: 1e-6, bias: false } as const,
            { kind: 'layer', eps: 1e-5, bias: true } as const,
          ),
          residual: fc.boolean(),
        })
        .filter(({ rule }) => !policy.perToken || isPerToken(rule))
        .map(({ expert, shared, rule, norm, residual }) => {
          const moe: MoeLayerFfn = { kind: 'moe', experts, active: k, expert, router: rule, ...(shared && { shared }) };
          return layer('random', hidden, moe, { residual, ...(norm && { norm }), vocab: VOCAB });
        });
    });

/** Changes the elements of some parameter. */
export type Change = (param: GraphParam, data: Float64Array) => Float64Array;

const shapeOf = (param: GraphParam): readonly number[] => (param.value.type.kind === 'tensor' ? param.value.type.shape.map(Number) : []);

/** Weights by name; hash tables hold distinct experts a row. */
export const weights =
  (experts: number, change: Change = (_param, data) => data): WeightLookup =>
  (name, param) => {
    const shape = shapeOf(param);
    const count = shape.reduce((n, dim) => n * dim, 1);
    const isTable = param.value.type.kind === 'tensor' && param.value.type.dtype === 'i32';
    const columns = shape[1] ?? 1;
    const plain = isTable
      ? Float64Array.from({ length: count }, (_, i) => (Math.floor(i / columns) * 7 + (i % columns)) % experts)
      : numbers(name, count);
    const data = change(param, plain);
    return isTable ? Int32Array.from(data) : data;
  };
