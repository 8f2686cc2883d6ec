import { describe, expect, it } from 'vitest';
import * as math from '../../src/ir/graph/evaluate/math.ts';
import * as b from '../../src/ir/kernel/build.ts';
import { interpret } from '../../src/ir/kernel/interpret.ts';
import type { Expr, Kernel } from '../../src/ir/kernel/types.ts';
import { activate, applyEpilogue, epilogueCount, sigmoid } from '../../src/kernels/epilogue.ts';
import type { Activation, Epilogue } from '../../src/kernels/epilogue.ts';
import { softplus } from '../../src/kernels/moe/route-score.ts';
import { finishKernel } from '../../src/passes/kernel/pipeline.ts';

/** y = f(x), lanes at a time. */
function apply(x: Float32Array, lanes: 1 | 4, f: (x: Expr) => Expr): Float32Array {
  const from = b.buffer('x', 'global', 'f32', lanes);
  const to = b.buffer('y', 'global', 'f32', lanes);
  const value = b.variable('value', b.ty('f32', lanes));
  const i = b.builtin('block.x');
  const kernel: Kernel = {
    name: 'apply',
    family: 'test',
    params: [from, to],
    scalars: [],
    block: 1,
    schedule: {},
    body: [b.let_('value', b.load(from, i)), b.store(to, i, f(value))],
  };
  const y = new Float32Array(x.length);
  interpret(finishKernel(kernel, { subgroups: false }), { grid: [x.length / lanes, 1, 1], memory: { x, y }, poison: ['y'] });
  return y;
}

const POINTS = Float32Array.from([
  ...Array.from({ length: 400 }, (_, i) => (i - 200) / 10),
  0,
  -0,
  1e-30,
  -1e-30,
  1e-6,
  -1e-6,
  30,
  -30,
  88,
  -88,
  100,
  -100,
  1e4,
  -1e4,
  1e19,
  -1e19,
  3e38,
  -3e38,
  0.5,
  -0.5,
]);

/** Relative to the value where it is large, absolute where it is small. */
function expectAccurate(got: Float32Array, want: (x: number) => number, tolerance: number): void {
  POINTS.forEach((x, i) => {
    const y = want(x);
    const error = Math.abs((got[i] ?? NaN) - y) / Math.max(1, Math.abs(y));
    if (!(error <= tolerance)) expect.fail(`f(${x}) is ${got[i]}, not ${y}`);
  });
}

describe('epilogues', () => {
  for (const kind of ['silu', 'gelu', 'gelu-tanh', 'relu'] satisfies Activation[]) {
    it(`${kind} is accurate from end to end, at any number of lanes`, () => {
      const y = apply(POINTS, 4, (x) => activate(kind, x));
      expectAccurate(y, (x) => math.activate(kind, x), 3e-7);
      expect(apply(POINTS, 1, (x) => activate(kind, x))).toEqual(y);
    });
  }

  it('keeps the relative accuracy of tails', () => {
    const x = Float32Array.from({ length: 48 }, (_, i) => -i / 4 - 0.25);
    const close = (y: Float32Array, f: (x: number) => number): void =>
      x.forEach((v, i) => expect(Math.abs((y[i] ?? NaN) / f(v) - 1)).toBeLessThan(2e-5));
    close(
      apply(x, 4, (v) => activate('gelu', v)),
      (v) => math.activate('gelu', v),
    );
    close(apply(x, 4, sigmoid), math.sigmoid);
    close(apply(x, 1, softplus), math.softplus);
    close(
      apply(
        x.map((v) => -v),
        1,
        softplus,
      ),
      (v) => math.softplus(-v),
    );
  });

  it('clamps gate and up before the unit', () => {
    const clamp = { limit: 7, alpha: 1.702, upOffset: 1 };
    const epilogue: Epilogue = { kind: 'glu', activation: 'silu', clamp };
    expect(epilogueCount(epilogue)).toBe(2);
    const y = apply(POINTS, 4, (x) => applyEpilogue(epilogue, [x, b.mul(x, b.splat(4, b.f32(-0.75)))]));
    expectAccurate(y, (x) => math.gatedUnit('silu', clamp, x, Math.fround(x * -0.75)), 1e-6);
  });

  it('refuses values that are missing', () => {
    expect(() => applyEpilogue({ kind: 'none' }, [])).toThrow(/needs a value/);
    expect(() => applyEpilogue({ kind: 'glu', activation: 'silu' }, [b.f32(1)])).toThrow(/gate and an up/);
  });
});
