/** DeepSeek and the families that took its block: deepseek, deepseek_v2, deepseek_v3, kimi_k2, glm4_moe, dots1. */
import { activation, dense, headLines, headsAttention, latentAttention, windows } from '../common.ts';
import { type Draft, line, numeral } from '../draft.ts';
import { ACTIVE, deepseekPattern, EXPERT_WIDTH, EXPERTS, groupsText, moeBlock, perLayer, sharedLine } from '../experts.ts';
import type { Found, Reader } from '../reader.ts';

const scaleText = (scale: Found<number>): string => (scale.value === 1 ? '' : ` scale ${numeral(scale.value)}`);
const noOverrides = (depth: number): undefined[] => Array.from({ length: depth }, () => undefined);

interface Routed {
  readonly router: string;
  readonly from: string;
  readonly shared: number;
  readonly firstDense: number;
  /** Every layer is dense. */
  readonly dense?: boolean;
}

function ffns(r: Reader, depth: number, routed: Routed): Draft['ffns'] {
  const network = activation(r);
  const pattern = deepseekPattern(r, routed.firstDense);
  const sparse = routed.dense === true ? (): boolean => false : pattern;
  return perLayer(
    depth,
    sparse,
    () =>
      moeBlock({
        experts: r.int(EXPERTS),
        active: r.int(ACTIVE),
        network,
        width: r.int(EXPERT_WIDTH),
        shared: sharedLine(r, ['n_shared_experts', 'num_shared_experts'], routed.shared),
        router: line(`router ${routed.router}`, routed.from),
      }),
    () => dense(network, r.int('intermediate_size')),
  );
}

/** Softmax over all experts; the published code of this family divides by the sum + 1e-20 where `norm_topk_prob` is set. */
export function deepseek(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 2048, eps: 1e-6, tied: false });
  const bias = r.flag('attention_bias', false);
  const attention = headsAttention(r, { hidden, theta: 10_000, bias: { parts: bias.value ? 'q k v o' : '', from: bias.from } });
  const score = r.text('scoring_func', 'softmax');
  if (score.value !== 'softmax' && score.value !== 'sigmoid') r.cannot('scoring_func', 'softmax is written, which is another router');
  const norm = r.flag('norm_topk_prob', false);
  const scale = r.real('routed_scaling_factor', 1);
  const word = score.value === 'sigmoid' ? 'sigmoid' : 'softmax';
  const dense = !r.has('n_routed_experts');
  // One weight alone is never renormalised in this family's code.
  const renormalize = norm.value && !dense && r.int(ACTIVE).value > 1 ? ' renormalize add 1e-20' : '';
  return {
    head: lines,
    ...attention,
    overrides: noOverrides(depth),
    ffns: ffns(r, depth, {
      router: `${word} top-k${renormalize}${scaleText(scale)}`,
      from: `${score.from}; ${norm.from}`,
      shared: 0,
      firstDense: 0,
      dense,
    }),
  };
}

/** DeepSeek-V2: `topk_method` says whether routing is limited to groups of experts, scored by their best. */
export function deepseekV2(r: Reader): Draft {
  const { lines, depth } = headLines(r, { context: 2048, eps: 1e-6, tied: false });
  const attention = latentAttention(r, true);
  const method = r.text('topk_method', 'greedy');
  const score = r.text('scoring_func', 'softmax');
  if (score.value !== 'softmax') r.cannot('scoring_func', 'softmax is written, which is another router');
  let groups = '';
  if (method.value === 'group_limited_greedy') groups = groupsText(r, 'max', { groups: 1, keep: 1 });
  else if (method.value !== 'greedy') r.cannot('topk_method', 'experts are chosen without groups');
  r.ignore('n_group', 'topk_group');
  const norm = r.flag('norm_topk_prob', false);
  const scale = r.real('routed_scaling_factor', 1);
  // In this family's code renormalising replaces the scaling, and one weight alone is not renormalised.
  const weights = norm.value && r.int(ACTIVE).value > 1 ? ' renormalize add 1e-20' : scaleText(scale);
  return {
    head: lines,
    ...attention,
    overrides: noOverrides(depth),
    ffns: ffns(r, depth, {
      router: `softmax${groups} top-k${weights}`,
      from: `${method.from}; ${norm.from}; ${scale.from}`,
      shared: 2,
      firstDense: 0,
    }),
  };
}

interface V3Defaults {
  readonly groups: number;
  readonly keep: number;
  readonly scale: number;
  readonly normalized: boolean;
}

/** Sigmoid scores, selection bias, groups by the sum of their two best, renormalised weights. */
function v3Router(r: Reader, d: V3Defaults): { readonly router: string; readonly from: string } {
  const score = r.text('scoring_func', 'sigmoid');
  const method = r.text('topk_method', 'noaux_tc');
  if (score.value !== 'sigmoid') r.cannot('scoring_func', 'sigmoid is written, which is another router');
  if (method.value !== 'noaux_tc') r.cannot('topk_method', 'experts are chosen with a selection bias, as `noaux_tc` does');
  const groups = groupsText(r, 'top2-sum', { groups: d.groups, keep: d.keep });
  const norm = r.flag('norm_topk_prob', d.normalized);
  const scale = r.real('routed_scaling_factor', d.scale);
  const router = `sigmoid selection-bias${groups} top-k${norm.value ? ' renormalize add 1e-20' : ''}${scaleText(scale)}`;
  return { router, from: `${norm.from}; ${scale.from}` };
}

export function deepseekV3(r: Reader): Draft {
  const { lines, depth } = headLines(r, { context: 4096, eps: 1e-6, tied: false });
  const interleaved = r.flag('rope_interleave', true);
  const attention = latentAttention(r, interleaved.value);
  const mtp = r.optionalInt('num_nextn_predict_layers');
  if (mtp !== undefined && mtp.value > 0)
    r.note('the multi-token prediction module (num_nextn_predict_layers) is left out; plain generation does not use it');
  const router = v3Router(r, { groups: 8, keep: 4, scale: 2.5, normalized: true });
  return { head: lines, ...attention, overrides: noOverrides(depth), ffns: ffns(r, depth, { ...router, shared: 1, firstDense: 3 }) };
}

export function glm4Moe(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 131_072, eps: 1e-5, tied: false });
  const bias = r.flag('attention_bias', false);
  const norm = r.flag('use_qk_norm', false);
  const attention = headsAttention(r, {
    hidden,
    theta: 10_000,
    bias: { parts: bias.value ? 'q k v' : '', from: bias.from },
    qkNorm: norm.value ? { kind: 'head', from: norm.from } : undefined,
    partial: 0.5,
    kvFallback: 8,
    headDim: 128,
  });
  r.ignore('num_nextn_predict_layers');
  const router = v3Router(r, { groups: 1, keep: 1, scale: 1, normalized: true });
  return { head: lines, ...attention, overrides: noOverrides(depth), ffns: ffns(r, depth, { ...router, shared: 1, firstDense: 1 }) };
}

export function dots1(r: Reader): Draft {
  const { lines, hidden, depth } = headLines(r, { context: 2048, eps: 1e-6, tied: false });
  const bias = r.flag('attention_bias', false);
  const attention = headsAttention(r, {
    hidden,
    theta: 10_000,
    bias: { parts: bias.value ? 'q k v o' : '', from: bias.from },
    qkNorm: { kind: 'head', from: 'always so in this family' },
  });
  const router = v3Router(r, { groups: 1, keep: 1, scale: 1, normalized: false });
  return {
    head: lines,
    ...attention,
    overrides: windows(r, depth, { layers: 'from-max-window-layers' }),
    ffns: ffns(r, depth, { ...router, shared: 0, firstDense: 0 }),
  };
}
