/** Runs golden vectors through a program with procedural weights and judges the results. */
import { NumericsError, PackageError, type Signal, throwIfAborted } from './errors.ts';
import { type Golden, type GoldenVector, tokensOf } from './golden.ts';
import { type Deviation, deviation } from './metrics.ts';
import { forwardSplit, makeLayer } from './model.ts';
import type { Program } from './program.ts';
import { proceduralProvider } from './provider.ts';
import { Session } from './session.ts';

export interface VerifyOptions {
  readonly signal?: Signal | undefined;
  readonly memoryLimit?: number | undefined;
}

export interface VectorReport {
  readonly name: string;
  readonly tokens: number;
  readonly observed: Deviation;
  readonly allowed: Deviation;
  /** Expert ids that differ; always 0 where all is well. */
  readonly wrongIds: number;
  readonly ok: boolean;
}

export interface VerifyReport {
  readonly ok: boolean;
  /** The vectors ran on a scaled-down twin of the spec: this one is too large to carry its own. */
  readonly twin: boolean;
  readonly device: string;
  /** What quantised weights cost these results against full precision: a figure, no gate. Absent where none are quantised. */
  readonly quantisation?: Deviation;
  readonly vectors: readonly VectorReport[];
}

const countWrong = (a: Int32Array, b: Int32Array): number =>
  a.length !== b.length ? Math.max(a.length, b.length) : a.reduce((n, x, i) => n + (x === b[i] ? 0 : 1), 0);

async function runVector(session: Session, vector: GoldenVector, allowed: Deviation, signal: Signal | undefined): Promise<VectorReport> {
  const { model } = session.program.manifest;
  const tokens = tokensOf(vector, model.hidden);
  let y: Float32Array;
  let wrongIds = 0;
  if (vector.ids !== undefined) {
    y = await forwardSplit(session, vector.ids, vector.split ?? [tokens], signal);
  } else if (vector.x !== undefined) {
    const layer = makeLayer(session, () => Promise.reject(new Error('nested verify')), () => Promise.resolve());
    const traced = await layer.forward(vector.x, {
      trace: true,
      ...(vector.tokenIds === undefined ? {} : { tokenIds: vector.tokenIds }),
      ...(vector.sequenceLength === undefined ? {} : { sequenceLength: vector.sequenceLength }),
      ...(signal === undefined ? {} : { signal }),
    });
    y = traced.y;
    if (vector.topkIndices !== undefined) wrongIds = countWrong(traced.topkIndices, vector.topkIndices);
  } else {
    throw new PackageError(`golden.bin: vector ${vector.name} has no input`, { fix: 'compile the package again' });
  }
  const observed = deviation(y, vector.y, tokens);
  const ok = observed.nmse <= allowed.nmse && observed.rowNmse <= allowed.rowNmse && wrongIds === 0;
  return { name: vector.name, tokens, observed, allowed, wrongIds, ok };
}

/** Verdict on every vector; does not throw for wrong results. */
export async function runGolden(program: Program, golden: Golden, twin: boolean, options: VerifyOptions = {}): Promise<VerifyReport> {
  const { manifest, backend } = program;
  const session = await Session.create(program, proceduralProvider(golden.seed, manifest.model.experts), options);
  try {
    const vectors: VectorReport[] = [];
    for (const v of golden.vectors) {
      throwIfAborted(options.signal);
      vectors.push(await runVector(session, v, golden.gate, options.signal));
    }
    return { ok: vectors.length > 0 && vectors.every((v) => v.ok), twin, device: backend.info.name, ...(golden.quantisation === undefined ? {} : { quantisation: golden.quantisation }), vectors };
  } finally {
    await session.dispose();
  }
}

/** @throws NumericsError with the report in `details` where a vector fails */
export function requireVerified(report: VerifyReport): VerifyReport {
  if (report.ok) return report;
  const bad = report.vectors.filter((v) => !v.ok);
  const lines = bad.map((v) => {
    const { observed: o, allowed: a } = v;
    const ids = v.wrongIds === 0 ? '' : `, ${v.wrongIds} expert ids differ`;
    return `  ${v.name} (${v.tokens} tokens): NMSE ${o.nmse.toExponential(2)} of ${a.nmse}, worst row ${o.rowNmse.toExponential(2)} of ${a.rowNmse}${ids}`;
  });
  throw new NumericsError(`${bad.length} of ${report.vectors.length} golden vectors fail on ${report.device}\n${lines.join('\n')}`, {
    details: { report },
    fix: 'the device or its driver computes wrong results for these kernels: update the driver, try another device, and please report it',
  });
}
