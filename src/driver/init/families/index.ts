/** Families by `model_type`, and the known ones that a spec cannot express. */
import type { Draft } from '../draft.ts';
import type { Reader } from '../reader.ts';
import { deepseek, deepseekV2, deepseekV3, dots1, glm4Moe } from './deepseek.ts';
import { gptOss, granite, llama, llama4, mistral, phimoe, qwen2, qwen3 } from './others.ts';
import { ernie, hunyuan, minimaxM2, mixtral, olmoe, qwen2Moe, qwen3Moe } from './qwen.ts';

export interface Family {
  readonly draft: (r: Reader) => Draft;
  readonly dense?: true;
}

export const FAMILIES: ReadonlyMap<string, Family> = new Map<string, Family>([
  ['deepseek', { draft: deepseek }],
  ['deepseek_v2', { draft: deepseekV2 }],
  ['deepseek_v3', { draft: deepseekV3 }],
  ['kimi_k2', { draft: deepseekV3 }],
  ['glm4_moe', { draft: glm4Moe }],
  ['dots1', { draft: dots1 }],
  ['mixtral', { draft: mixtral }],
  ['qwen2_moe', { draft: qwen2Moe }],
  ['qwen3_moe', { draft: qwen3Moe }],
  ['olmoe', { draft: olmoe }],
  ['ernie4_5_moe', { draft: ernie }],
  ['minimax_m2', { draft: minimaxM2 }],
  ['hunyuan_v1_moe', { draft: hunyuan }],
  ['granitemoe', { draft: granite }],
  ['gpt_oss', { draft: gptOss }],
  ['phimoe', { draft: phimoe }],
  ['llama4_text', { draft: llama4 }],
  ['llama', { draft: llama, dense: true }],
  ['mistral', { draft: mistral, dense: true }],
  ['qwen2', { draft: qwen2, dense: true }],
  ['qwen3', { draft: qwen3, dense: true }],
]);

/** What stands in the way of families that are asked for. */
export const OUT_OF_REACH: ReadonlyMap<string, string> = new Map([
  ['qwen3_next', 'three of four layers are linear attention, the others gate their output'],
  ['lfm2_moe', 'most layers are convolutions'],
  ['longcat_flash', 'layers have two attentions, and some experts are the identity'],
  ['deepseek_v4', 'its attention compresses keys over time'],
  ['dbrx', 'queries, keys and values are clipped, and its tensors are stacked in a way of their own'],
  ['switch_transformers', 'it has an encoder and a decoder; declare one of its layers as a `layer` instead'],
  ['nllb-moe', 'it has an encoder and a decoder; declare one of its layers as a `layer` instead'],
  ['jetmoe', 'its attention has experts too'],
  ['jamba', 'most layers are state-space models'],
]);
