/** The backend that judges: it objects to what a device would hide. */
import { describe, expect, it } from 'vitest';
import { type Compiled, compileSpec } from '../../src/driver/compile.ts';
import type { LayerSpec } from '../../src/model/types.ts';
import { proceduralProvider } from '../../src/runtime/core/provider.ts';
import { evalSize } from '../../src/runtime/core/size.ts';
import { deviceLayer, openSession } from './benches.ts';
import { layerOf } from './cases.ts';
import { InterpreterBackend } from './interpreter-backend.ts';
import { proceduralLayerInput } from './procedural.ts';

const SPEC = layerOf('layer t { hidden 12  moe { experts 6 of swiglu 5  active 2  shared 1  router softmax top-k } }', 'backend');
const RESIDUAL = layerOf('layer t { hidden 12  residual  moe { experts 6 of swiglu 5  active 2  router softmax top-k } }', 'backend');
const TOKENS = 5;

/** The forms for any device alone. */
const compile = (spec: LayerSpec): Compiled => compileSpec(spec, { plans: [] });

async function run(compiled: Compiled, tokens: number): Promise<void> {
  const backend = new InterpreterBackend(compiled, { variant: 'portable' });
  const layer = deviceLayer(await openSession(compiled, backend, proceduralProvider(1, 6)));
  await layer.run(proceduralLayerInput(SPEC, 1, tokens));
}

type Bucket = Compiled['manifest']['sections'][number]['buckets'][number];

/** The compiled layer with its decode form changed. */
function changed(change: (bucket: Bucket) => Bucket, spec: LayerSpec = SPEC): Compiled {
  const compiled = compile(spec);
  const sections = compiled.manifest.sections.map((s) => ({ ...s, buckets: s.buckets.map((b, i) => (i === 0 ? change(b) : b)) }));
  return { ...compiled, manifest: { ...compiled.manifest, sections } };
}

const env = { T: TOKENS, past: 0, seq: TOKENS, cap: 0 };

describe('the interpreter as a device', () => {
  it('runs what is right', async () => {
    await expect(run(compile(SPEC), TOKENS)).resolves.toBeUndefined();
    await expect(run(compile(SPEC), 11)).resolves.toBeUndefined();
  });

  it('objects to every scratch buffer that is one element short', async () => {
    const count = compile(SPEC).manifest.sections[0]?.buckets[0]?.scratch.length ?? 0;
    expect(count).toBeGreaterThan(0);
    for (let slot = 0; slot < count; slot++) {
      const short = changed((b) => ({
        ...b,
        scratch: b.scratch.map((s, i) => (i === slot ? { ...s, size: evalSize(s.size, env) - 1 } : s)),
      }));
      await expect(run(short, TOKENS)).rejects.toThrow(/which has \d+ cells/);
    }
  });

  it('objects to results that nobody wrote: a step that runs too few blocks', async () => {
    const compiled = compile(SPEC);
    const steps = compiled.manifest.sections[0]?.buckets[0]?.steps.length ?? 0;
    const input = proceduralLayerInput(SPEC, 1, TOKENS);
    for (let at = 0; at < steps; at++) {
      const lazy = changed((b) => ({ ...b, steps: b.steps.map((s, i) => (i === at ? { ...s, grid: [0, 1, 1] as const } : s)) }));
      const layer = deviceLayer(await openSession(lazy, new InterpreterBackend(lazy, { variant: 'portable' }), proceduralProvider(1, 6)));
      // Garbage in an id may be out of bounds; garbage in a number is NaN in the result.
      const seen = await layer.run(input).then(
        (o) => [...o.y, ...o.routeWeights],
        () => [NaN],
      );
      expect(seen.some(Number.isNaN)).toBe(true);
    }
  });

  it('objects to a buffer bound twice where one of the two is written', async () => {
    const twice = changed(
      (b) => ({
        ...b,
        steps: b.steps.map((s) => ({
          ...s,
          args: s.args.map((a) => (a.kind === 'io' && a.name === 'y' ? ({ kind: 'io', name: 'x' } as const) : a)),
        })),
      }),
      RESIDUAL,
    );
    await expect(run(twice, TOKENS)).rejects.toThrow(/are one buffer/);
  });

  it('objects to a buffer used after its end, and to a text of another kernel', async () => {
    const compiled = compile(SPEC);
    const backend = new InterpreterBackend(compiled, { variant: 'portable' });
    const [buffer] = await backend.createBuffers([{ bytes: 16, label: 'moec:x' }]);
    if (buffer === undefined) throw new Error('no buffer');
    backend.destroyBuffer(buffer);
    expect(() => backend.write(buffer, 0, new Uint8Array(4))).toThrow(/after it was destroyed/);
    const [kernel] = compiled.manifest.kernels;
    const variant = kernel?.variants.at(-1);
    if (kernel === undefined || variant === undefined) throw new Error('no kernel');
    expect(() => backend.compile(kernel, variant, 'another text', 'k')).toThrow(/text of another kernel/);
  });
});
