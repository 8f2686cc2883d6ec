/**
 * Golden vectors of a package: procedural weights and inputs, and what the f64 reference makes of them.
 * A spec too large to run here gets a twin: the same spec with every size scaled down, compiled on its own.
 */
import { QUANT_GROUP } from '../base/quant.ts';
import { createReference, type Reference } from '../ir/graph/evaluate/reference.ts';
import type { Data } from '../ir/graph/evaluate/evaluate.ts';
import { walkStmts } from '../ir/kernel/walk.ts';
import type { GraphProgram } from '../lower/graph-program.ts';
import { lowerToGraphs } from '../lower/model-to-graph.ts';
import type { Attention, Ffn, LayerFfn, Router, Spec } from '../model/types.ts';
import { type Golden, encodeGolden, type GoldenVector, tokensOf } from '../runtime/core/golden.ts';
import { type Deviation, deviation, F32_GATE, HALF_GATES } from '../runtime/core/metrics.ts';
import { proceduralIds, proceduralInput, proceduralWeights } from '../runtime/core/procedural.ts';
import { weightsOf } from '../runtime/core/weights.ts';
import { analyze } from '../model/index.ts';
import type { KernelTable } from './kernels.ts';
import { weightSections } from './reference.ts';
import { type Noise, steadySeed, withNoise, withRouting } from './steady-seed.ts';

/** Weights a package may make and multiply to verify itself; larger specs verify a twin. */
export const MAX_GOLDEN_PARAMS = 1_000_000;

const SEED = 20_240_111;
/** Calls that verify the decode form (few tokens) and the prefill form. */
const DECODE = 3;
const PREFILL = 12;

/** The evaluator over procedural weights, as `verify` makes them on the device, or as they are before they are quantised. */
function proceduralReference(graphs: GraphProgram, experts: number, seed: number, noise?: Noise, wanted: 'stored' | 'exact' = 'stored'): Reference {
  const sections = weightSections(graphs.sections);
  const sequence = graphs.sequence.map((s) => ({ section: s.section, layer: s.layer ?? null }));
  const weights = new Map<string, Data>();
  for (const { name, param, layer } of weightsOf(sections, sequence)) {
    const values = proceduralWeights(param, layer, seed, experts, wanted);
    if (param.elem === 'i32' || param.elem === 'u32') weights.set(name, Int32Array.from(values));
    else weights.set(name, noise === undefined ? values : withNoise(values, name, noise));
  }
  const lookup = (name: string): Data => {
    const data = weights.get(name);
    if (data === undefined) throw new Error(`no procedural weight ${name}`);
    return data;
  };
  return createReference(graphs, lookup, DECODE + PREFILL);
}

const floats = (data: Data | undefined): Float64Array => Float64Array.from(data ?? []);
/** Dropped slots are −1 in what the runtime hands out. */
const signedIds = (data: Data | undefined): Int32Array | undefined => (data === undefined ? undefined : Int32Array.from(data, (x) => x | 0));

function modelVectors(reference: Reference, vocab: number, seed: number): GoldenVector[] {
  const prompt = proceduralIds(seed, PREFILL, vocab);
  const split = [PREFILL - DECODE, 1, DECODE - 1];
  const run = (lengths: readonly number[]): Float64Array => {
    reference.reset();
    let past = 0;
    const parts = lengths.map((n) => {
      const ids = prompt.slice(past, past + n);
      past += n;
      return floats(reference.run({ ids }).results['y']);
    });
    return Float64Array.from(parts.flatMap((p) => [...p]));
  };
  return [
    { name: 'prefill', ids: prompt, y: run([PREFILL]) },
    { name: 'prefill, then decoding', ids: prompt, split, y: run(split) },
  ];
}

function layerVectors(reference: Reference, hidden: number, vocab: number | undefined): GoldenVector[] {
  return [
    { name: 'few tokens', tokens: DECODE },
    { name: 'many tokens', tokens: PREFILL },
  ].map(({ name, tokens }) => {
    reference.reset();
    const x = proceduralInput(SEED + tokens, tokens, hidden);
    const tokenIds = vocab === undefined ? undefined : proceduralIds(SEED + tokens, tokens, vocab);
    const { results } = reference.run({ x: Float64Array.from(x), ...(tokenIds === undefined ? {} : { ids: tokenIds }) });
    return { name, x, tokenIds, y: floats(results['y']), topkIndices: signedIds(results['topk_indices']) };
  });
}

const expertsOf = (spec: Spec): number => {
  const ffns = spec.kind === 'model' ? spec.kinds.map((k) => k.ffn) : [spec.ffn];
  const moe = ffns.find((f) => f.kind === 'moe');
  return moe?.kind === 'moe' ? moe.experts : 0;
};

/** Per block where it may be an attention, which rounds more often, or where rows are as narrow as a twin's, whose errors average out less. */
const BLOCK_GATES: typeof HALF_GATES = { f16: { nmse: 1.6e-6, rowNmse: 4e-6 }, bf16: { nmse: 1e-4, rowNmse: 2.5e-4 } };
/** A token that went to a wrong expert, or a lost column, is further off than this. */
const WORST_ROW = 5e-3;

/** The 16-bit type to which kernels round rows; undefined where all is computed in f32. */
export function roundedTo({ kernels }: KernelTable): 'f16' | 'bf16' | undefined {
  const rounded = new Set<string>();
  for (const { source, variants } of kernels) {
    for (const p of variants[0]?.kernel.params ?? []) if (p.access !== 'read') rounded.add(p.elem);
    for (const s of walkStmts(source.body)) if (s.k === 'tile.mainloop' && s.schedule.variant !== 'fma') rounded.add(s.b[0]?.buf.elem ?? 'f32');
  }
  return rounded.has('bf16') ? 'bf16' : rounded.has('f16') ? 'f16' : undefined;
}

/** What results of a program may be off by, as its kernels round. Roundings of one block after another add up: an attention and an FFN a layer. */
export function gateOf(spec: Spec, kernels: KernelTable, rows: 'wide' | 'narrow' = 'wide'): Deviation {
  const half = roundedTo(kernels);
  if (half === undefined) return F32_GATE;
  if (spec.kind === 'layer' && rows === 'wide') return HALF_GATES[half];
  const gate = BLOCK_GATES[half];
  const blocks = spec.kind === 'model' ? 2 * spec.layers.length : 1;
  return { nmse: Math.min(WORST_ROW, gate.nmse * blocks), rowNmse: Math.min(WORST_ROW, gate.rowNmse * blocks) };
}

/** A seed whose tokens choose the same experts however rows are rounded. The router of a layer alone reads its input as it is given. */
function seedOf(spec: Spec, graphs: GraphProgram, gate: Deviation): number {
  if (gate === F32_GATE || spec.kind === 'layer') return SEED;
  const routed = withRouting(graphs);
  return steadySeed(SEED, (seed, noise) => {
    const { steps } = proceduralReference(routed, expertsOf(spec), seed, noise).run({ ids: proceduralIds(seed, PREFILL, spec.vocab) });
    return steps.flatMap(({ topk_indices: ids }) => (ids === undefined ? [] : [Int32Array.from(ids)]));
  });
}

function vectorsOf(spec: Spec, reference: Reference, seed: number): readonly GoldenVector[] {
  const isHashed = spec.kind === 'layer' && spec.ffn.kind === 'moe' && spec.ffn.router.select.kind === 'hash';
  return spec.kind === 'model' ? modelVectors(reference, spec.vocab, seed) : layerVectors(reference, spec.hidden, isHashed ? spec.vocab : undefined);
}

/** How far the results of quantised weights are from those of the same weights in full precision. */
function costOf(stored: readonly GoldenVector[], spec: Spec, graphs: GraphProgram, seed: number): Deviation {
  const exact = vectorsOf(spec, proceduralReference(graphs, expertsOf(spec), seed, undefined, 'exact'), seed);
  const all = (vectors: readonly GoldenVector[]): Float64Array => Float64Array.from(vectors.flatMap((v) => [...v.y]));
  return deviation(all(stored), all(exact), stored.reduce((n, v) => n + tokensOf(v, spec.hidden), 0));
}

/** The bytes of golden.bin for a spec small enough to run here. */
export function goldenVectors(spec: Spec, graphs: GraphProgram, gate: Deviation = F32_GATE): Uint8Array<ArrayBuffer> {
  const seed = seedOf(spec, graphs, gate);
  const vectors = vectorsOf(spec, proceduralReference(graphs, expertsOf(spec), seed), seed);
  const cost = spec.expertStorage === undefined ? {} : { quantisation: costOf(vectors, spec, graphs, seed) };
  const golden: Golden = { seed, gate, ...cost, vectors };
  return encodeGolden(golden, spec.hidden);
}

// ---------------------------------------------------------------- twins

const least = (n: number, limit: number): number => Math.min(n, limit);
const scaledFfn = (f: Ffn, width: number): Ffn => ({ ...f, width: least(f.width, width) });
/** Sizes that groups of quantised weights divide stay so. */
const wholeGroups = (spec: Spec, n: number): number => (spec.expertStorage === undefined ? n : Math.ceil(n / QUANT_GROUP) * QUANT_GROUP);

/** Fewer experts in as many groups as before where that can be; the rule of the router stays. */
function scaledRouter(router: Router, experts: number, active: number): { readonly router: Router; readonly experts: number } {
  const { groups } = router;
  if (groups === undefined) return { router, experts };
  const perGroup = Math.max(2, Math.ceil(active / groups.keep));
  return { router, experts: groups.count * perGroup };
}

function scaledLayer(spec: Spec, ffn: LayerFfn): LayerFfn {
  if (ffn.kind === 'dense') return { ...ffn, ffn: scaledFfn(ffn.ffn, 40) };
  const active = least(ffn.active, 4);
  const { router, experts } = scaledRouter(ffn.router, least(ffn.experts, Math.max(8, active * 2)), active);
  const shared = ffn.shared === undefined ? {} : { shared: { ...ffn.shared, ffn: scaledFfn(ffn.shared.ffn, wholeGroups(spec, 24)) } };
  const { segmentation: _notation, shared: _shared, ...rest } = ffn;
  return { ...rest, active, experts, router, expert: scaledFfn(ffn.expert, wholeGroups(spec, 12)), ...shared };
}

const SMALL_HEAD = 16;

function scaledAttention(a: Attention): Attention {
  if (a.kind === 'mla') {
    const rope = { ...a.rope, dim: least(a.rope.dim, 8) };
    const sizes = { heads: least(a.heads, 4), kvLora: least(a.kvLora, 16), nopeDim: least(a.nopeDim, 8), ropeDim: least(a.ropeDim, 8), vDim: least(a.vDim, 12) };
    return { ...a, ...sizes, rope, ...(a.qLora === undefined ? {} : { qLora: least(a.qLora, 20) }) };
  }
  const ratio = a.heads / a.kvHeads;
  const kvHeads = least(a.kvHeads, 2);
  const headDim = least(a.headDim, SMALL_HEAD);
  const heads = kvHeads * least(ratio, 4);
  const rope = a.rope === undefined ? {} : { rope: { ...a.rope, dim: Math.max(2, 2 * Math.floor((a.rope.dim * headDim) / a.headDim / 2)) } };
  const window = a.window === undefined ? {} : { window: least(a.window, 4) };
  return { ...a, heads, kvHeads, headDim, ...rope, ...window };
}

/** The same spec with small sizes: one layer of each kind, the same rules, passes and kernel families. */
export function twinOf(spec: Spec): Spec {
  const hidden = least(spec.hidden, 64);
  if (spec.kind === 'layer') {
    const vocab = spec.vocab === undefined ? {} : { vocab: least(spec.vocab, 64) };
    return { ...spec, hidden, ffn: scaledLayer(spec, spec.ffn), ...vocab };
  }
  const kinds = spec.kinds.map((k) => ({ ...k, attention: scaledAttention(k.attention), ffn: scaledLayer(spec, k.ffn) }));
  return { ...spec, hidden, vocab: least(spec.vocab, 96), context: least(spec.context, 64), kinds, layers: kinds.map((_, i) => i) };
}

export const needsTwin = (spec: Spec): boolean => analyze(spec, 1).params.total > MAX_GOLDEN_PARAMS;

/** What quantised experts cost the results of a spec, or of its twin where it is large; undefined where none are quantised. */
export function quantisationCost(spec: Spec): Deviation | undefined {
  if (spec.expertStorage === undefined) return undefined;
  const small = needsTwin(spec) ? twinOf(spec) : spec;
  const graphs = lowerToGraphs(small);
  return costOf(vectorsOf(small, proceduralReference(graphs, expertsOf(small), SEED), SEED), small, graphs, SEED);
}
