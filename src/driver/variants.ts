/** A spec's contestants for a benchmark: itself, itself without passes, and the dense spec of equal activated size. */
import { QUANT_GROUP } from '../base/quant.ts';
import type { ExpertStorage, Ffn, LayerFfn, Spec } from '../model/types.ts';
import { FUSION_PASSES } from '../passes/graph/pipeline.ts';
import { type CompileOptions, PASS_NAMES } from './compile.ts';

export interface Contestant {
  readonly name: string;
  readonly spec: Spec;
  readonly options: CompileOptions;
  /** The one pass that it does without: what the pass is worth is told of it. */
  readonly without?: string;
}

/** One FFN as wide as what runs for a token: the active experts and the shared ones. */
function activatedFfn(ffn: LayerFfn): Ffn {
  if (ffn.kind === 'dense') return ffn.ffn;
  const { clamp: _clamp, ...network } = ffn.expert;
  return { ...network, bias: false, width: ffn.active * ffn.expert.width + (ffn.shared?.ffn.width ?? 0) };
}

/** The spec with every mixture replaced by a dense network of the same activated size. */
export function denseTwin({ expertStorage: _experts, ...spec }: Spec): Spec {
  const dense = (ffn: LayerFfn): LayerFfn => ({ kind: 'dense', ffn: activatedFfn(ffn) });
  return spec.kind === 'layer' ? { ...spec, ffn: dense(spec.ffn) } : { ...spec, kinds: spec.kinds.map((k) => ({ ...k, ffn: dense(k.ffn) })) };
}

const withoutPass = (spec: Spec, pass: string): Contestant => ({ name: `no-${pass}`, spec, options: { disabled: new Set([pass]) }, without: pass });

/** The spec with its experts stored so; undefined where groups do not divide a depth, or where there are no experts. */
function quantised(spec: Spec, values: ExpertStorage['values']): Spec | undefined {
  const ffns = spec.kind === 'layer' ? [spec.ffn] : spec.kinds.map((k) => k.ffn);
  const depths = ffns.flatMap((f) => (f.kind === 'moe' ? [spec.hidden, f.expert.width, f.shared?.ffn.width ?? QUANT_GROUP] : []));
  if (depths.length === 0 || depths.some((d) => d % QUANT_GROUP !== 0)) return undefined;
  return { ...spec, expertStorage: { group: QUANT_GROUP, scales: spec.expertStorage?.scales ?? 'f16', values } };
}

/** The spec with its experts stored as the rest is. */
function unquantised({ expertStorage: _experts, ...spec }: Spec): Spec {
  return spec;
}

/** The spec as `moec compile` has it: what all others stand beside. */
export const itself = (spec: Spec): Contestant => ({ name: 'fused', spec, options: {} });

/** What `contestants` understands, for messages. */
export const CONTESTANT_WORDS = 'unfused, dense, int4 or int8 (where 32 divides hidden and widths), full (experts not quantised), passes, or no-PASS';

/** The words above; `passes` is one for each pass, without it. Undefined for any other word, and for what the spec cannot be. */
export function contestants(spec: Spec, word: string): readonly Contestant[] | undefined {
  if (word === 'unfused') return [{ name: word, spec, options: { disabled: new Set(FUSION_PASSES) } }];
  if (word === 'dense') return [{ name: word, spec: denseTwin(spec), options: {} }];
  if (word === 'full') return [{ name: word, spec: unquantised(spec), options: {} }];
  if (word === 'int4' || word === 'int8') {
    const made = quantised(spec, word);
    return made && [{ name: word, spec: made, options: {} }];
  }
  if (word === 'passes') return PASS_NAMES.map((pass) => withoutPass(spec, pass));
  const pass = word.startsWith('no-') ? word.slice(3) : undefined;
  return pass !== undefined && PASS_NAMES.includes(pass) ? [withoutPass(spec, pass)] : undefined;
}
