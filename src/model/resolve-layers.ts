/** Which layer is described by which block: selectors, depth, gaps and overlaps. */
import { advise, label } from '../diagnostics/make.ts';
import type { Span } from '../diagnostics/types.ts';
import type * as ast from '../parser/ast.ts';
import { LIMITS, type Report, whole } from './report.ts';

/** Where a layer gets its two halves from; undefined where nothing says. */
export interface LayerSources {
  readonly attention: ast.Attention | 'model' | undefined;
  readonly ffn: ast.LayerFfn | undefined;
  readonly at: Span;
}

interface Reach {
  readonly block: ast.LayerBlock;
  /** Highest index the selector names by itself; undefined where it goes to the last layer. */
  readonly last: number | undefined;
  readonly names: (layer: number) => boolean;
}

const MAX_INDEX = LIMITS.layers - 1;

function rangeOf(report: Report, range: ast.Range): { readonly first: number; readonly last: number } | undefined {
  const first = whole(report, range.first, 'layer', { min: 0, max: MAX_INDEX });
  const last = range.last === undefined ? first : whole(report, range.last, 'layer', { min: 0, max: MAX_INDEX });
  if (first === undefined || last === undefined) return undefined;
  if (first <= last) return { first, last };
  report.error('MOE3025', `the layers ${first}..${last} run backwards`, {
    at: range.span,
    why: 'a range goes from its lower end to its higher one, both included.',
    fixes: [
      { text: `write ${last}..${first}`, applicability: 'machine', edit: { span: range.span, replacement: `${last}..${first}` } },
    ],
  });
  return undefined;
}

/** What a selector reaches; `rest` is left to the caller. */
function reach(report: Report, block: ast.LayerBlock): Reach | undefined {
  const s = block.selector;
  if (s.kind === 'all') return { block, last: undefined, names: () => true };
  if (s.kind === 'rest') return undefined;
  if (s.kind === 'first') {
    const count = whole(report, s.count, 'first', { max: LIMITS.layers });
    return count === undefined ? undefined : { block, last: count - 1, names: (l) => l < count };
  }
  if (s.kind === 'every') {
    const step = whole(report, s.step, 'every', { max: LIMITS.layers });
    const from = s.from === undefined ? 0 : whole(report, s.from, 'from', { min: 0, max: MAX_INDEX });
    const to = s.to === undefined ? undefined : whole(report, s.to, 'to', { min: 0, max: MAX_INDEX });
    if (step === undefined || from === undefined || (s.to !== undefined && to === undefined)) return undefined;
    if (to !== undefined && from > to) {
      report.error('MOE3025', `the layers from ${from} to ${to} run backwards`, {
        at: s.span,
        why: '`to` is the last layer that may be meant.',
      });
      return undefined;
    }
    const last = to === undefined ? undefined : from + Math.floor((to - from) / step) * step;
    return { block, last, names: (l) => l >= from && (to === undefined || l <= to) && (l - from) % step === 0 };
  }
  const ranges = s.ranges.flatMap((r) => rangeOf(report, r) ?? []);
  if (ranges.length < s.ranges.length) return undefined;
  return { block, last: Math.max(...ranges.map((r) => r.last)), names: (l) => ranges.some((r) => l >= r.first && l <= r.last) };
}

/** Number of layers: said, or one more than the highest index when every block is bounded. */
function depthOf(report: Report, model: ast.Model, reaches: readonly Reach[], broken: boolean): number | undefined {
  if (model.depth !== undefined) return whole(report, model.depth.value, 'depth', { max: LIMITS.layers });
  const open = model.layers.find((b) => b.selector.kind === 'rest' || reaches.some((r) => r.block === b && r.last === undefined));
  if (open === undefined && model.layers.length > 0) {
    return broken ? undefined : 1 + Math.max(...reaches.map((r) => r.last ?? 0));
  }
  report.error('MOE3023', 'nothing says how many layers the model has', {
    at: open?.selector.span ?? model.name.span,
    label: open === undefined ? 'no `depth` and no layer blocks' : 'reaches to the last layer, which is not known',
    why: 'without `depth`, the number of layers follows from the highest layer that the blocks name.',
    fixes: [advise('add `depth 28` to the model', 'placeholder')],
  });
  return undefined;
}

/** `3`, `3..7` or `3..7, 9`, at most three runs. */
export function showLayers(layers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const l of layers) {
    const run = runs[runs.length - 1];
    if (run !== undefined && run[1] === l - 1) run[1] = l;
    else runs.push([l, l]);
  }
  const shown = runs.slice(0, 3).map(([a, b]) => (a === b ? `${a}` : `${a}..${b}`));
  return shown.join(', ') + (runs.length > 3 ? ', …' : '');
}

const plural = (layers: readonly number[]): string =>
  layers.length === 1 ? `layer ${showLayers(layers)}` : `layers ${showLayers(layers)}`;

function checkBounds(report: Report, model: ast.Model, reaches: readonly Reach[], depth: number): void {
  for (const { block, last } of reaches) {
    if (last === undefined || last < depth) continue;
    report.error('MOE3022', `there is no layer ${last}: the model has ${depth} layer${depth === 1 ? '' : 's'}`, {
      at: block.selector.span,
      label: `the last layer is ${depth - 1}`,
      labels: model.depth === undefined ? [] : [label(model.depth.span, `${depth} layers`)],
      why: 'layers are counted from 0.',
    });
  }
}

interface Aspect {
  readonly name: string;
  readonly has: (block: ast.LayerBlock) => boolean;
}

const ASPECTS: readonly Aspect[] = [
  { name: 'attention', has: (b) => b.attention !== undefined },
  { name: 'feed-forward part', has: (b) => b.ffn !== undefined },
];

function owners(
  report: Report,
  blocks: readonly { readonly block: ast.LayerBlock; readonly layers: readonly number[] }[],
  depth: number,
  aspect: Aspect,
): (ast.LayerBlock | undefined)[] {
  const owner: (ast.LayerBlock | undefined)[] = Array.from({ length: depth }, () => undefined);
  for (const { block, layers } of blocks) {
    if (!aspect.has(block)) continue;
    const clashes = new Map<ast.LayerBlock, number[]>();
    for (const l of layers) {
      const other = owner[l];
      if (other === undefined) owner[l] = block;
      else clashes.set(other, [...(clashes.get(other) ?? []), l]);
    }
    for (const [other, taken] of clashes) {
      report.error('MOE3021', `${plural(taken)} ${taken.length === 1 ? 'has' : 'have'} two descriptions of the ${aspect.name}`, {
        at: block.selector.span,
        label: 'described again here',
        labels: [label(other.selector.span, 'first described here')],
        why: 'every layer is described once; there is no order in which blocks win.',
        fixes: [advise('name every layer in one block only; `layers rest { … }` means the layers that no other block names')],
      });
    }
  }
  return owner;
}

/** For every layer, first layer first, what describes it; undefined when the depth is unknown. */
export function layerSources(report: Report, model: ast.Model): readonly LayerSources[] | undefined {
  const reaches = model.layers.flatMap((b) => reach(report, b) ?? []);
  const broken = reaches.length < model.layers.filter((b) => b.selector.kind !== 'rest').length;
  const depth = depthOf(report, model, reaches, broken);
  if (depth === undefined) return undefined;
  checkBounds(report, model, reaches, depth);
  const all = Array.from({ length: depth }, (_, l) => l);
  const blocks = model.layers.flatMap((block) => {
    const r = reaches.find((x) => x.block === block);
    if (r === undefined && block.selector.kind !== 'rest') return [];
    const layers = all.filter(r === undefined ? (l) => !reaches.some((x) => x.names(l)) : r.names);
    if (layers.length === 0 && (r?.last ?? 0) < depth) {
      report.warning('MOE3024', 'this block names no layer', {
        at: block.selector.span,
        why: r === undefined ? 'other blocks name every layer already.' : `the model has only the layers 0..${depth - 1}.`,
      });
    }
    return [{ block, layers }];
  });
  const [attention, ffn] = ASPECTS.map((aspect) => owners(report, blocks, depth, aspect));
  unused(report, model, attention ?? [], ffn ?? []);
  const sources = all.map((l): LayerSources => {
    const own = ffn?.[l];
    return {
      attention: attention?.[l]?.attention ?? (model.attention === undefined ? undefined : 'model'),
      ffn: own?.ffn ?? model.ffn,
      at: (own ?? attention?.[l])?.span ?? model.span,
    };
  });
  if (!broken) gaps(report, model, sources, blocks);
  return sources;
}

function unused(
  report: Report,
  model: ast.Model,
  attention: readonly (ast.LayerBlock | undefined)[],
  ffn: readonly (ast.LayerBlock | undefined)[],
): void {
  if (model.ffn !== undefined && !ffn.includes(undefined)) {
    report.warning('MOE3024', `the model's own \`${model.ffn.kind === 'moe' ? 'moe' : 'ffn'}\` serves no layer`, {
      at: model.ffn.span,
      why: 'every layer is given another one by a layer block.',
    });
  }
  if (model.attention !== undefined && attention.every((b) => b?.attention?.variant !== undefined)) {
    report.warning('MOE3024', "the model's own `attention` serves no layer", {
      at: model.attention.span,
      why: 'every layer block has an attention of its own.',
    });
  }
}

function gaps(
  report: Report,
  model: ast.Model,
  sources: readonly LayerSources[],
  blocks: readonly { readonly block: ast.LayerBlock; readonly layers: readonly number[] }[],
): void {
  const without = (pick: (s: LayerSources) => unknown): number[] => sources.flatMap((s, l) => (pick(s) === undefined ? [l] : []));
  const tell = (layers: number[], what: string, fix: string): void => {
    if (layers.length === 0) return;
    const named = blocks.filter((b) => b.layers.some((l) => layers.includes(l)));
    report.error('MOE3020', `${plural(layers)} ${layers.length === 1 ? 'has' : 'have'} no ${what}`, {
      at: named[0]?.block.selector.span ?? model.name.span,
      label:
        named.length === 0
          ? `${sources.length} layers, of which no block names ${layers.length === 1 ? 'this one' : 'these'}`
          : `the ${what} is missing here`,
      why: 'nothing is assumed about layers that the spec does not describe.',
      fixes: [advise(fix, 'placeholder')],
    });
  };
  tell(
    without((s) => s.ffn),
    'feed-forward part',
    'add `layers rest { ffn swiglu 10944 }`, or a `moe { … }` or `ffn` to the model itself',
  );
  tell(
    without((s) => s.attention),
    'attention',
    'add `attention mha { heads 16 x 128 }` to the model',
  );
}
