/** The `moe` block: counts under all their names, shared experts, routers, which layers have it. */
import { type Block, type Line, line } from './draft.ts';
import type { Found, Names, Reader } from './reader.ts';

export const EXPERTS: Names = ['n_routed_experts', 'num_local_experts', 'num_experts', 'moe_num_experts'];
export const ACTIVE: Names = ['num_experts_per_tok', 'experts_per_token', 'moe_topk', 'moe_k', 'moe_top_k', 'top_k_experts'];
export const EXPERT_WIDTH: Names = ['moe_intermediate_size', 'expert_ffn_hidden_size', 'intermediate_size', 'ffn_hidden_size'];

export interface MoeParts {
  readonly experts: Found<number>;
  readonly active: Found<number>;
  /** `swiglu`, and what follows the width. */
  readonly network: string;
  readonly width: Found<number>;
  readonly suffix?: string;
  readonly shared?: Line | undefined;
  readonly router: Line;
}

export const moeBlock = (m: MoeParts): Block => ({
  lines: [
    line('moe {'),
    line(`  experts ${m.experts.value} of ${m.network} ${m.width.value}${m.suffix ?? ''}`, m.experts.from, m.width.from),
    line(`  active ${m.active.value}`, m.active.from),
    ...(m.shared === undefined ? [] : [{ ...m.shared, code: `  ${m.shared.code}` }]),
    { ...m.router, code: `  ${m.router.code}` },
    line('}'),
  ],
});

/** `n_shared_experts`: so many experts of the routed width; null and 0 mean none. */
export function sharedLine(r: Reader, names: readonly [string, ...string[]], fallback: number): Line | undefined {
  if (names.some((n) => r.isNull(n))) return undefined;
  const count = r.int(names, { fallback, min: 0 });
  return count.value === 0 ? undefined : line(`shared ${count.value}`, count.from);
}

/** `groups 8 keep 4 by …`, or nothing where one group is all there is. */
export function groupsText(r: Reader, by: 'max' | 'top2-sum', fallback: { readonly groups: number; readonly keep: number }): string {
  const groups = r.int('n_group', { fallback: fallback.groups });
  const keep = r.int('topk_group', { fallback: fallback.keep });
  return groups.value === 1 && keep.value === 1 ? '' : ` groups ${groups.value} keep ${keep.value} by ${by}`;
}

/** One block object per layer: `sparse` decides which of the two a layer gets. */
export const perLayer = (depth: number, sparse: (layer: number) => boolean, moe: () => Block, dense: () => Block): Block[] => {
  let m: Block | undefined;
  let d: Block | undefined;
  return Array.from({ length: depth }, (_, l) => (sparse(l) ? (m ??= moe()) : (d ??= dense())));
};

/** DeepSeek's rule: the first k layers are dense, of the others every n-th has experts. */
export function deepseekPattern(r: Reader, firstFallback: number): (layer: number) => boolean {
  const first = r.int('first_k_dense_replace', { fallback: firstFallback, min: 0 }).value;
  const every = r.int('moe_layer_freq', { fallback: 1 }).value;
  return (l) => l >= first && l % every === 0;
}

/** Qwen's rule: every n-th layer counted from 1, but for a list of dense ones. */
export function qwenPattern(r: Reader): (layer: number) => boolean {
  const step = r.int('decoder_sparse_step', { fallback: 1 }).value;
  const dense = r.list('mlp_only_layers') ?? [];
  if (dense.some((l) => !Number.isSafeInteger(l))) r.wrong('mlp_only_layers', 'must be a list of layer numbers');
  return (l) => !dense.includes(l) && (l + 1) % step === 0;
}
