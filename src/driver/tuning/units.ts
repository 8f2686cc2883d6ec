/** The units of a spec: per distinct layer the mixture's products with their plan, and every dense product and attention by itself. */
import { stableHash } from '../../base/hash.ts';
import type { Graph } from '../../ir/graph/types.ts';
import { lowerToGraphs } from '../../lower/model-to-graph.ts';
import type { Spec } from '../../model/types.ts';
import { optimize } from '../../passes/graph/pipeline.ts';
import { type Capabilities, withSubgroups } from '../../target/types.ts';
import type { Unit } from '../../tuner/unit.ts';
import { bucketTokens, specialisedPlans } from '../lower-program.ts';
import type { JobDevice } from './job.ts';
import { piecesOf, shapeOf, type TokenPoint, tokenPoints } from './pieces.ts';
import type { WeightedMix } from './routing.ts';
import { pieceUnit } from './unit.ts';

export interface TuningTarget {
  /** What packages are compiled for. */
  readonly caps: Capabilities;
  readonly device: JobDevice;
  readonly disabled: ReadonlySet<string>;
}

/** Capabilities of the untuned buckets that serve a device, and of those that tuned ones are made with. */
export function deviceCaps({ caps, device }: TuningTarget): { readonly standard: Capabilities; readonly tuned: Capabilities } {
  const { features, subgroupSize } = device;
  const knows = subgroupSize !== undefined && features.includes('subgroups');
  const special = knows ? specialisedPlans(caps).find((p) => p.device.subgroupSize === subgroupSize) : undefined;
  const standard = special?.caps ?? caps;
  return { standard, tuned: knows && caps.target === 'webgpu' ? withSubgroups(caps, subgroupSize) : standard };
}

export interface UnitsOptions extends TuningTarget {
  readonly tokens: readonly number[];
  readonly mixes: readonly WeightedMix[];
}

/** A unit where it belongs: sections whose kernels its winner replaces. */
export interface PlacedUnit {
  readonly unit: Unit;
  readonly point: TokenPoint;
  /** Names of sections. */
  readonly sections: readonly string[];
}

/** All units, by tokens, then in the order in which they run; equal ones once. */
export function unitsOf(spec: Spec, o: UnitsOptions): readonly PlacedUnit[] {
  const graphs = lowerToGraphs(spec);
  const deterministicBatch = spec.deterministic === 'batch';
  const caps = deviceCaps(o);
  const points = tokenPoints(o.tokens, bucketTokens(deterministicBatch, caps.standard));
  const placed = new Map<string, PlacedUnit>();
  for (const point of points) {
    graphs.sections.forEach((section, index) => {
      const layer = graphs.sequence.find((s) => s.section === index)?.layer ?? null;
      const memo = new Map<number | undefined, Graph>();
      const optimized = (tileRows: number | undefined): Graph => {
        const known = memo.get(tileRows);
        if (known !== undefined) return known;
        const pass = { caps: caps.standard, disabled: o.disabled, deterministicBatch, maxTokens: point.maxTokens };
        const { graph } = optimize(section, { ...pass, ...(tileRows === undefined ? {} : { tileRows: () => tileRows }) });
        memo.set(tileRows, graph);
        return graph;
      };
      for (const part of piecesOf(optimized)) {
        const shape = stableHash([part.kind, shapeOf(part.piece(undefined)), point]);
        const known = placed.get(shape);
        if (known !== undefined) {
          placed.set(shape, { ...known, sections: [...new Set([...known.sections, section.name])] });
          continue;
        }
        const unit = pieceUnit(part, { spec, point, layer, caps, device: o.device, mixes: o.mixes, exact: deterministicBatch });
        placed.set(shape, { unit, point, sections: [section.name] });
      }
    });
  }
  return withPlainNames([...placed.values()]);
}

/** Units that share a name and a number of tokens are told apart by their sections. */
function withPlainNames(placed: readonly PlacedUnit[]): readonly PlacedUnit[] {
  const id = ({ unit }: PlacedUnit): string => `${unit.name} ${unit.tokens}`;
  return placed.map((p) => {
    const isOnly = placed.filter((other) => id(other) === id(p)).length === 1;
    const [section = ''] = p.sections;
    return isOnly || p.unit.name.endsWith(` of ${section}`) ? p : { ...p, unit: { ...p.unit, name: `${p.unit.name} of ${section}` } };
  });
}
