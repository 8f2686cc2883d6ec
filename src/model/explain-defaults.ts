/** Every default that matters, for `moec explain FILE`: what was not written, what is taken instead, and why. */
import { QUANT_GROUP } from '../base/quant.ts';
import type { Span } from '../diagnostics/types.ts';
import type * as ast from '../parser/ast.ts';
import { DEFAULT_EPS } from './resolve.ts';
import { DEFAULT_ROPE_THETA, DEFAULT_YARN, mergeAttention } from './resolve-attention.ts';
import { DEFAULT_CLAMP } from './resolve-ffn.ts';
import { DEFAULT_JITTER } from './resolve-router.ts';
import { DEFAULT_SCALES } from './resolve-storage.ts';
import type { Spec } from './types.ts';

export interface ExplainedDefault {
  /** The clause that was not written. */
  readonly what: string;
  readonly value: string;
  readonly why: string;
  /** The block it belongs to. */
  readonly span: Span;
}

type Say = (span: Span, what: string, value: string | number, why: string) => void;

function attention(say: Say, a: ast.Attention, hidden: number): void {
  const latent = a.variant?.value === 'mla';
  if (a.heads !== undefined && a.heads.headDim === undefined && !latent) {
    say(a.span, 'head size', hidden / a.heads.count.value, 'hidden / heads');
  }
  if (a.rope === undefined && !latent)
    say(a.span, 'rope', `${DEFAULT_ROPE_THETA}, all dims of a head, half-split pairs`, 'the RoPE of LLaMA');
  if (a.rope?.kind === 'rope') {
    if (a.rope.style === undefined)
      say(a.rope.span, 'rope pairs', latent ? 'interleaved' : 'half', latent ? 'as in DeepSeek-V2 and V3' : 'as in LLaMA');
    if (a.rope.dim === undefined) say(a.rope.span, 'rope dim', 'all dims of a head', 'partial rotation is written where it is meant');
    if (a.rope.scaling?.kind === 'yarn') yarn(say, a.rope.scaling, a.scale !== undefined);
  }
  if (a.scale === undefined)
    say(a.span, 'scale', latent ? '1 / √(nope + rope dim)' : '1 / √(head size)', 'scaled dot-product attention');
  if (a.bias === undefined && !latent) say(a.span, 'bias', 'none', 'biases are written where a checkpoint has them');
}

function yarn(say: Say, y: ast.Yarn, ownScale: boolean): void {
  if (y.betaFast === undefined) say(y.span, 'beta-fast', DEFAULT_YARN.betaFast, 'the value of the YaRN paper');
  if (y.betaSlow === undefined) say(y.span, 'beta-slow', DEFAULT_YARN.betaSlow, 'the value of the YaRN paper');
  const all = y.mscaleAllDim?.value.value ?? 0;
  if (all === 0) say(y.span, 'mscale', 'cos and sin are multiplied by 0.1 ln(factor) + 1', 'no `mscale-all-dim` is given');
  else if (!ownScale)
    say(
      y.span,
      'mscale',
      'the softmax scale is multiplied by mscale-all-dim², cos and sin by the ratio of the two',
      "DeepSeek's use of YaRN",
    );
}

function network(say: Say, n: ast.Network): void {
  if (n.clamp === undefined) return;
  if (n.clamp.alpha === undefined) say(n.clamp.span, 'alpha', DEFAULT_CLAMP.alpha, 'gate · sigmoid(gate) is SiLU');
  if (n.clamp.offset === undefined) say(n.clamp.span, 'offset', DEFAULT_CLAMP.upOffset, 'nothing is added to the up values');
}

function router(say: Say, moe: ast.Moe): void {
  const r = moe.router;
  const at = (r ?? moe).span;
  const select = r?.select?.kind ?? 'top-k';
  if (r?.select === undefined) say(at, 'selection', 'top-k', 'the experts with the highest scores');
  if (r?.score === undefined) {
    if (select === 'hash') say(at, 'score', 'none, with weight 1', 'the table alone decides; there is no router matrix');
    else say(at, 'score', 'softmax over the routed experts', 'DeepSeekMoE eq. 11, Switch, GShard');
  } else if (r.weights === undefined && r.score.value !== 'none') {
    say(at, 'weights', 'the scores of the selected experts', 'as in most published routers');
  }
  if (r?.renormalize === undefined && moe.capacity === undefined && (select === 'top-k' || select === 'hash')) {
    say(at, 'renormalize', 'no', 'weights are used as they are, as in DeepSeekMoE');
  }
  if (r?.renormalize !== undefined && r.renormalize.eps === undefined)
    say(r.renormalize.span, 'eps', 0, 'the weights are divided by their plain sum');
  if (r?.select?.kind === 'sparse-mixer' && r.select.jitter === undefined)
    say(at, 'jitter', DEFAULT_JITTER, 'the value of Phi-3.5-MoE');
  if (r?.scale === undefined) say(at, 'scale', 1, 'no routed scaling factor');
  if (r?.applyTo === undefined) say(at, 'weights on', 'output', 'only Llama 4 weighs the input');
}

function moe(say: Say, m: ast.Moe): void {
  router(say, m);
  const { counting, shared, capacity } = m;
  if (counting !== undefined) network(say, counting.network);
  if (counting?.kind === 'released' && counting.active === undefined && m.router?.select?.kind === 'hash') {
    say(m.span, 'active', 1, 'a hash table names one expert for each token');
  }
  if (shared === undefined) say(m.span, 'shared', 0, 'no expert runs for every token');
  else if (shared.network === undefined && shared.count.value > 0)
    say(shared.span, 'shared network', 'that of the routed experts', 'all experts are alike');
  else if (shared.network !== undefined) network(say, shared.network.network);
  if (capacity === undefined) say(m.span, 'capacity', 'unlimited', 'no token is dropped');
  else if (capacity.renormalize === undefined)
    say(capacity.span, 'renormalize', 'none', 'the weights of what is kept stay as they are');
  if (capacity?.limit.kind === 'factor' && capacity.limit.min === undefined)
    say(capacity.span, 'min', 1, 'every expert has at least one place');
}

function unitDefaults(say: Say, unit: ast.Unit): void {
  if (unit.dtype === undefined) say(unit.span, 'dtype', 'f32', 'storage of the weights; arithmetic is always f32');
  const experts = unit.dtype?.experts;
  if (experts !== undefined && experts.group === undefined) say(experts.span, 'group', QUANT_GROUP, 'values along the depth that share a scale');
  if (experts !== undefined && experts.scales === undefined) say(experts.span, 'scales', DEFAULT_SCALES, 'half a bit a weight; `f32` takes a whole one');
  if (unit.deterministic === undefined) say(unit.span, 'deterministic', 'run', 'equal calls give equal bits; `batch` promises more');
  if (unit.norm === undefined && unit.kind === 'model') say(unit.span, 'norm', `rms ${DEFAULT_EPS.rms}`, 'as in LLaMA and DeepSeek');
  else if (unit.norm !== undefined && unit.norm.eps === undefined)
    say(unit.norm.span, 'norm eps', DEFAULT_EPS[unit.norm.kind.value], 'the usual value');
  if (unit.kind === 'layer') {
    if (unit.norm === undefined) say(unit.span, 'norm', 'none', 'a layer alone gets its input as it is');
    if (unit.residual === undefined) say(unit.span, 'residual', 'no', 'the result is that of the layer alone');
    return;
  }
  if (unit.embedding?.tied === undefined) say(unit.span, 'embedding', 'not tied', 'the head has a matrix of its own');
}

/** Lists the defaults of the unit that a spec was made from, in the order of the file. */
export function explainDefaults(file: ast.File, spec: Spec): ExplainedDefault[] {
  const list: ExplainedDefault[] = [];
  const say: Say = (span, what, value, why) => list.push({ span, what, value: String(value), why });
  const unit = file.units.find((u) => u.span.start === spec.span.start && u.span.file === spec.span.file);
  if (unit === undefined) return list;
  unitDefaults(say, unit);
  const ffn = (f: ast.LayerFfn | undefined): void => {
    if (f?.kind === 'dense') network(say, f.network);
    if (f?.kind === 'moe') moe(say, f);
  };
  if (unit.kind === 'model') {
    if (unit.depth === undefined && spec.kind === 'model')
      say(unit.span, 'depth', spec.layers.length, 'one more than the highest layer that a block names');
    if (unit.attention !== undefined) attention(say, unit.attention, spec.hidden);
    for (const block of unit.layers) {
      if (block.attention?.variant !== undefined) attention(say, mergeAttention(unit.attention, block.attention), spec.hidden);
    }
  }
  ffn(unit.ffn);
  if (unit.kind === 'model') for (const block of unit.layers) ffn(block.ffn);
  return list.sort((a, b) => a.span.start - b.span.start);
}
