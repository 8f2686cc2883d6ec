/** One piece of a section as a unit of tuning: what it asks for, its jobs, its data. */
import { stableHash } from '../../base/hash.ts';
import type { SizeEnv } from '../../base/size.ts';
import type { Data } from '../../ir/graph/evaluate/evaluate.ts';
import { ELEM_BYTES } from '../../ir/kernel/cost.ts';
import type { GraphParam, TensorType, Type, Value } from '../../ir/graph/types.ts';
import type { PlanShape } from '../../kernels/schedule-source.ts';
import { lowerGraph } from '../../lower/graph-to-kernels.ts';
import type { Spec } from '../../model/types.ts';
import type { ManifestParam } from '../../runtime/core/abi.ts';
import { numberToBf16, numberToF16 } from '../../runtime/core/f16.ts';
import { segmentsOf } from '../../runtime/core/limits.ts';
import { F32_GATE } from '../../runtime/core/metrics.ts';
import { hashText, signedUnit } from '../../runtime/core/random.ts';
import type { WeightParam } from '../../runtime/core/weights.ts';
import type { Capabilities } from '../../target/types.ts';
import type { NamedBytes, ScenarioData, UnitData, UnitOutput, UnitParam } from '../../tuner/job.ts';
import type { Asked } from '../../tuner/space/types.ts';
import type { Config, Unit } from '../../tuner/unit.ts';
import type { Piece } from './cut.ts';
import { type JobDevice, jobOf, lowerPiece, type LoweredPiece } from './job.ts';
import { expectedOf } from './reference.ts';
import { routingName } from '../bench/choices.ts';
import { routedIds, type WeightedMix } from './routing.ts';
import { recorder, sourceOf } from './schedules.ts';
import { type SectionPiece, shapeOf, type TokenPoint, workOf } from './pieces.ts';

export interface UnitContext {
  readonly spec: Spec;
  readonly point: TokenPoint;
  readonly layer: number | null;
  readonly caps: { readonly standard: Capabilities; readonly tuned: Capabilities };
  readonly device: JobDevice;
  readonly mixes: readonly WeightedMix[];
  readonly exact: boolean;
}

/** Tokens in the cache when attention is timed for few tokens. */
const PAST = 512;
/** Calls of at most so many tokens go on with a sequence, longer ones begin it. */
const DECODE = 8;

const tensorType = (type: Type): TensorType => {
  if (type.kind !== 'tensor') throw new Error('a plan where a tensor is wanted');
  return type;
};
const widthOf = (value: Value): number => tensorType(value.type).shape.slice(1).reduce<number>((n, d) => n * Number(d), 1);

const expertsOf = (spec: Spec): number => {
  const ffns = spec.kind === 'model' ? spec.kinds.map((k) => k.ffn) : [spec.ffn];
  return Math.max(0, ...ffns.map((f) => (f.kind === 'moe' ? f.experts : 0)));
};

/** A weight as the runtime knows it. */
function manifestParam({ name, value, role }: GraphParam, segmentRows: number | undefined): ManifestParam & WeightParam {
  if (role.kind !== 'weight') throw new Error(`${name} is no weight`);
  const { dtype, shape } = tensorType(value.type);
  return { name, role, elem: dtype, shape: shape.map(Number), ...(segmentRows === undefined ? {} : { segmentRows }) };
}

/** Multiples of 1/64 in [-1.5, 1.5]: the same number in every storage type. */
const rowsData = (name: string, seed: number, n: number): Float64Array => {
  const key = hashText(`tune ${name}`, seed);
  return Float64Array.from({ length: n }, (_, i) => Math.round(signedUnit(key, i) * 96) / 64);
};

/** Weights of slots: positive, about 1 a token. */
const weightsData = (name: string, seed: number, n: number, slots: number): Float64Array =>
  rowsData(name, seed, n).map((x) => Math.fround((Math.abs(x) + 0.25) / slots));

function bytesOf(data: Data, elem: string): Uint8Array {
  if (elem === 'f32') return new Uint8Array(Float32Array.from(data).buffer);
  if (elem === 'u32' || elem === 'i32') return new Uint8Array(Uint32Array.from(data).buffer);
  return new Uint8Array(Uint16Array.from(data, elem === 'f16' ? numberToF16 : numberToBf16).buffer);
}

function planOf({ graph }: Piece): (PlanShape & { readonly standard: number }) | undefined {
  for (const node of graph.nodes) {
    if (node.op === 'moe.plan' && node.attrs.mode === 'sorted') return { experts: node.attrs.experts, slots: node.attrs.slots, standard: node.attrs.tileRows };
  }
  return undefined;
}

export function pieceUnit(part: SectionPiece, ctx: UnitContext): Unit {
  const { point, caps, layer, device } = ctx;
  const { maxTokens } = point;
  const first = part.piece(undefined);
  const plan = planOf(first);
  const pieces = new Map<number | undefined, Piece>();
  const pieceOf = (tileRows: number | undefined): Piece => {
    const found = pieces.get(tileRows) ?? (tileRows === plan?.standard ? first : part.piece(tileRows));
    pieces.set(tileRows, found);
    return found;
  };
  const given = new Set(first.inputs.map((i) => i.name));
  const planNode = first.graph.nodes.find((n) => n.op === 'moe.plan');
  const slots = planNode?.op === 'moe.plan' ? planNode.attrs.slots : 1;
  const experts = planNode?.op === 'moe.plan' ? planNode.attrs.experts : 0;
  const isAttention = part.kind === 'attention';
  const past = (tokens: number): number => (isAttention && tokens <= DECODE ? PAST : 0);
  const sizes = (tokens: number): SizeEnv => ({ T: tokens, past: past(tokens), seq: tokens, cap: past(tokens) + tokens });

  let standard: LoweredPiece | undefined;
  const standardPiece = (): LoweredPiece => (standard ??= lowerPiece({ graph: first.graph, maxTokens, caps: caps.standard }));
  const askedAt = new Map<number | undefined, readonly Asked[]>();

  const unit: Omit<Unit, 'id'> = {
    name: part.name,
    tokens: point.tokens,
    from: point.from,
    ...(plan === undefined ? {} : { plan }),
    scenarios: planNode === undefined ? [{ name: '', weight: 1 }] : ctx.mixes.map(({ mix, weight }) => ({ name: routingName(mix), weight })),
    exact: ctx.exact,
    work: workOf(first.graph.nodes, sizes(point.tokens)),
    bytes: first.graph.params.reduce((n, p) => n + (p.role.kind === 'weight' ? segmentsOf(manifestParam(p, undefined)).reduce((m, s) => m + s.bytes, 0) : 0), 0),
    asked(tileRows) {
      const known = askedAt.get(tileRows);
      if (known !== undefined) return known;
      const { source, asked } = recorder();
      lowerGraph([{ graph: pieceOf(tileRows).graph, maxTokens, caps: caps.tuned, schedules: source }], caps.tuned);
      askedAt.set(tileRows, asked);
      return asked;
    },
    standardJob: (tokens) => jobOf(standardPiece(), sizes(tokens), device, given),
    job(config: Config, tokens) {
      const schedules = sourceOf(config.choices.map((c) => c.chosen));
      return jobOf(lowerPiece({ graph: pieceOf(config.tileRows).graph, maxTokens, caps: caps.tuned, schedules }), sizes(tokens), device, given);
    },
    data: (tokens, seed) => Promise.resolve(dataOf(tokens, seed)),
  };
  // The texts of the default kernels stand for everything that prints kernels: a changed compiler asks another question.
  const texts = (): readonly string[] => standardPiece().table.kernels.flatMap((k) => k.variants.map((v) => v.text));
  return { ...unit, id: stableHash([shapeOf(first), maxTokens ?? 'any', unit.exact, texts()]) };

  function inputData(name: string, value: Value, kind: Piece['inputs'][number]['kind'], tokens: number, seed: number): Data {
    const { shape } = tensorType(value.type);
    const rows = shape[0] === 'cap' ? sizes(tokens).cap : shape[0] === 'P' ? tokens * slots : tokens;
    const n = rows * widthOf(value);
    return kind === 'weights' ? weightsData(name, seed, n, slots) : rowsData(name, seed, n);
  }

  function dataOf(tokens: number, seed: number): UnitData {
    const { section } = standardPiece();
    const segmentRows = new Map(section.params.map((p) => [p.name, p.segmentRows]));
    const params = first.graph.params.flatMap((p): UnitParam[] => {
      if (p.role.kind !== 'weight') return [];
      const param = manifestParam(p, segmentRows.get(p.name));
      return [{ name: p.name, param, layer, segments: segmentsOf(param) }];
    });
    const common = new Map(first.inputs.filter((i) => i.kind !== 'ids').map(({ name, value, kind }) => [name, inputData(name, value, kind, tokens, seed)]));
    const elemOf = (name: string): string => {
      const input = first.inputs.find((i) => i.name === name);
      return input === undefined ? 'f32' : tensorType(input.value.type).dtype;
    };
    const named = (name: string, data: Data): NamedBytes => ({ name, bytes: bytesOf(data, elemOf(name)) });
    const idNames = first.inputs.filter((i) => i.kind === 'ids').map((i) => i.name);
    const mixes: readonly (WeightedMix | undefined)[] = planNode === undefined ? [undefined] : ctx.mixes;
    const scenarios = mixes.map((m): ScenarioData => {
      const ids = m === undefined ? new Uint32Array(0) : routedIds(m.mix, { tokens, experts, slots }, seed);
      const inputs = new Map<string, Data>([...common, ...idNames.map((name) => [name, ids] as const)]);
      const expected = expectedOf({
        piece: first, tokens, past: past(tokens), cap: sizes(tokens).cap, experts: expertsOf(ctx.spec), layer, seed, inputs,
        tokenWork: workOf(first.graph.nodes, sizes(1)) * (isAttention ? 1 + tokens / 2 : 1),
        weightParam: (p) => manifestParam(p, undefined),
      });
      return { name: m === undefined ? '' : routingName(m.mix), weight: m?.weight ?? 1, inputs: idNames.map((name) => named(name, ids)), expected };
    });
    const outputs = Object.entries(first.graph.results).map(([name, value]): UnitOutput => {
      const { dtype } = tensorType(value.type);
      if (!(dtype in ELEM_BYTES)) throw new Error(`${name} is stored as ${dtype}`);
      return { name, elem: dtype === 'f16' || dtype === 'bf16' || dtype === 'u32' || dtype === 'i32' ? dtype : 'f32', rows: tokens, width: widthOf(value) };
    });
    // Kernels for WebGPU store nothing in 16 bits: all of them add up in f32 and are held to the gate of f32.
    return { seed, experts: expertsOf(ctx.spec), params, inputs: [...common].map(([name, data]) => named(name, data)), outputs, scenarios, gate: F32_GATE };
  }
}

