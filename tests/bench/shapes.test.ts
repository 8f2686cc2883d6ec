/** The shapes that the GPU benchmark's scripts read are those of its specs, and its dense specs are the compiler's own dense twins. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readSpecs } from '../../src/driver/frontend.ts';
import { denseTwin } from '../../src/driver/variants.ts';
import type { Spec } from '../../src/model/types.ts';

interface Shape {
  readonly name: string;
  readonly hidden: number;
  readonly width: number;
  readonly experts: number;
  readonly active: number;
  readonly shared: number;
}

const GPU = resolve(import.meta.dirname, '../../bench/gpu');
const shapes = JSON.parse(readFileSync(join(GPU, 'shapes.json'), 'utf8')) as readonly Shape[];

function specOf(name: string): Spec {
  const { specs, diagnostics } = readSpecs(readFileSync(join(GPU, 'specs', `${name}.moe`), 'utf8'), `${name}.moe`);
  const [spec] = specs;
  if (spec === undefined) throw new Error(`${name}: ${diagnostics.map((d) => d.message).join('; ')}`);
  return spec;
}

describe('shapes of the GPU benchmark', () => {
  it.each(shapes)('$name', (shape) => {
    const spec = specOf(shape.name);
    if (spec.kind !== 'layer' || spec.ffn.kind !== 'moe') throw new Error('not a layer of experts');
    const { ffn } = spec;
    expect({ hidden: spec.hidden, width: ffn.expert.width, experts: ffn.experts, active: ffn.active, shared: ffn.shared?.ffn.width ?? 0 })
      .toEqual({ hidden: shape.hidden, width: shape.width, experts: shape.experts, active: shape.active, shared: shape.shared });

    const twin = denseTwin(spec);
    const dense = specOf(`${shape.name}.dense`);
    if (twin.kind !== 'layer' || dense.kind !== 'layer' || twin.ffn.kind !== 'dense' || dense.ffn.kind !== 'dense') throw new Error('not dense');
    expect({ hidden: dense.hidden, width: dense.ffn.ffn.width, gated: dense.ffn.ffn.gated }).toEqual({ hidden: twin.hidden, width: twin.ffn.ffn.width, gated: twin.ffn.ffn.gated });
  });
});
