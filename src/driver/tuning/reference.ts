/**
 * What a unit's results must be: the f64 evaluator over the unit's own graph, on as many tokens as can be computed in a second or
 * two. The rest is held against the default kernels, whose results these tokens vouch for.
 */
import type { SizeEnv } from '../../base/size.ts';
import { type Data, evaluate } from '../../ir/graph/evaluate/evaluate.ts';
import { operands, retype } from '../../ir/graph/rewrite.ts';
import { DROPPED, type Graph, type GraphParam, type Node, type TensorType, type Type } from '../../ir/graph/types.ts';
import { proceduralParam, proceduralWeight } from '../../runtime/core/procedural.ts';
import type { WeightParam } from '../../runtime/core/weights.ts';
import type { Expected } from '../../tuner/job.ts';
import type { Piece } from './cut.ts';

export interface ReferenceLimits {
  /** Multiply-adds that the evaluator may take for one scenario. */
  readonly work: number;
  /** Elements of weights that it may hold. */
  readonly elements: number;
}

const LIMITS: ReferenceLimits = { work: 3e8, elements: 6e7 };

export interface ReferenceInput {
  readonly piece: Piece;
  readonly tokens: number;
  /** For attention: tokens in the cache before the call, and rows of the cache. */
  readonly past: number;
  readonly cap: number;
  /** Of the spec: what procedural tables are made for. */
  readonly experts: number;
  readonly layer: number | null;
  readonly seed: number;
  /** Multiply-adds of one token. */
  readonly tokenWork: number;
  /** Inputs by name: of all tokens, or a whole cache. */
  readonly inputs: ReadonlyMap<string, Data>;
  weightParam(param: GraphParam): WeightParam;
  readonly limits?: ReferenceLimits;
}

const tensorType = (type: Type): TensorType => {
  if (type.kind !== 'tensor') throw new Error('a plan where a tensor is wanted');
  return type;
};
const width = (type: Type): number => tensorType(type).shape.slice(1).reduce<number>((n, d) => n * Number(d), 1);

/** Tokens spread over the call, the first and the last among them. */
export function sampled(tokens: number, most: number): readonly number[] {
  const n = Math.max(1, Math.min(tokens, Math.floor(most)));
  return n === 1 ? [tokens - 1] : [...new Set(Array.from({ length: n }, (_, i) => Math.round((i * (tokens - 1)) / (n - 1))))];
}

/** Parameters of the experts' banks. */
function bankIds(nodes: readonly Node[]): ReadonlySet<string> {
  const banked = new Set(['weight', 'bias']);
  return new Set(nodes.flatMap((n) => (n.op === 'moe.grouped_linear' ? operands(n).filter(([name]) => banked.has(name)).map(([, v]) => v.id) : [])));
}

/** The graph with banks of `experts` experts alone. */
function withExperts(graph: Graph, banks: ReadonlySet<string>, experts: number): Graph {
  const types = new Map<string, Type>();
  for (const { value } of graph.params) {
    if (banks.has(value.id)) types.set(value.id, { ...tensorType(value.type), shape: [experts, ...tensorType(value.type).shape.slice(1)] });
  }
  const nodes = graph.nodes.map((n): Node => {
    if (n.op !== 'moe.plan') return n;
    const { type } = n.outs.plan;
    if (type.kind === 'plan') types.set(n.outs.plan.id, { ...type, experts });
    return { ...n, attrs: { ...n.attrs, experts } };
  });
  return retype({ ...graph, nodes }, types);
}

/** Rows of an input that belong to some tokens. */
function rowsOf(data: Data, tokens: number, chosen: readonly number[]): Data {
  const per = data.length / tokens;
  const out = data.slice(0, chosen.length * per);
  chosen.forEach((t, i) => out.set(data.subarray(t * per, (t + 1) * per), i * per));
  return out;
}

function joined(parts: readonly ArrayLike<number>[]): Float64Array {
  const out = new Float64Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Columns of the one dense product of a piece that the evaluator computes; undefined for other pieces, and where all of them are few enough. */
function columnRange({ piece, limits = LIMITS }: ReferenceInput): { readonly from: number; readonly to: number; readonly products: number; readonly n: number } | undefined {
  const [node] = piece.graph.nodes;
  if (piece.graph.nodes.length !== 1 || node?.op !== 'linear') return undefined;
  const [rows = 0, k = 0] = tensorType(node.ins.weight.type).shape.map(Number);
  if (rows * k <= limits.elements) return undefined;
  const products = node.attrs.epilogue.kind === 'glu' ? 2 : 1;
  const n = rows / products;
  const columns = Math.max(1, Math.floor(limits.elements / k / products));
  // The end of the columns is where tiles are ragged.
  return { from: n - columns, to: n, products, n };
}

/** Elements of a weight: those of some experts of a bank, or all. */
function weightOf(input: ReferenceInput, param: GraphParam, experts: readonly number[] | undefined): Float64Array {
  const p = proceduralParam(input.weightParam(param), input.layer);
  const make = (begin: number, end: number): Float64Array => proceduralWeight(p, input.seed, input.experts, begin, end);
  if (experts === undefined) return make(0, p.bank * p.n * p.k);
  const per = p.n * p.k;
  const out = new Float64Array(experts.length * per);
  experts.forEach((e, i) => out.set(make(e * per, (e + 1) * per), i * per));
  return out;
}

/** A dense product over its last columns: the weight's rows, and of bias and residual what belongs to them. */
function lastColumns(input: ReferenceInput, range: NonNullable<ReturnType<typeof columnRange>>, chosen: readonly number[]): Data {
  const { piece } = input;
  const [node] = piece.graph.nodes;
  if (node?.op !== 'linear') throw new Error('not a dense product');
  const { from, to, products, n } = range;
  const columns = to - from;
  const types = new Map<string, Type>();
  const params = new Map<string, Data>();
  for (const param of piece.graph.params) {
    const type = tensorType(param.value.type);
    if (param.role.kind === 'weight') {
      const p = proceduralParam(input.weightParam(param), input.layer);
      const parts = Array.from({ length: products }, (_, i) => proceduralWeight(p, input.seed, input.experts, (i * n + from) * p.k, (i * n + to) * p.k));
      params.set(param.name, joined(parts));
      types.set(param.value.id, { ...type, shape: [products * columns, ...type.shape.slice(1)] });
      continue;
    }
    const rows = rowsOf(input.inputs.get(param.name) ?? new Float64Array(0), input.tokens, chosen);
    const isResidual = node.ins.residual?.id === param.value.id;
    if (isResidual) types.set(param.value.id, { ...type, shape: [type.shape[0] ?? 'T', columns] });
    params.set(param.name, isResidual ? rows.filter((_, i) => i % n >= from) : rows);
  }
  types.set(node.outs.y.id, { ...tensorType(node.outs.y.type), shape: [tensorType(node.outs.y.type).shape[0] ?? 'T', columns] });
  const T = chosen.length;
  const { results } = evaluate(retype(piece.graph, types), { params, size: { T, past: 0, seq: T, cap: 0 } });
  return Object.values(results)[0] ?? new Float64Array(0);
}

/** Expected rows of every result. */
export function expectedOf(input: ReferenceInput): readonly Expected[] {
  const { piece, tokens, inputs } = input;
  const { graph } = piece;
  const outputs = Object.entries(graph.results);
  const range = columnRange(input);
  const share = range === undefined ? 1 : (range.to - range.from) / range.n;
  const { work } = input.limits ?? LIMITS;
  const most = work / Math.max(1, input.tokenWork * share);
  if (range !== undefined) {
    const rows = sampled(tokens, most);
    const values = Float64Array.from(lastColumns(input, range, rows));
    return outputs.map(([output]) => ({ output, rows, columns: [range.from, range.to], values }));
  }
  const isAttention = graph.nodes.some((n) => n.op === 'attention');
  const banks = bankIds(graph.nodes);
  const chosen = [...fitting(input, sampled(tokens, most), banks)];
  const used = banks.size === 0 ? undefined : usedExperts(input, chosen);
  const own = used === undefined ? graph : withExperts(graph, banks, used.length);
  const weights = new Map<string, Data>();
  for (const param of graph.params) if (param.role.kind === 'weight') weights.set(param.name, weightOf(input, param, banks.has(param.value.id) ? used : undefined));

  const run = (rows: readonly number[], size: SizeEnv): Readonly<Record<string, Data>> => {
    const params = new Map<string, Data>(weights);
    for (const { name, kind } of piece.inputs) {
      const all = inputs.get(name);
      if (all === undefined) throw new Error(`the unit has no input ${name}`);
      const part = kind === 'cache' ? all : rowsOf(all, tokens, rows);
      params.set(name, kind === 'ids' && used !== undefined ? part.map((id) => (id >>> 0 === DROPPED ? DROPPED : used.indexOf(id))) : part);
    }
    return evaluate(own, { params, size }).results;
  };
  // A token of attention sees the tokens before it; all other ops take tokens one by one.
  const results = isAttention
    ? chosen.map((t) => run([t], { T: 1, past: input.past + t, seq: 1, cap: input.cap }))
    : [run(chosen, { T: chosen.length, past: 0, seq: chosen.length, cap: 0 })];
  return outputs.map(([output, value]): Expected => {
    if (tensorType(value.type).shape[0] !== 'T') throw new Error(`${output} has no row a token`);
    const values = joined(results.map((r) => r[output] ?? []));
    return { output, rows: chosen, columns: [0, width(value.type)], values };
  });
}

function usedExperts({ piece, inputs, tokens }: ReferenceInput, chosen: readonly number[]): readonly number[] {
  const name = piece.inputs.find((i) => i.kind === 'ids')?.name ?? '';
  const ids = rowsOf(inputs.get(name) ?? new Uint32Array(0), tokens, chosen);
  const used = [...new Set(ids)].filter((id) => id >>> 0 !== DROPPED).sort((a, b) => a - b);
  return used.length === 0 ? [0] : used;
}

/** So many of the tokens as have experts that fit into memory; one at least. */
function fitting(input: ReferenceInput, chosen: readonly number[], banks: ReadonlySet<string>): readonly number[] {
  if (banks.size === 0) return chosen;
  const { elements } = input.limits ?? LIMITS;
  const perExpert = input.piece.graph.params.filter((p) => banks.has(p.value.id)).reduce((n, p) => n + width(p.value.type), 0);
  let kept = chosen;
  while (kept.length > 1 && usedExperts(input, kept).length * perExpert > elements) kept = sampled(input.tokens, kept.length / 2);
  return kept;
}
