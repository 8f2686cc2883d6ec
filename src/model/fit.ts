/** `moec fit`: whether a spec fits the limits of a device, and what would make it fit. */
import { QUANT_GROUP } from '../base/quant.ts';
import { short, shortBytes, table } from './analyze-text.ts';
import { activationBytes, kvBytesPerToken, planBytes } from './memory.ts';
import { defaultTokens } from './analyze.ts';
import type { ModelSpec, Spec, StorageDType } from './types.ts';
import { copies, tensorBytes, weightGroups } from './weights.ts';

/** What of a device's limits decides whether a spec fits. Plain numbers: profiles are the target room's. */
export interface FitLimits {
  readonly name: string;
  readonly maxBindingBytes: number;
  readonly maxBufferBytes: number;
  /** Memory of the device, where known. */
  readonly memoryBytes?: number;
}

export interface FitTensor {
  readonly name: string;
  readonly bytes: number;
  /** Bytes of one row or expert: what cannot be split further. */
  readonly unitBytes: number;
  readonly segments: number;
  /** Tensors of this name and size in the model, one per layer. */
  readonly count: number;
}

export interface FitReport {
  readonly limits: FitLimits;
  readonly tokens: number;
  readonly weights: number;
  readonly activations: number;
  readonly kvCache: number;
  readonly scratch: number;
  readonly total: number;
  readonly largest: FitTensor;
  /** Tensors that need more than one binding. */
  readonly split: readonly FitTensor[];
  /** `split`: it fits once large tensors are cut into segments, which the compiler does by itself. */
  readonly verdict: 'fits' | 'split' | 'too-large';
  readonly reasons: readonly string[];
  /** What would change the verdict, in words. */
  readonly advice: readonly string[];
}

function tensorsOf(spec: Spec, limits: FitLimits): FitTensor[] {
  const limit = Math.min(limits.maxBindingBytes, limits.maxBufferBytes);
  return weightGroups(spec).flatMap((group) =>
    group.tensors.flatMap((t) => {
      const bytes = tensorBytes(t, spec);
      const whole = { name: t.name, bytes, unitBytes: bytes / (t.shape[0] ?? 1), count: copies(group) };
      // Gate and up of one expert together may be too large: the compiler then keeps them apart.
      const halves = t.name.endsWith('gate_up') && whole.unitBytes > limit;
      const tensors = halves ? ['gate', 'up'].map((n) => ({ ...whole, name: t.name.replace('gate_up', n), bytes: bytes / 2, unitBytes: whole.unitBytes / 2 })) : [whole];
      return tensors.map((x) => {
        // Storage bindings start and end at multiples of whole rows, so a segment holds a whole number of units.
        const perSegment = Math.max(1, Math.floor(limit / x.unitBytes));
        return { ...x, segments: Math.ceil((t.shape[0] ?? 1) / perSegment) };
      });
    }),
  );
}

/** Buffers other than weights that one binding must hold. */
function bigBuffers(spec: Spec, tokens: number): readonly { readonly name: string; readonly bytes: number }[] {
  if (spec.kind === 'layer') return [{ name: 'hidden states', bytes: 4 * tokens * spec.hidden }];
  const cache = Math.max(...spec.kinds.map(({ attention: a }) => (a.kind === 'heads' ? a.kvHeads * a.headDim : a.kvLora + a.ropeDim)));
  return [
    { name: `logits of ${tokens} tokens`, bytes: 4 * tokens * spec.vocab },
    { name: `KV cache of one layer, ${spec.context} tokens`, bytes: 4 * spec.context * cache },
  ];
}

const withDtype = (spec: Spec, dtype: StorageDType): Spec => ({ ...spec, dtype });
/** With experts in 4 bits; undefined where there are none, where they are quantised already, or where groups do not divide a depth. */
function withInt4(spec: Spec): Spec | undefined {
  const ffns = spec.kind === 'layer' ? [spec.ffn] : spec.kinds.map((k) => k.ffn);
  const depths = ffns.flatMap((f) => (f.kind === 'moe' ? [spec.hidden, f.expert.width, f.shared?.ffn.width ?? QUANT_GROUP] : []));
  if (spec.expertStorage !== undefined || depths.length === 0 || depths.some((d) => d % QUANT_GROUP !== 0)) return undefined;
  return { ...spec, expertStorage: { values: 'int4', group: QUANT_GROUP, scales: 'f16' } };
}
const withContext = (spec: ModelSpec, context: number): Spec => ({ ...spec, context });

interface Totals {
  readonly weights: number;
  readonly activations: number;
  readonly kvCache: number;
  readonly scratch: number;
  readonly total: number;
}

function totals(spec: Spec, tokens: number): Totals {
  const weights = weightGroups(spec).reduce((a, g) => a + copies(g) * g.tensors.reduce((b, t) => b + tensorBytes(t, spec), 0), 0);
  const activations = activationBytes(spec, tokens);
  const kvCache = spec.kind === 'model' ? kvBytesPerToken(spec) * spec.context : 0;
  const scratch = planBytes(spec, tokens);
  return { weights, activations, kvCache, scratch, total: weights + activations + kvCache + scratch };
}

function memoryAdvice(spec: Spec, tokens: number, memory: number): string[] {
  const advice: string[] = [];
  const fits = (s: Spec, t: number): boolean => totals(s, t).total <= memory;
  if (spec.dtype === 'f32') {
    const half = totals(withDtype(spec, 'f16'), tokens).total;
    advice.push(`\`dtype f16\` needs ${shortBytes(half)}${half <= memory ? ' and fits' : ', still too much'}`);
  }
  const quantised = withInt4(withDtype(spec, spec.dtype === 'f32' ? 'f16' : spec.dtype));
  if (quantised !== undefined) {
    const { total } = totals(quantised, tokens);
    advice.push(`\`dtype ${quantised.dtype} experts int4\` needs ${shortBytes(total)}${total <= memory ? ' and fits' : ', still too much'}`);
  }
  let t = tokens;
  while (t > 1 && !fits(spec, t)) t = Math.floor(t / 2);
  if (fits(spec, t) && t < tokens) advice.push(`calls of at most ${t} tokens fit`);
  if (spec.kind === 'model') {
    let context = spec.context;
    while (context > 1 && !fits(withContext(spec, context), Math.min(tokens, context))) context = Math.floor(context / 2);
    if (context < spec.context && fits(withContext(spec, context), Math.min(tokens, context)))
      advice.push(`a context of ${context} tokens fits`);
  }
  advice.push(`a device with ${shortBytes(totals(spec, tokens).total)} of memory fits`);
  return advice;
}

/**
 * Compares a spec with the limits of a device, for calls of at most `tokens` tokens.
 * Weights larger than one binding are split along their rows or experts; only a single row or expert that is too large cannot be helped.
 */
export function fit(spec: Spec, limits: FitLimits, tokens: number = Math.min(512, defaultTokens(spec))): FitReport {
  const tensors = tensorsOf(spec, limits);
  const limit = Math.min(limits.maxBindingBytes, limits.maxBufferBytes);
  const sums = totals(spec, tokens);
  const largest = tensors.reduce(
    (a, b) => (b.bytes > a.bytes ? b : a),
    tensors[0] ?? { name: '', bytes: 0, unitBytes: 0, segments: 1, count: 1 },
  );
  const split = tensors.filter((t) => t.segments > 1);
  /** Experts that are quantised do not follow the dtype. */
  const halved = (t: FitTensor): boolean =>
    spec.dtype === 'f32' && tensorsOf(withDtype(spec, 'f16'), limits).some((x) => x.name === t.name && 2 * x.bytes === t.bytes);
  const reasons: string[] = [];
  const advice: string[] = [];
  for (const t of tensors.filter((x) => x.unitBytes > limit)) {
    reasons.push(`one row or expert of ${t.name} is ${shortBytes(t.unitBytes)}; one binding holds ${shortBytes(limit)}`);
    advice.push(`a limit of ${shortBytes(t.unitBytes)} per binding`);
    if (halved(t)) advice.push('`dtype f16` halves it');
  }
  for (const b of bigBuffers(spec, tokens).filter((x) => x.bytes > limit)) {
    reasons.push(`${b.name}: ${shortBytes(b.bytes)}; one binding holds ${shortBytes(limit)}`);
    advice.push(
      b.name.startsWith('KV')
        ? `a context of at most ${Math.floor(((spec.kind === 'model' ? spec.context : 1) * limit) / b.bytes)} tokens`
        : `calls of at most ${Math.floor((tokens * limit) / b.bytes)} tokens`,
    );
  }
  const memory = limits.memoryBytes;
  if (memory !== undefined && sums.total > memory) {
    reasons.push(`${shortBytes(sums.total)} are needed; the device has ${shortBytes(memory)}`);
    advice.push(...memoryAdvice(spec, tokens, memory));
  }
  const verdict = reasons.length > 0 ? 'too-large' : split.length > 0 ? 'split' : 'fits';
  if (verdict === 'split') {
    advice.push(`with ${shortBytes(largest.bytes)} per binding nothing would be split`);
    if (halved(largest) && largest.bytes / 2 <= limit) advice.push('with `dtype f16` nothing would be split');
  }
  return { limits, tokens, ...sums, largest, split, verdict, reasons, advice: [...new Set(advice)] };
}

const VERDICTS: Readonly<Record<FitReport['verdict'], string>> = {
  fits: 'fits as it is',
  split: 'fits, with large tensors split over several bindings',
  'too-large': 'does not fit',
};

/** The report as `moec fit` prints it, without a final line break. */
export function fitText(report: FitReport): string {
  const { limits } = report;
  const lines = [
    `profile ${limits.name}: ${VERDICTS[report.verdict]}`,
    ...table([
      ['  weights', shortBytes(report.weights)],
      [`  activations, calls of ${report.tokens} tokens`, shortBytes(report.activations)],
      ['  KV cache, whole context', shortBytes(report.kvCache)],
      ['  routing plan', shortBytes(report.scratch)],
      ['  together', shortBytes(report.total)],
      [`  largest tensor: ${report.largest.name}`, shortBytes(report.largest.bytes)],
      ['  one binding holds', shortBytes(Math.min(limits.maxBindingBytes, limits.maxBufferBytes))],
    ]),
    ...report.split.map((t) => `  ${t.name}: ${t.segments} segments${t.count > 1 ? ` in each of ${short(t.count)} layers` : ''}`),
    ...report.reasons.map((r) => `  does not fit: ${r}`),
    ...report.advice.map((a) => `  what would help: ${a}`),
  ];
  return lines.join('\n');
}
