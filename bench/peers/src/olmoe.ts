/** A small OLMoE with random weights: as moec reads it (names of its checkpoints), and as a GGUF file of the same numbers. */
import { hashText, signedUnit } from '../../../src/runtime/core/random.ts';
import { proceduralIds } from '../../../src/runtime/core/procedural.ts';
import { type GgufTensor, type Meta, writeGguf } from './gguf.ts';
import { packRows } from '../../../src/runtime/core/quant.ts';

/** About 30 million parameters. */
export const OLMOE = { hidden: 512, layers: 4, experts: 8, active: 2, width: 512, vocab: 1024, heads: 8, headDim: 64, context: 256 } as const;

const EPS = 1e-5;
const THETA = 10_000;
const SEED = 11;

export type ModelStorage = 'f32' | 'int4' | 'int8';

export const olmoeSpec = (storage: ModelStorage): string => `model small_olmoe {
  vocab ${OLMOE.vocab}  hidden ${OLMOE.hidden}  context ${OLMOE.context}  depth ${OLMOE.layers}
  dtype f32${storage === 'f32' ? '' : ` experts ${storage} group 32 scales f16`}
  norm rms 1e-5
  attention mha { heads ${OLMOE.heads} x ${OLMOE.headDim}  qk-norm full  rope ${THETA} }
  moe {
    experts ${OLMOE.experts} of swiglu ${OLMOE.width}  active ${OLMOE.active}
    router softmax top-k
  }
}
`;

export interface Tensor {
  readonly data: Float32Array<ArrayBuffer>;
  readonly shape: readonly number[];
}

function random(name: string, shape: readonly number[]): Tensor {
  const key = hashText(name, SEED);
  const depth = shape.at(-1) ?? 1;
  const count = shape.reduce((a, b) => a * b, 1);
  const isNorm = shape.length === 1;
  const scale = isNorm ? 0.125 : Math.sqrt(3 / depth);
  return { shape, data: Float32Array.from({ length: count }, (_, i) => (isNorm ? 1 : 0) + signedUnit(key, i) * scale) };
}

/** By the names of OLMoE's checkpoints. */
export function olmoeTensors(): Map<string, Tensor> {
  const { hidden, layers, experts, width, vocab } = OLMOE;
  const shapes: [string, readonly number[]][] = [['model.embed_tokens.weight', [vocab, hidden]]];
  for (let l = 0; l < layers; l++) {
    const at = `model.layers.${l}.`;
    shapes.push([`${at}input_layernorm.weight`, [hidden]]);
    for (const p of ['q', 'k', 'v', 'o']) shapes.push([`${at}self_attn.${p}_proj.weight`, [hidden, hidden]]);
    for (const p of ['q', 'k']) shapes.push([`${at}self_attn.${p}_norm.weight`, [hidden]]);
    shapes.push([`${at}post_attention_layernorm.weight`, [hidden]], [`${at}mlp.gate.weight`, [experts, hidden]]);
    for (let e = 0; e < experts; e++) {
      for (const p of ['gate', 'up']) shapes.push([`${at}mlp.experts.${e}.${p}_proj.weight`, [width, hidden]]);
      shapes.push([`${at}mlp.experts.${e}.down_proj.weight`, [hidden, width]]);
    }
  }
  shapes.push(['model.norm.weight', [hidden]], ['lm_head.weight', [vocab, hidden]]);
  return new Map(shapes.map(([name, shape]) => [name, random(name, shape)]));
}

export const prompt = (tokens: number): Int32Array => proceduralIds(SEED, tokens, OLMOE.vocab);

const bytesOf = (data: ArrayBufferView): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

const refuse = (index: number): never => {
  throw new Error(`weight ${index} cannot be quantised`);
};

/** Blocks of 32 as ggml has them, from the same whole numbers and scales that moec makes: Q4_0 keeps value j beside value j + 16. */
export function ggmlBlocks(data: Float32Array, depth: number, storage: 'int4' | 'int8'): Uint8Array {
  const name = storage === 'int4' ? 'int4_f16' : 'int8_f16';
  const rows = data.length / depth;
  const words = packRows(name, data, rows, depth, refuse);
  const bits = storage === 'int4' ? 4 : 8;
  const perWord = 32 / bits;
  const groups = depth / 32;
  const perRow = (depth * bits) / 32 + Math.ceil(groups / 2);
  const blockBytes = 2 + 4 * bits;
  const out = new Uint8Array(rows * groups * blockBytes);
  for (let row = 0; row < rows; row++) {
    for (let g = 0; g < groups; g++) {
      const to = (row * groups + g) * blockBytes;
      const scale = (words[row * perRow + (depth * bits) / 32 + (g >> 1)] ?? 0) >>> (16 * (g % 2));
      out[to] = scale & 0xff;
      out[to + 1] = (scale >>> 8) & 0xff;
      const field = (i: number): number => ((words[row * perRow + Math.floor((g * 32 + i) / perWord)] ?? 0) >>> (((g * 32 + i) % perWord) * bits)) & (2 ** bits - 1);
      if (bits === 8) for (let i = 0; i < 32; i++) out[to + 2 + i] = field(i);
      else for (let i = 0; i < 16; i++) out[to + 2 + i] = field(i) | (field(i + 16) << 4);
    }
  }
  return out;
}

/** A vocabulary that is only there to be counted. */
function vocabulary(): Readonly<Record<string, Meta>> {
  const { vocab } = OLMOE;
  const tokens = ['<unk>', '<s>', '</s>', ...Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`)];
  const types = [2, 3, 3, ...Array.from({ length: 256 }, () => 6)];
  while (tokens.length < vocab) {
    types.push(1);
    tokens.push(`▁t${tokens.length}`);
  }
  return {
    'tokenizer.ggml.model': { type: 'string', value: 'llama' },
    'tokenizer.ggml.tokens': { type: 'strings', value: tokens },
    'tokenizer.ggml.scores': { type: 'f32s', value: tokens.map((_, i) => -i) },
    'tokenizer.ggml.token_type': { type: 'i32s', value: types },
    'tokenizer.ggml.bos_token_id': { type: 'u32', value: 1 },
    'tokenizer.ggml.eos_token_id': { type: 'u32', value: 2 },
    'tokenizer.ggml.unknown_token_id': { type: 'u32', value: 0 },
    'tokenizer.ggml.add_bos_token': { type: 'bool', value: false },
  };
}

export function writeOlmoeGguf(path: string, tensors: ReadonlyMap<string, Tensor>, storage: ModelStorage): void {
  const { hidden, layers, experts, active, width, heads, headDim, context } = OLMOE;
  const number = (value: number): Meta => ({ type: 'u32', value });
  const metadata: Readonly<Record<string, Meta>> = {
    'general.architecture': { type: 'string', value: 'olmoe' },
    'general.name': { type: 'string', value: 'a small OLMoE with random weights' },
    'olmoe.context_length': number(context),
    'olmoe.embedding_length': number(hidden),
    'olmoe.block_count': number(layers),
    'olmoe.feed_forward_length': number(width),
    'olmoe.attention.head_count': number(heads),
    'olmoe.attention.head_count_kv': number(heads),
    'olmoe.attention.layer_norm_rms_epsilon': { type: 'f32', value: EPS },
    'olmoe.rope.freq_base': { type: 'f32', value: THETA },
    'olmoe.rope.dimension_count': number(headDim),
    'olmoe.expert_count': number(experts),
    'olmoe.expert_used_count': number(active),
    'olmoe.vocab_size': number(OLMOE.vocab),
    ...vocabulary(),
  };
  const of = (name: string): Tensor => {
    const found = tensors.get(name);
    if (found === undefined) throw new Error(`no tensor ${name}`);
    return found;
  };
  const whole = (name: string, from: string): GgufTensor => ({ name, dims: [...of(from).shape].reverse(), type: 'f32', data: bytesOf(of(from).data) });
  const out: GgufTensor[] = [whole('token_embd.weight', 'model.embed_tokens.weight')];
  for (let l = 0; l < layers; l++) {
    const [to, from] = [`blk.${l}.`, `model.layers.${l}.`];
    out.push(whole(`${to}attn_norm.weight`, `${from}input_layernorm.weight`));
    for (const [a, b] of [['q', 'q_proj'], ['k', 'k_proj'], ['v', 'v_proj'], ['output', 'o_proj'], ['q_norm', 'q_norm'], ['k_norm', 'k_norm']]) out.push(whole(`${to}attn_${a}.weight`, `${from}self_attn.${b}.weight`));
    out.push(whole(`${to}ffn_norm.weight`, `${from}post_attention_layernorm.weight`), whole(`${to}ffn_gate_inp.weight`, `${from}mlp.gate.weight`));
    for (const p of ['gate', 'up', 'down']) {
      const each = Array.from({ length: experts }, (_, e) => of(`${from}mlp.experts.${e}.${p}_proj.weight`));
      const [n = 0, k = 0] = each[0]?.shape ?? [];
      const parts = each.map(({ data }) => (storage === 'f32' ? bytesOf(data) : ggmlBlocks(data, k, storage)));
      out.push({ name: `${to}ffn_${p}_exps.weight`, dims: [k, n, experts], type: storage === 'f32' ? 'f32' : storage === 'int4' ? 'q4_0' : 'q8_0', data: Buffer.concat(parts) });
    }
  }
  out.push(whole('output_norm.weight', 'model.norm.weight'), whole('output.weight', 'lm_head.weight'));
  writeGguf(path, metadata, out);
}

