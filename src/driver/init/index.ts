/** `moec init`: a commented spec from a Hugging Face config.json, or from a template. */
import { error, note } from '../../diagnostics/make.ts';
import { suggest } from '../../diagnostics/suggest.ts';
import type { Diagnostic } from '../../diagnostics/types.ts';
import { resolve } from '../../model/resolve.ts';
import { format, parse } from '../../parser/index.ts';
import { renderDraft } from './draft.ts';
import { FAMILIES, OUT_OF_REACH } from './families/index.ts';
import { createReader, isObject, type Json } from './reader.ts';
import { TEMPLATES } from './templates.ts';

export interface InitOptions {
  /** Name of the model; by default what the config says, else its family. */
  readonly name?: string;
}

export interface InitResult {
  /** Empty after an error. */
  readonly text: string;
  /** What a reader should know, in plain sentences. */
  readonly notes: readonly string[];
  /** Errors, and a warning for everything that the spec could not express. */
  readonly diagnostics: readonly Diagnostic[];
}

const failed = (...diagnostics: readonly Diagnostic[]): InitResult => ({ text: '', notes: [], diagnostics });

/** Fields that change nothing in what a model computes at inference. */
const WITHOUT_EFFECT = `
  architectures auto_map model_type _name_or_path _attn_implementation transformers_version torch_dtype dtype use_cache
  bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id initializer_range init_method_std attention_dropout
  attn_dropout hidden_dropout resid_pdrop embd_pdrop dropout output_router_logits router_aux_loss_coef aux_loss_alpha seq_aux
  router_z_loss_coef pretraining_tp ep_size expert_parallel_size output_attentions output_hidden_states return_dict
  is_decoder is_encoder_decoder chunk_size_feed_forward gradient_checkpointing problem_type id2label label2id num_labels
  use_flash_attention rope_interleave norm_topk_prob topk_method scoring_func n_group topk_group head_dim hidden_act
  max_window_layers
`
  .trim()
  .split(/\s+/);

/** The object that describes the text model: the config itself, or `text_config` of a multimodal one. */
function textConfig(config: Json): { readonly config: Json; readonly type: string } {
  const inner = config['text_config'];
  const type = (c: Json): string => (typeof c['model_type'] === 'string' ? c['model_type'] : '');
  if (!FAMILIES.has(type(config)) && isObject(inner) && FAMILIES.has(type(inner))) return { config: inner, type: type(inner) };
  return { config, type: type(config) };
}

function unknownFamily(type: string, config: Json): Diagnostic {
  const reason = OUT_OF_REACH.get(type);
  if (reason !== undefined) return error('MOE2051', `models of type \`${type}\` are beyond the language`, { why: `${reason}.` });
  if (config['model_type'] === undefined) {
    return error('MOE2050', 'config.json has no `model_type`', { why: 'it names the family, whose rules the other fields belong to.' });
  }
  const shown = JSON.stringify(config['model_type']) ?? '';
  const near = suggest(type, FAMILIES.keys());
  return error('MOE2051', `models of type ${shown.length > 60 ? `${shown.slice(0, 57)}...` : shown} are not known`, {
    notes: [...near.map((n) => `did you mean \`${n}\`?`), `known types: ${[...FAMILIES.keys()].join(', ')}`],
  });
}

const modelName = (config: Json, type: string, options: InitOptions): string => {
  const path = config['_name_or_path'];
  const last =
    typeof path === 'string'
      ? path
          .split(/[\\/]/)
          .filter((p) => p !== '')
          .pop()
      : undefined;
  return (options.name ?? last ?? type).slice(0, 200);
};

/** Errors that the language finds in a spec made from numbers that contradict each other. */
function selfCheck(text: string): Diagnostic[] {
  const parsed = parse(text, 'config.json');
  const resolved = parsed.ast === undefined ? [] : resolve(parsed.ast).diagnostics;
  return [...parsed.diagnostics, ...resolved]
    .filter((d) => d.severity === 'error')
    .map((d) => ({
      ...error(d.code, d.message, d.why === undefined ? {} : { why: d.why }),
      notes: ['the numbers of config.json contradict each other'],
    }));
}

/**
 * Writes a spec from the parsed contents of a config.json, or from its text. Fields have their family's meaning and defaults; every line
 * says which field it comes from. What the language cannot say is a warning (MOE2054); the spec then describes another function.
 */
export function initFromConfig(config: unknown, options: InitOptions = {}): InitResult {
  let value = config;
  if (typeof config === 'string') {
    try {
      value = JSON.parse(config);
    } catch (cause) {
      return failed(error('MOE2050', 'config.json is not JSON', { why: `${cause instanceof Error ? cause.message : String(cause)}.` }));
    }
  }
  if (!isObject(value)) {
    const kind = value === undefined ? 'nothing' : value === null ? 'null' : Array.isArray(value) ? 'a list' : `a ${typeof value}`;
    return failed(error('MOE2050', `config.json holds ${kind}, not an object`));
  }
  const { config: own, type } = textConfig(value);
  const family = FAMILIES.get(type);
  if (family === undefined) return failed(unknownFamily(type, own));
  const reader = createReader(own);
  const draft = family.draft(reader);
  const errors = reader.diagnostics.filter((d) => d.severity === 'error');
  if (errors.length > 0) return failed(...reader.diagnostics);
  reader.ignore(...WITHOUT_EFFECT);
  const unread = reader.unread();
  const notes = [...reader.notes, ...(unread.length === 0 ? [] : [`not read: ${unread.join(', ')}`])];
  const cannot = reader.diagnostics.map((d) => d.message);
  const preamble = [
    `Written from config.json (model_type ${type}). Comments name the fields that lines come from.`,
    ...cannot.map((c) => `NOT EXPRESSED: ${c}.`),
    ...notes.map((n) => `${n.charAt(0).toUpperCase()}${n.slice(1)}.`),
  ];
  const raw = renderDraft(draft, modelName(own, type, options), preamble);
  const wrong = selfCheck(raw);
  if (wrong.length > 0) return failed(...reader.diagnostics, ...wrong);
  const formatted = format(raw, 'config.json');
  const dense = family.dense === true ? [note('MOE2056', `\`${type}\` is a dense family: the spec has no experts`)] : [];
  return { text: formatted.diagnostics.length === 0 ? formatted.text : raw, notes, diagnostics: [...reader.diagnostics, ...dense] };
}

/** Names of the templates, in the order in which they are listed. */
export const templateNames: readonly string[] = [...TEMPLATES.keys()];

/** The text of a template. */
export function initTemplate(name: string): InitResult {
  const text = TEMPLATES.get(name);
  if (text !== undefined) return { text, notes: [], diagnostics: [] };
  const near = suggest(name, templateNames);
  return failed(
    error('MOE2055', `there is no template \`${name}\``, {
      notes: [...near.map((n) => `did you mean \`${n}\`?`), `templates: ${templateNames.join(', ')}`],
    }),
  );
}
