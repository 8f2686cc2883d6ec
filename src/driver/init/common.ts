/** What the families share: heads, norms, feed-forward lines, windows. */
import { type Block, type Draft, type Line, line, numeral } from './draft.ts';
import type { Found, Json, Reader } from './reader.ts';
import { RESULTS, ropeLine } from './rope.ts';

const DTYPES: Readonly<Record<string, string>> = { float32: 'f32', float16: 'f16', bfloat16: 'bf16', half: 'f16', float: 'f32' };

export interface HeadDefaults {
  readonly context: number;
  readonly eps: number;
  readonly tied: boolean;
  readonly norm?: 'rms' | 'layer bias';
  readonly extra?: readonly Line[];
}

/** `vocab`, `hidden`, `depth`, `context`, `dtype`, `norm`, `embedding`. */
export function headLines(r: Reader, d: HeadDefaults): { readonly lines: Line[]; readonly hidden: number; readonly depth: number } {
  const vocab = r.int('vocab_size');
  const hidden = r.int('hidden_size');
  const depth = r.int(['num_hidden_layers', 'num_layers', 'n_layers']);
  const context = r.int('max_position_embeddings', { fallback: d.context });
  const dtype = r.text(['torch_dtype', 'dtype'], 'float32');
  const word = DTYPES[dtype.value.replace(/^torch\./, '')];
  if (word === undefined) r.wrong(dtype.from, `is ${JSON.stringify(dtype.value)}; weights are stored as float32, float16 or bfloat16`);
  const eps = r.real(['rms_norm_eps', 'layer_norm_eps', 'norm_eps'], d.eps);
  const tied = r.flag('tie_word_embeddings', d.tied);
  if (r.has('quantization_config')) {
    r.cannot('quantization_config', 'the weights must be converted to plain tensors before they can be loaded');
  }
  const [kind, bias] = (d.norm ?? 'rms').split(' ');
  const lines = [
    line(`vocab ${vocab.value}`, vocab.from),
    line(`hidden ${hidden.value}`, hidden.from),
    line(`depth ${depth.value}`, depth.from),
    line(`context ${context.value}`, context.from),
    line(`dtype ${word ?? 'f32'}`, dtype.from),
    line(`norm ${kind} ${numeral(eps.value)}${bias === undefined ? '' : ' bias'}`, eps.from),
    ...(tied.value ? [line('embedding tied', tied.from)] : []),
    ...(d.extra ?? []),
  ];
  // A hostile depth must not make a list of that length.
  return { lines, hidden: hidden.value, depth: Math.min(depth.value, 4096) };
}

const GATED: Readonly<Record<string, string>> = {
  silu: 'swiglu',
  swish: 'swiglu',
  swiglu: 'swiglu',
  gelu: 'geglu',
  gelu_new: 'geglu-tanh',
  gelu_pytorch_tanh: 'geglu-tanh',
  relu: 'reglu',
};

/** The gated network that `hidden_act` names. */
export function activation(r: Reader): string {
  const act = r.text(['hidden_act', 'hidden_activation'], 'silu');
  const word = Object.hasOwn(GATED, act.value) ? GATED[act.value] : undefined;
  if (word === undefined) r.cannot(act.from, 'the experts are written as SwiGLU, which is another function');
  return word ?? 'swiglu';
}

export const dense = (network: string, width: Found<number>, suffix = ''): Block => ({
  lines: [line(`ffn ${network} ${width.value}${suffix}`, width.from)],
});

export interface HeadsOptions {
  readonly hidden: number;
  readonly theta: number;
  /** Which projections have biases. */
  readonly bias: { readonly parts: string; readonly from: string };
  readonly qkNorm?: { readonly kind: 'head' | 'full'; readonly from: string } | undefined;
  readonly style?: 'interleaved';
  readonly partial?: number;
  readonly scale?: Found<number> | undefined;
  readonly extra?: readonly Line[];
  readonly kvFallback?: number;
  readonly headDim?: number;
  /** Scaling that the config class has where the config says nothing. */
  readonly scaling?: Json;
}

/** Multi-head or grouped-query attention. */
export function headsAttention(r: Reader, o: HeadsOptions): Pick<Draft, 'variant' | 'attention'> {
  const heads = r.int('num_attention_heads');
  const kv = r.int('num_key_value_heads', { fallback: o.kvFallback ?? heads.value });
  const given = r.optionalInt(['head_dim', 'attention_head_dim']);
  const headDim = given?.value ?? o.headDim ?? Math.floor(o.hidden / heads.value);
  if (given === undefined && o.headDim === undefined && o.hidden % heads.value !== 0) {
    r.wrong('hidden_size', `(${o.hidden}) is no multiple of \`num_attention_heads\` (${heads.value}), and there is no \`head_dim\``);
  }
  const grouped = kv.value !== heads.value;
  const rope = ropeLine(r, { theta: o.theta, headDim, style: o.style, partial: o.partial, scaling: o.scaling });
  const scale =
    o.scale ?? (rope.plainScale ? { value: headDim ** -0.5, from: 'attention of this family is not scaled by mscale' } : undefined);
  return {
    variant: grouped ? 'gqa' : 'mha',
    attention: [
      line(`heads ${heads.value} x ${headDim}`, heads.from, given?.from ?? 'hidden_size / num_attention_heads'),
      ...(grouped ? [line(`kv ${kv.value}`, kv.from)] : []),
      ...(o.bias.parts === '' ? [] : [line(`bias ${o.bias.parts}`, o.bias.from)]),
      ...(o.qkNorm === undefined ? [] : [line(`qk-norm ${o.qkNorm.kind}`, o.qkNorm.from)]),
      rope.line,
      ...(scale === undefined ? [] : [line(`scale ${numeral(scale.value)}`, scale.from)]),
      ...(o.extra ?? []),
    ],
  };
}

/** Multi-head latent attention of DeepSeek-V2 and V3. */
export function latentAttention(r: Reader, interleaved: boolean): Pick<Draft, 'variant' | 'attention'> {
  const heads = r.int('num_attention_heads');
  r.ignore('num_key_value_heads', 'head_dim', 'qk_head_dim');
  if (r.flag('attention_bias', false).value) r.cannot('attention_bias', 'the biases of latent attention would be left out');
  // Null means direct queries; absence means the default of the config class.
  const qLora = r.isNull('q_lora_rank') ? undefined : r.int('q_lora_rank', { fallback: 1536 });
  r.ignore('q_lora_rank');
  const kvLora = r.int('kv_lora_rank', { fallback: 512 });
  const nope = r.int('qk_nope_head_dim', { fallback: 128 });
  const rot = r.int('qk_rope_head_dim', { fallback: 64 });
  const value = r.int('v_head_dim', { fallback: 128 });
  const rope = ropeLine(r, { theta: 10_000, headDim: rot.value, style: interleaved ? 'interleaved' : 'half', latent: true });
  return {
    variant: 'mla',
    attention: [
      line(`heads ${heads.value}`, heads.from),
      ...(qLora === undefined ? [] : [line(`q-lora ${qLora.value}`, qLora.from)]),
      line(`kv-lora ${kvLora.value}`, kvLora.from),
      line(`nope ${nope.value}`, nope.from),
      line(`value ${value.value}`, value.from),
      rope.line,
      ...(rope.plainScale ? [line(`scale ${numeral((nope.value + rot.value) ** -0.5)}`, 'attention_factor')] : []),
    ],
  };
}

export interface WindowOptions {
  /** Which layers have the window where `layer_types` does not say; `ask` tells that it is not known. */
  readonly layers: 'all' | 'alternate' | 'from-max-window-layers' | 'ask';
  /** The window counts only with `use_sliding_window`. */
  readonly optIn?: boolean;
  /** Of the config class, where the field is absent. */
  readonly fallback?: number;
}

/** Per layer the attention clause that differs from the model's: a window, from `sliding_window` and `layer_types`. */
export function windows(r: Reader, depth: number, o: WindowOptions): (string | undefined)[] {
  const plain: undefined[] = Array.from({ length: depth }, () => undefined);
  const types = r.list('layer_types');
  const enabled = r.flag('use_sliding_window', o.optIn !== true).value;
  const from = r.int('max_window_layers', { fallback: depth, min: 0 }).value;
  const window = r.optionalInt('sliding_window')?.value ?? (r.isNull('sliding_window') ? undefined : o.fallback);
  if (types !== undefined && types.length !== depth) r.wrong('layer_types', `lists ${types.length} layers, but there are ${depth}`);
  const odd = types?.find((k) => k !== 'full_attention' && k !== 'sliding_attention');
  if (odd !== undefined) r.cannot('layer_types', `layers of type ${JSON.stringify(odd)} are written as full attention; ${RESULTS}`);
  if (!enabled || window === undefined || window === 0) return plain;
  if (types === undefined && o.layers === 'ask') {
    r.cannot('use_sliding_window', 'which layers it concerns is not said; none is given a window');
    return plain;
  }
  const slides = (l: number): boolean => {
    if (types !== undefined) return types[l] === 'sliding_attention';
    return o.layers === 'all' || (o.layers === 'alternate' ? l % 2 === 0 : l >= from);
  };
  return plain.map((_, l) => (slides(l) ? `window ${window}` : undefined));
}
