/** Runs a whole program of graphs in f64: sections in sequence, the hidden state handed on, caches kept between calls. */
import type { Graph, GraphParam } from '../types.ts';
import { ropeTable } from './attention.ts';
import { type Data, evaluate } from './evaluate.ts';

/** As `GraphProgram` of the lowering, which this room may not import. */
export interface ReferenceProgram {
  readonly sections: readonly Graph[];
  readonly sequence: readonly { readonly section: number; readonly layer: number | undefined }[];
}

/** A weight by its canonical name with the layer filled in. */
export type WeightLookup = (name: string, param: GraphParam, layer: number | undefined) => Data;

export interface ReferenceInputs {
  /** Token ids, for models and hash routers. */
  readonly ids?: Data;
  /** Hidden state [T, d], for layers alone. */
  readonly x?: Float64Array;
  /** Tokens per sequence; T unless said. */
  readonly seq?: number;
}

export interface ReferenceRun {
  /** Results of the last section (`y`: logits or the layer's output, and the trace of a layer). */
  readonly results: Readonly<Record<string, Data>>;
  /** Those of every section of the sequence, in order. */
  readonly steps: readonly Readonly<Record<string, Data>>[];
  readonly faults: number;
}

export interface Reference {
  /** Runs the next `T` tokens; positions go on where the last call ended. */
  run(inputs: ReferenceInputs): ReferenceRun;
  /** Forgets all tokens. */
  reset(): void;
}

/** @param capacity tokens the caches hold */
export function createReference(program: ReferenceProgram, weight: WeightLookup, capacity: number): Reference {
  const kept = new Map<string, Data>();
  let past = 0;

  const stored = (param: GraphParam, layer: number | undefined): Data => {
    const name = layer === undefined ? param.name : param.name.replaceAll('{l}', String(layer));
    const known = kept.get(name);
    if (known !== undefined) return known;
    const width = param.value.type.kind === 'tensor' ? Number(param.value.type.shape[1]) : 0;
    const made =
      param.role.kind === 'rope'
        ? ropeTable(param.role.inverseFrequencies, param.role.scale, capacity)
        : param.role.kind === 'state'
          ? new Float64Array(capacity * width)
          : weight(name, param, layer);
    kept.set(name, made);
    return made;
  };

  return {
    run(inputs) {
      const first = program.sections[program.sequence[0]?.section ?? 0];
      const T = inputs.ids?.length ?? rowsOf(first, inputs.x);
      const size = { T, past, seq: inputs.seq ?? T, cap: capacity };
      let hidden: Data | undefined = inputs.x;
      let results: Readonly<Record<string, Data>> = {};
      const steps: Readonly<Record<string, Data>>[] = [];
      let faults = 0;
      for (const { section, layer } of program.sequence) {
        const graph = program.sections[section];
        if (graph === undefined) throw new Error(`there is no section ${section}`);
        const params = new Map<string, Data>();
        for (const param of graph.params) {
          const given = param.role.kind === 'input' ? (param.name === 'ids' ? inputs.ids : hidden) : stored(param, layer);
          if (given === undefined) throw new Error(`input ${param.name} is missing`);
          params.set(param.name, given);
        }
        const done = evaluate(graph, { params, size });
        results = done.results;
        steps.push(results);
        hidden = results['y'];
        faults += done.faults;
      }
      past += T;
      return { results, steps, faults };
    },
    reset() {
      past = 0;
    },
  };
}

/** Tokens in a hidden state [T, d]. */
function rowsOf(graph: Graph | undefined, x: Float64Array | undefined): number {
  const input = graph?.params.find((p) => p.role.kind === 'input' && p.name === 'x');
  const d = input?.value.type.kind === 'tensor' ? input.value.type.shape[1] : undefined;
  if (x === undefined || typeof d !== 'number') throw new Error('neither ids nor x is given');
  return x.length / d;
}
