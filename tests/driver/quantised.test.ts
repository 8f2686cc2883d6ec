/** What packages and benchmarks of quantised specs are made of: contestants, twins, golden vectors, the figure of what it costs. */
import { describe, expect, it } from 'vitest';
import { compileSpec } from '../../src/driver/compile.ts';
import { gateOf, goldenVectors, needsTwin, quantisationCost, twinOf } from '../../src/driver/golden.ts';
import { contestants } from '../../src/driver/variants.ts';
import { PackageError } from '../../src/runtime/core/errors.ts';
import { decodeGolden } from '../../src/runtime/core/golden.ts';
import { readManifest } from '../../src/runtime/core/manifest.ts';
import { F32_GATE } from '../../src/runtime/core/metrics.ts';
import { layerOf, modelOf } from '../model/helpers.ts';

const layer = (dtype: string, width = 64): ReturnType<typeof layerOf> => layerOf(`layer l { hidden 64  dtype ${dtype}  moe { experts 4 of swiglu ${width}  active 2  shared 1 } }`);

describe('contestants of a benchmark', () => {
  it('are the same spec in int4, in int8 and unquantised', () => {
    const named = (spec: ReturnType<typeof layerOf>, word: string): readonly unknown[] | undefined => contestants(spec, word)?.map((c) => c.spec.expertStorage?.values);
    expect(named(layer('f32'), 'int4')).toEqual(['int4']);
    expect(named(layer('f16 experts int4'), 'int8')).toEqual(['int8']);
    expect(named(layer('f16 experts int4'), 'full')).toEqual([undefined]);
    expect(named(layer('f32', 50), 'int4')).toBeUndefined();
    expect(named(layerOf('layer l { hidden 64  ffn swiglu 64 }'), 'int4')).toBeUndefined();
    expect(contestants(layer('f16 experts int4 scales f32'), 'int8')?.[0]?.spec.expertStorage?.scales).toBe('f32');
    expect(named(layer('f16 experts int4'), 'dense')).toEqual([undefined]);
  });
});

describe('golden vectors', () => {
  it('tell what quantising costs, and only where something is quantised', async () => {
    const golden = async (spec: ReturnType<typeof layerOf>): ReturnType<typeof decodeGolden> => {
      const { graphs, kernels } = compileSpec(spec);
      return decodeGolden(goldenVectors(spec, graphs, gateOf(spec, kernels)));
    };
    const four = await golden(layer('f32 experts int4'));
    const eight = await golden(layer('f32 experts int8'));
    expect(four.gate).toEqual(F32_GATE);
    expect(four.quantisation?.nmse).toBeGreaterThan(1e-3);
    expect(four.quantisation?.nmse).toBeLessThan(3e-2);
    expect(eight.quantisation?.nmse).toBeGreaterThan(1e-6);
    expect(eight.quantisation?.nmse).toBeLessThan(2e-4);
    expect(four.quantisation?.rowNmse).toBeGreaterThanOrEqual(four.quantisation?.nmse ?? 0);
    expect((await golden(layer('f32'))).quantisation).toBeUndefined();
    expect(quantisationCost(layer('f32 experts int4'))).toEqual(four.quantisation);
    expect(quantisationCost(layer('f32'))).toBeUndefined();
  });

  it('of large specs are those of a twin whose depths groups divide', () => {
    const large = modelOf(`model m { vocab 1000 hidden 2048 context 4096 depth 2 dtype bf16 experts int4 attention mha { heads 16 }
      moe { experts 64 of swiglu 1408  active 6  shared 2 of swiglu 1408 } }`);
    expect(needsTwin(large)).toBe(true);
    const twin = twinOf(large);
    expect(twin.expertStorage).toEqual(large.expertStorage);
    const compiled = compileSpec(twin);
    expect(compiled.manifest.sections.flatMap((s) => s.params.filter((p) => p.elem === 'int4_f16')).length).toBeGreaterThan(0);
    expect(quantisationCost(large)?.nmse).toBeGreaterThan(1e-4);
  });
});

describe('manifests', () => {
  interface Params {
    readonly sections: readonly { readonly params: readonly { readonly name: string; shape: unknown; elem: unknown }[] }[];
  }
  const changed = (change: (param: Params['sections'][number]['params'][number]) => void): unknown => {
    const manifest = JSON.parse(JSON.stringify(compileSpec(layer('f32 experts int4')).manifest)) as Params;
    const param = manifest.sections[0]?.params.find((p) => p.name === 'experts.down.weight');
    if (param === undefined) throw new Error('no bank');
    change(param);
    return manifest;
  };

  it('are refused where rows cannot be quantised', () => {
    expect(() => readManifest(changed(() => undefined))).not.toThrow();
    expect(() => readManifest(changed((p) => void (p.shape = [4, 64, 33])))).toThrow(/experts\.down\.weight.* whole groups/);
    expect(() => readManifest(changed((p) => void (p.shape = [64])))).toThrow(/whole groups/);
    expect(() => readManifest(changed((p) => void (p.elem = 'int3_f16')))).toThrow(PackageError);
  });
});
