/** `moec bench FILE`: contestants in interleaved rounds on one device, what they cost and what of the device they use. */
import { resolve } from 'node:path';
import { type Routing, routingName, shares, strayed } from '../../driver/bench/choices.ts';
import { SteerError, steeredInput } from '../../driver/bench/steer.ts';
import { whatRuns } from '../../driver/bench/work.ts';
import type { Spec } from '../../driver/analysis.ts';
import type { CompileOptions } from '../../driver/compile.ts';
import { quantisationCost } from '../../driver/golden.ts';
import type { TargetName } from '../../driver/profiles.ts';
import { type Contestant, itself } from '../../driver/variants.ts';
import { forDevice } from '../../runtime/core/for-device.ts';
import type { Deviation } from '../../runtime/core/metrics.ts';
import { proceduralIds } from '../../runtime/core/procedural.ts';
import { callCounter, measure, type Point, type Row } from '../bench/measure.ts';
import { parseAgainst, parseRoutings, parseTokens } from '../bench/options.ts';
import { startProgress } from '../bench/progress.ts';
import { deviceText, markdownReport, plainReport } from '../bench/report.ts';
import { type BenchResult, ratesOf, type StageRow, timerText } from '../bench/result.ts';
import { type Bench, cudaBench, type Prepared, prepare, SEED, type Timed, webgpuBench } from '../bench/session.ts';
import { commandLine, versions } from '../bench/setting.ts';
import { readSearch, type SearchStep } from '../bench/tuning-log.ts';
import { STORE_DIRECTORY } from '../../tuner/store/store.ts';
import { median } from '../../tuner/stats.ts';
import type { EmulateOption } from '../cuda-program.ts';
import { readFacts } from '../device-facts.ts';
import { CommandError, EXIT, type Io, makeIo, type CommonOptions } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { positiveInteger } from '../numbers.ts';
import { capsOf, type DeviceChoice } from '../profiles.ts';
import { writeWhole } from '../run-io.ts';

interface Options extends CommonOptions, EmulateOption, DeviceChoice {
  readonly target?: TargetName;
  readonly tokens: string;
  readonly against: string;
  readonly routing?: string;
  readonly rounds: string;
  readonly stages?: boolean;
  readonly markdown?: string;
  readonly plots?: string;
  readonly tuning?: string | true;
  readonly unit?: string;
}

/** Contestants whose weights take more than this together run one after another, each beside the first. */
const TOGETHER_BYTES = 2 ** 30;

interface Asked {
  readonly spec: Spec;
  readonly tokens: readonly number[];
  readonly routings: readonly Routing[];
  readonly rounds: number;
  readonly stages: boolean;
}

function pointsOf({ spec, tokens, routings }: Asked, first: Prepared): readonly Point[] {
  const vocab = spec.vocab ?? 1;
  const [graph] = first.compiled.graphs.sections;
  return (routings.length === 0 ? [undefined] : routings).flatMap((routing) =>
    tokens.map((n): Point => {
      const name = routing === undefined ? undefined : routingName(routing);
      if (spec.kind === 'model') return { tokens: n, routing: name, input: { tokens: n, x: undefined, ids: proceduralIds(SEED, n, vocab) } };
      if (graph === undefined) throw new Error('a layer without a graph');
      return { tokens: n, routing: name, input: { tokens: n, ...steeredInput(graph, spec.hidden, vocab, routing ?? { kind: 'random' }, n, SEED) } };
    }),
  );
}

/** The first one with as many of the others as fit beside each other. */
function groupsOf(others: readonly Prepared[], firstBytes: number): readonly (readonly Prepared[])[] {
  const groups: Prepared[][] = [];
  let bytes = Infinity;
  for (const other of others) {
    const own = other.compiled.manifest.limits.weightBytes;
    if (bytes + own > TOGETHER_BYTES) {
      groups.push([]);
      bytes = firstBytes;
    }
    groups.at(-1)?.push(other);
    bytes += own;
  }
  return groups.length === 0 ? [[]] : groups;
}

/** Compiles contestants; without one of its passes a spec may exceed a device's limits, which is told and no reason to stop. */
function prepareAll(io: Io, all: readonly Contestant[], compile: CompileOptions): { readonly made: readonly Prepared[]; readonly failed: BenchResult['failed'] } {
  const failed: { name: string; why: string }[] = [];
  const made = all.flatMap((c) => {
    io.say(`compiling ${c.name}`);
    try {
      return [prepare(c, compile)];
    } catch (error) {
      if (c.without === undefined || !(error instanceof Error)) throw error;
      failed.push({ name: c.name, why: error.message });
      return [];
    }
  });
  return { made, failed };
}

const STEADY_CALLS = 5;

async function stageOf(timed: Timed, { tokens, input }: Point): Promise<StageRow> {
  const { host: first } = await timed.time(input);
  const later: number[] = [];
  for (let i = 0; i < STEADY_CALLS; i++) later.push((await timed.time(input)).host);
  return { name: timed.name, kernels: timed.served.kernels.length, weightBytes: timed.weightBytes, times: timed.stages, tokens, first, steady: median(later) };
}

function tellStrayed(io: Io, rows: readonly Row[], { spec, routings }: Asked): void {
  for (const { routing, tokens, histogram } of rows) {
    const wished = routings.find((r) => routingName(r) === routing);
    if (wished === undefined || wished.kind === 'random' || histogram === undefined || spec.kind !== 'layer' || spec.ffn.kind !== 'moe') continue;
    const part = strayed(histogram, shares(wished, spec.ffn.experts, spec.ffn.active, SEED), tokens);
    if (part > 0.05) io.say(`routing ${routing ?? ''}, ${tokens} tokens: ${Math.round(100 * part)} % of the choices went elsewhere than wished; the histogram tells where`);
  }
}

type Measured = Pick<BenchResult, 'rows' | 'same' | 'stages'> & { readonly device: Timed['device'] };

async function runAll(io: Io, bench: Bench, asked: Asked, first: Prepared, others: readonly Prepared[]): Promise<Measured> {
  const points = pointsOf(asked, first);
  const open: Timed[] = [];
  const start = async (p: Prepared): Promise<Timed> => {
    const timed = await bench.open(p);
    open.push(timed);
    return timed;
  };
  const progress = startProgress();
  try {
    const base = await start(first);
    io.say(`device: ${deviceText(base)}`);
    const text = ({ compiled }: Prepared, tokens: number): string => whatRuns(forDevice(compiled.manifest, base.device), (file) => compiled.texts.get(file), tokens);
    const sameFor = (p: Prepared): readonly number[] => asked.tokens.filter((n) => text(p, n) === text(first, n));
    const same = others.map((p) => ({ name: p.contestant.name, tokens: sameFor(p) })).filter((s) => s.tokens.length > 0);
    const isSame = (name: string, tokens: number): boolean => same.some((s) => s.name === name && s.tokens.includes(tokens));
    const distinct = others.filter((p) => asked.tokens.some((n) => !isSame(p.contestant.name, n)));

    const groups = groupsOf(distinct, first.compiled.manifest.limits.weightBytes);
    const calls = (asked.rounds + 1) * points.reduce((n, { tokens }) => n + groups.length + distinct.filter((p) => !isSame(p.contestant.name, tokens)).length, 0);
    const step = callCounter(progress, calls);
    const stages: StageRow[] = [];
    const rows: { readonly point: number; readonly row: Row }[] = [];
    const [firstPoint] = points;
    if (asked.stages && firstPoint !== undefined) stages.push(await stageOf(base, firstPoint));
    for (const [g, group] of groups.entries()) {
      const beside: Timed[] = [];
      for (const p of group) {
        const timed = await start(p);
        beside.push(timed);
        if (asked.stages && firstPoint !== undefined) stages.push(await stageOf(timed, firstPoint));
      }
      for (const [at, point] of points.entries()) {
        const found = await measure([base, ...beside.filter((t) => !isSame(t.name, point.tokens))], point, asked.rounds, step);
        // The first one runs in every group, and has one row.
        for (const row of g === 0 ? found : found.slice(1)) rows.push({ point: at, row });
      }
      for (const timed of beside) {
        open.splice(open.indexOf(timed), 1);
        await timed.dispose();
      }
    }
    return { rows: rows.sort((a, b) => a.point - b.point).map((r) => r.row), same, stages, device: base.device };
  } finally {
    progress.end();
    for (const timed of open) await timed.dispose();
  }
}

function quantisationOf(spec: Spec): { readonly quantisation?: Deviation } {
  const found = quantisationCost(spec);
  return found === undefined ? {} : { quantisation: found };
}

const jsonRow = (row: Row, result: BenchResult): object => {
  const { device, host, histogram, ...rest } = row;
  const { clock, gflops, gbs, share } = ratesOf(row, result.facts);
  return { ...rest, rounds: host.n, medianMs: host.median, p90Ms: host.p90, ...(device === undefined ? {} : { deviceMs: device.median, deviceP90Ms: device.p90 }), clock, gflops, gbs, ...(share === undefined ? {} : { share }), ...(histogram === undefined ? {} : { histogram }) };
};

async function tell(io: Io, result: BenchResult, options: Options, search: readonly SearchStep[]): Promise<void> {
  const pictures = options.plots === undefined ? [] : await (await import('../bench/pictures.ts')).writePictures(result, options.plots, options.markdown, search);
  if (options.markdown !== undefined) writeWhole(resolve(options.markdown), new TextEncoder().encode(markdownReport(result, pictures)));
  for (const p of pictures) io.say(`wrote ${p.path}`);
  if (options.markdown !== undefined) io.say(`wrote ${options.markdown}`);
  if (!io.json) return io.out(plainReport(result));
  const { spec: name, device, rows, ...rest } = result;
  io.emit({ name, device: device.name, software: device.software, timer: timerText(rows), ...rest, rows: rows.map((r) => jsonRow(r, result)) });
}

export async function run(args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  const { target = 'webgpu', emulate } = options;
  if (emulate === true && target !== 'cuda') throw new CommandError(EXIT.usage, '--emulate is for --target cuda', { fix: 'add --target cuda, or leave --emulate out' });
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const routings = parseRoutings(options.routing, spec);
  const asked: Asked = {
    spec,
    tokens: parseTokens(options.tokens, spec),
    routings,
    rounds: positiveInteger(options.rounds, '--rounds'),
    stages: options.stages === true,
  };
  const against = parseAgainst(options.against, spec);
  if (options.tuning !== undefined && options.plots === undefined) throw new CommandError(EXIT.usage, '--tuning is a picture, and there is no place for it', { fix: 'add --plots DIR' });
  const search = options.tuning === undefined ? [] : readSearch(options.tuning === true ? STORE_DIRECTORY : options.tuning);
  // Asked for before the measuring, not missed after it.
  if (options.plots !== undefined) await (await import('../bench/vega.ts')).loadVega();
  const caps = capsOf(target, options);
  const bench = target === 'cuda' ? cudaBench(io, { caps, ...(emulate === undefined ? {} : { emulate }) }) : await webgpuBench();
  try {
    io.say('compiling fused');
    const first = prepare(itself(spec), { caps });
    const { made, failed } = prepareAll(io, against, { caps });
    const { device, rows, same, stages } = await runAll(io, bench, asked, first, made);
    tellStrayed(io, rows.filter((r) => r.name === first.contestant.name), asked);
    const result: BenchResult = {
      spec: spec.name, command: commandLine(), date: new Date().toISOString(), versions: versions(target), device: { backend: device.backend, name: device.name, software: device.software },
      rounds: asked.rounds, rows, same, failed, stages, facts: target === 'cuda' ? undefined : readFacts(device),
      ...quantisationOf(spec),
    };
    await tell(io, result, options, search);
    return EXIT.ok;
  } catch (error) {
    if (error instanceof SteerError) throw new CommandError(EXIT.usage, `--routing cannot steer ${spec.name}: ${error.message}`, { fix: 'leave --routing out' });
    throw error;
  } finally {
    bench.dispose();
  }
}
