/** Parameters and FLOPs against published figures. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { initFromConfig } from '../../src/driver/init/index.ts';
import { analyze } from '../../src/model/index.ts';
import type { Spec } from '../../src/model/types.ts';
import { specOf } from './helpers.ts';
import { PUBLISHED, UNREACHED } from './published-configs.ts';

const ROOT = join(import.meta.dirname, '../..');
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');
const example = (name: string): Spec => specOf(read(`examples/${name}.moe`));

interface Row {
  readonly model: string;
  readonly seq: number;
  readonly params_total: number;
  readonly params_active: number;
  readonly flops_paper_rule: number;
  readonly flops_actual_dims: number;
  readonly table: Readonly<Record<string, string>>;
  readonly check: Readonly<Record<string, { readonly match: boolean }>>;
}
const rows: readonly Row[] = JSON.parse(read('tests/golden/seed_table.json')).rows;
const row = (name: string): Row => rows.find((r) => r.model === name) ?? rows[0]!;

/** The 2B models with an FFN that has exactly 8 d² parameters: two matrices of width 4 d. */
const small = (ffn: string): Spec =>
  specOf(`model m { vocab 8192 hidden 1280 context 2048 depth 9 attention mha { heads 10 x 128 } ${ffn} }`);
const large = (size: string, body: string): Spec => specOf(`model m { vocab 102400 context 4096 ${size} ${body} }`);
const big = (first: number, moe: string): Spec =>
  large(
    'hidden 4096 depth 62 attention mha { heads 32 x 128 }',
    `layer 0 { ffn ${first} } layers rest { moe { ${moe} router softmax top-k } }`.replace('ffn ', 'ffn swiglu '),
  );

const EXACT: Readonly<Record<string, Spec>> = {
  'Dense 0.2B': small('ffn mlp gelu 5120'),
  'Hash Layer 2.0B': small('moe { experts 16 of mlp gelu 5120 router hash table "h" }'),
  'Switch 2.0B': small('moe { experts 16 of mlp gelu 5120 active 1 }'),
  'GShard 2.0B': small('moe { experts 16 of mlp gelu 5120 active 2 router softmax top-k renormalize }'),
  'DeepSeekMoE 2.0B': small('moe { segment m 4 of N 16 of mlp gelu 5120 active K 2 shared Ks 1 }'),
  'GShard x1.5': small('moe { experts 16 of mlp gelu 7680 active 2 }'),
  'Dense x16': small('ffn mlp gelu 81920'),
  'DeepSeek 7B': example('deepseek-7b'),
  'DeepSeekMoE 16B': example('deepseek-moe-16b'),
  'LLaMA2 7B': specOf('model m { vocab 32000 hidden 4096 context 4096 depth 32 attention mha { heads 32 x 128 } ffn swiglu 11008 }'),
  'DeepSeek 67B': large('hidden 8192 depth 95', 'attention gqa { heads 64 x 128 kv 8 } ffn swiglu 22016'),
  'GShard 137B': large(
    'hidden 4096 depth 62 attention mha { heads 32 x 128 }',
    'layer 0 { ffn mlp gelu 32768 } layers rest { moe { experts 16 of mlp gelu 16384 active 2 } }',
  ),
  'DeepSeekMoE 145B': example('deepseek-moe-145b'),
  'DeepSeekMoE 142B half': big(11_264, 'experts 128 of swiglu 1408 active 6 shared 2'),
};

/** `2.0B`, `74.4T`: a number as the paper prints it, with the digits of another print. */
function printed(value: number, like: string): string {
  const unit = like.slice(-1);
  const digits = (like.split('.')[1] ?? ' ').length - 1;
  return `${(value / (unit === 'T' ? 1e12 : 1e9)).toFixed(digits)}${unit}`;
}

describe('the tables of DeepSeekMoE', () => {
  it.each(rows.map((r) => [r.model, r] as const))('%s: every integer', (name, r) => {
    const spec = EXACT[name];
    expect(spec, `a spec for ${name}`).toBeDefined();
    const a = analyze(spec!, r.seq);
    expect(a.params.total).toBe(r.params_total);
    expect(a.params.active).toBe(r.params_active);
    expect(a.flops.paper).toBe(r.flops_paper_rule);
    expect(a.flops.exact).toBe(r.flops_actual_dims);
    expect(a.flops.forward * 3).toBe(a.flops.exact);
    for (const [key, figure] of Object.entries(r.table)) {
      if (r.check[key]?.match !== true) continue;
      const value = {
        total: a.params.total,
        active: a.params.active,
        flops: a.flops.paper,
        expert: ffnOf(a),
        active_expert: activeFfnOf(a),
      }[key];
      expect(printed(value ?? 0, figure), key).toBe(figure);
    }
  });

  it('the FLOPs that the nominal rule misses are those of the real widths', () => {
    expect(printed(analyze(EXACT['DeepSeekMoE 142B half']!, 4096).flops.exact, '374.6T')).toBe('374.6T');
    expect(analyze(EXACT['DeepSeekMoE 145B']!, 4096).flops.exact / 585.6e12).toBeCloseTo(1, 3);
  });

  it.each([
    ['dense', 'Dense 0.2B'],
    ['hash', 'Hash Layer 2.0B'],
    ['switch', 'Switch 2.0B'],
    ['gshard', 'GShard 2.0B'],
    ['deepseekmoe', 'DeepSeekMoE 2.0B'],
  ])('examples/table1/%s.moe prints the figures of Table 1', (file, model) => {
    const a = analyze(example(`table1/${file}`));
    const r = row(model);
    expect(a.tokens).toBe(r.seq);
    expect(a.flops.paper).toBe(r.flops_paper_rule);
    expect([printed(a.params.total, '2.0B'), printed(a.params.active, '0.2B'), printed(a.flops.paper, '2.9T')]).toEqual([
      r.table['total'],
      r.table['active'],
      r.table['flops'],
    ]);
    expect(Math.abs(a.params.total / r.params_total - 1)).toBeLessThan(6e-4);
  });

  it('only the widths 853 and 854 keep the figures of the 2B model', () => {
    const figures = (width: number): string[] => {
      const a = analyze(small(`moe { segment m 4 of N 16 into swiglu ${width} active K 2 shared Ks 1 }`));
      const expert = a.params.experts + a.params.byPart.shared;
      return [printed(expert, '1.89B'), printed((expert * 8) / 64, '0.24B'), printed(a.flops.exact, '4.3T')];
    };
    expect(figures(853)).toEqual(['1.89B', '0.24B', '4.3T']);
    expect(figures(854)).toEqual(['1.89B', '0.24B', '4.3T']);
    expect(figures(896)).not.toEqual(['1.89B', '0.24B', '4.3T']);
  });

  it('16B costs 40.5 % of 7B', () => {
    const paper = (name: string): number => analyze(EXACT[name]!, 4096).flops.paper;
    expect(((100 * paper('DeepSeekMoE 16B')) / paper('DeepSeek 7B')).toFixed(1)).toBe('40.6');
    expect((100 * 74.4) / 183.5).toBeCloseTo(40.5, 1);
  });
});

const ffnOf = (a: ReturnType<typeof analyze>): number => a.params.experts + a.params.byPart.shared + a.params.byPart.dense;
const activeFfnOf = (a: ReturnType<typeof analyze>): number => a.params.activeExperts + a.params.byPart.shared + a.params.byPart.dense;

interface Counts {
  readonly total: number;
  readonly active: number;
  readonly active_no_input_emb: number;
  readonly moe_layers: number;
}
const counts: Readonly<Record<string, Counts>> = JSON.parse(read('tests/golden/param_counts.json'));
const EXAMPLES: Readonly<Record<string, string>> = {
  'DeepSeek-V2-Lite': 'deepseek-v2-lite',
  'DeepSeek-V2': 'deepseek-v2',
  'DeepSeek-V3/R1': 'deepseek-v3',
  'Mixtral-8x7B': 'mixtral-8x7b',
  'Qwen1.5-MoE-A2.7B': 'qwen1.5-moe-a2.7b',
  'Qwen3-30B-A3B': 'qwen3-30b-a3b',
  'OLMoE-1B-7B': 'olmoe-1b-7b',
  'gpt-oss-20b': 'gpt-oss-20b',
  'granite-3.1-3b-a800m': 'granite-3.1-3b-a800m',
};

function check(spec: Spec, want: Counts): void {
  const { params } = analyze(spec, 1);
  expect(params.total).toBe(want.total);
  expect(params.active).toBe(want.active);
  expect(params.activeWithoutInputEmbedding).toBe(want.active_no_input_emb);
  if (spec.kind !== 'model') throw new Error('not a model');
  expect(spec.layers.filter((k) => spec.kinds[k]?.ffn.kind === 'moe').length).toBe(want.moe_layers);
}

describe('released models', () => {
  it.each(Object.entries(EXAMPLES))('%s: example %s', (name, file) => check(example(file), counts[name]!));

  it.each(Object.entries(PUBLISHED))('%s: from its config.json', (name, config) => {
    const made = initFromConfig(config);
    expect(made.diagnostics.filter((d) => d.severity === 'error')).toEqual([]);
    check(specOf(made.text), counts[name]!);
  });

  it('every model of the list is counted, or is known to be out of reach', () => {
    expect(new Set([...Object.keys(EXAMPLES), ...Object.keys(PUBLISHED), ...Object.keys(UNREACHED)])).toEqual(
      new Set(Object.keys(counts)),
    );
  });

  it('gpt-oss is advertised without its input embedding, DeepSeekMoE 16B with both', () => {
    expect(analyze(example('gpt-oss-20b'), 1).params.activeWithoutInputEmbedding).toBe(3_608_307_264);
    const moe16 = analyze(example('deepseek-moe-16b'), 1).params;
    expect(moe16.active - moe16.activeWithoutEmbeddings).toBe(2 * 102_400 * 2048);
  });
});

describe('tiny models', () => {
  const dir = join(ROOT, 'tests/golden/models');
  it.each(readdirSync(dir))('%s: every tensor of the checkpoint is counted, part by part', (name) => {
    const info: { readonly tensors: Readonly<Record<string, readonly number[]>> } = JSON.parse(
      read(`tests/golden/models/${name}/info.json`),
    );
    const { byPart } = analyze(specOf(initFromConfig(read(`tests/golden/models/${name}/config.json`)).text), 1).params;
    const want: Record<string, number> = { embedding: 0, head: 0, attention: 0, norm: 0, dense: 0, experts: 0, shared: 0, router: 0 };
    const partOf = (tensor: string): string => {
      if (tensor.includes('embed_tokens')) return 'embedding';
      if (tensor.startsWith('lm_head')) return 'head';
      if (tensor.includes('.self_attn.')) return 'attention';
      if (/layernorm|model\.norm/.test(tensor)) return 'norm';
      if (tensor.includes('shared_expert')) return 'shared';
      if (/\.experts\.|input_linear|output_linear/.test(tensor)) return 'experts';
      if (/\.gate\.|\.router\./.test(tensor)) return 'router';
      return 'dense';
    };
    for (const [tensor, shape] of Object.entries(info.tensors)) want[partOf(tensor)]! += shape.reduce((a, b) => a * b, 1);
    expect(byPart).toEqual(want);
  });
});
