/** Rotary embedding and its scaling, as config.json says them. */
import { type Line, line, numeral } from './draft.ts';
import { isObject, type Json, type Reader } from './reader.ts';

export interface RopeOptions {
  readonly theta: number;
  readonly headDim: number;
  readonly style?: 'half' | 'interleaved' | undefined;
  readonly partial?: number | undefined;
  readonly scaling?: Json | undefined;
  /** In latent attention mscale_all_dim also scales the softmax, and the rotating dims are always said. */
  readonly latent?: boolean;
}

export const RESULTS = 'results differ wherever it acts';

/** `rope …` with its scaling; `plainScale` asks for a `scale` clause, because the scaling would otherwise change the softmax. */
export function ropeLine(r: Reader, o: RopeOptions): { readonly line: Line; readonly plainScale: boolean } {
  const parameters = r.object('rope_parameters');
  const nested = parameters === undefined ? [] : Object.values(parameters).filter(isObject);
  if (nested.length > 0) r.cannot('rope_parameters', 'one rotary embedding is written for all kinds of layers; ' + RESULTS);
  const flat = nested[0] ?? parameters ?? {};
  const own = (name: string): number | undefined => (typeof flat[name] === 'number' ? flat[name] : undefined);
  const theta = r.real(['rope_theta', 'rotary_emb_base'], own('rope_theta') ?? o.theta);
  const partial = own('partial_rotary_factor') ?? r.real('partial_rotary_factor', o.partial ?? 1).value;
  const rotary = r.optionalInt('rotary_dim')?.value;
  r.ignore('partial_rotary_factor');
  const dim = o.latent === true ? o.headDim : Math.min(o.headDim, rotary ?? Math.floor(o.headDim * partial));
  const scaling = r.object('rope_scaling') ?? (parameters === undefined ? o.scaling : flat);
  const { text, base, plainScale } = scalingText(r, scaling, dim, o.latent === true);
  const dims = dim !== o.headDim || o.latent === true ? ` dim ${dim}` : '';
  const style = o.style === undefined ? '' : ` ${o.style}`;
  return {
    line: line(
      `rope ${numeral(theta.value * base)}${dims}${style}${text}`,
      theta.from,
      scaling === undefined ? undefined : 'rope_scaling',
    ),
    plainScale,
  };
}

interface Scaled {
  readonly text: string;
  /** What theta is multiplied by. */
  readonly base: number;
  readonly plainScale: boolean;
}

function scalingText(r: Reader, s: Json | undefined, dim: number, latent: boolean): Scaled {
  const none: Scaled = { text: '', base: 1, plainScale: false };
  if (s === undefined) return none;
  const number = (name: string): number | undefined => (typeof s[name] === 'number' && Number.isFinite(s[name]) ? s[name] : undefined);
  for (const name of [
    'factor',
    'original_max_position_embeddings',
    'beta_fast',
    'beta_slow',
    'mscale',
    'mscale_all_dim',
    'attention_factor',
    'alpha',
  ]) {
    if (s[name] !== undefined && s[name] !== null && number(name) === undefined)
      r.wrong(`rope_scaling.${name}`, `must be a number, not ${JSON.stringify(s[name])}`);
  }
  const said = s['rope_type'] ?? s['type'];
  const looksLikeYarn = ['beta_fast', 'beta_slow', 'mscale', 'original_max_position_embeddings'].some((k) => number(k) !== undefined);
  if (said === undefined && looksLikeYarn)
    r.note('`rope_scaling` does not say its type; its fields are those of YaRN, so it is written as YaRN');
  const type = said ?? (looksLikeYarn ? 'yarn' : number('factor') === undefined ? 'default' : undefined);
  if (type === 'default') return none;
  if (type === 'linear') return { ...none, text: ` linear ${numeral(number('factor') ?? 1)}` };
  if (type === 'yarn' || type === 'deepseek_yarn') return yarnText(r, number, s['truncate'] === false, latent);
  const alpha = number('alpha');
  if (type === 'dynamic' && alpha !== undefined) return { ...none, base: alpha ** (dim / (dim - 2)) };
  r.cannot('rope_scaling', `positions are not scaled; ${RESULTS}`);
  return none;
}

function yarnText(r: Reader, number: (name: string) => number | undefined, noTruncate: boolean, latent: boolean): Scaled {
  const context = r.int('max_position_embeddings', { fallback: 4096 }).value;
  const original = number('original_max_position_embeddings') ?? context;
  const factor = number('factor') ?? context / original;
  const mscaleOf = (m: number): number => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1);
  let mscale = number('mscale');
  let all = number('mscale_all_dim');
  let plainScale = !latent && all !== undefined && all !== 0;
  const attention = number('attention_factor');
  const usual = mscale && all ? mscaleOf(mscale) / mscaleOf(all) : mscaleOf(1);
  if (attention !== undefined && Math.abs(attention - usual) > 1e-12 && factor > 1) {
    // cos and sin are multiplied by mscaleOf(mscale) / mscaleOf(all); the softmax scale is then written out.
    if (latent && all) r.cannot('rope_scaling', 'the attention factor is not applied');
    else {
      all = 1;
      mscale = (attention * mscaleOf(1) - 1) / (0.1 * Math.log(factor));
      plainScale = true;
    }
  }
  const clause = (name: string, value: number | undefined): string => (value === undefined ? '' : ` ${name} ${numeral(value)}`);
  const words = [
    clause('factor', factor),
    clause('original', original),
    clause('beta-fast', number('beta_fast')),
    clause('beta-slow', number('beta_slow')),
    clause('mscale', mscale),
    clause('mscale-all-dim', all),
    noTruncate ? ' no-truncate' : '',
  ];
  return { text: ` yarn {${words.join('')} }`, base: 1, plainScale };
}
