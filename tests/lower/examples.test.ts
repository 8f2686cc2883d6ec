/** Every example lowers to graphs that verify and hold exactly the parameters that the model room counts. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseGraph } from '../../src/ir/graph/parse.ts';
import { printGraph } from '../../src/ir/graph/print.ts';
import { verifyGraph } from '../../src/ir/graph/verify.ts';
import { lowerToGraphs } from '../../src/lower/model-to-graph.ts';
import { resolve } from '../../src/model/index.ts';
import type { Spec } from '../../src/model/types.ts';
import { copies, elements, weightGroups } from '../../src/model/weights.ts';
import { parse } from '../../src/parser/index.ts';

const ROOT = join(import.meta.dirname, '../../examples');
const files = readdirSync(ROOT, { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.moe'));

const specsOf = (file: string): readonly Spec[] => {
  const { ast } = parse(readFileSync(join(ROOT, file), 'utf8'), file);
  return ast === undefined ? [] : resolve(ast).specs;
};

/** Elements of all weights of a program, each canonical name counted once; hash tables are not parameters. */
function countWeights(spec: Spec): number {
  const { sections, sequence } = lowerToGraphs(spec);
  const counts = new Map<string, number>();
  for (const { section, layer } of sequence) {
    for (const { name, role, value } of sections[section]?.params ?? []) {
      if (role.kind !== 'weight' || value.type.kind !== 'tensor' || value.type.dtype === 'i32') continue;
      counts.set(
        name.replaceAll('{l}', String(layer)),
        value.type.shape.reduce<number>((n, dim) => n * Number(dim), 1),
      );
    }
  }
  return [...counts.values()].reduce((a, b) => a + b, 0);
}

describe('examples', () => {
  it('are there', () => expect(files.length).toBeGreaterThan(5));

  it.each(files)('%s', (file) => {
    const specs = specsOf(file);
    expect(specs.length).toBeGreaterThan(0);
    for (const spec of specs) {
      const counted = weightGroups(spec).reduce((sum, group) => sum + copies(group) * group.tensors.reduce((n, t) => n + elements(t), 0), 0);
      expect(countWeights(spec)).toBe(counted);
      for (const graph of lowerToGraphs(spec).sections) {
        expect(verifyGraph(graph)).toEqual([]);
        expect(printGraph(parseGraph(printGraph(graph)))).toBe(printGraph(graph));
      }
    }
  });

  it('lower in time that grows with the kinds of layers, not with layers', () => {
    const [spec] = specsOf('deepseek-v3.moe');
    if (spec?.kind !== 'model') throw new Error('no model');
    const { sections, sequence } = lowerToGraphs(spec);
    expect([sections.length, sequence.length]).toEqual([spec.kinds.length + 2, spec.layers.length + 2]);
    expect(spec.kinds.length).toBeLessThan(4);
  });
});
