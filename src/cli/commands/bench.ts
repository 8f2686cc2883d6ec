/** `moec bench FILE`: a first, honest table. Everything runs in interleaved rounds on one device; ratios are per round. */
import type { TargetName } from '../../driver/profiles.ts';
import { type Contestant, contestant } from '../../driver/variants.ts';
import { type Bench, cudaBench, type Timed, webgpuBench } from '../bench-session.ts';
import type { EmulateOption } from '../cuda-program.ts';
import { CommandError, EXIT, type Io, makeIo, type CommonOptions } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { integerList, positiveInteger } from '../numbers.ts';
import { capsOf, type DeviceChoice } from '../profiles.ts';

interface Options extends CommonOptions, EmulateOption, DeviceChoice {
  readonly target?: TargetName;
  readonly tokens: string;
  readonly against: string;
  readonly rounds: string;
  readonly unit?: string;
}

interface Row {
  readonly tokens: number;
  readonly name: string;
  readonly dispatches: number;
  readonly rounds: number;
  readonly medianMs: number;
  readonly p90Ms: number;
  /** Median over the rounds of this one's time divided by the fused one's. */
  readonly ratio: number;
}

const quantile = (values: readonly number[], q: number): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN;
};

async function measure(all: readonly Timed[], tokens: number, rounds: number): Promise<Row[]> {
  const times = all.map((): number[] => []);
  const dispatches = all.map(() => 0);
  for (const [i, t] of all.entries()) {
    await t.time(tokens);
    dispatches[i] = t.dispatches();
  }
  for (let round = 0; round < rounds; round++) for (const [i, t] of all.entries()) times[i]?.push(await t.time(tokens));
  const base = times[0] ?? [];
  return all.map((t, i) => {
    const own = times[i] ?? [];
    const ratios = own.map((ms, round) => ms / (base[round] ?? NaN));
    return {
      tokens, name: t.name, rounds, dispatches: dispatches[i] ?? 0,
      medianMs: quantile(own, 0.5), p90Ms: quantile(own, 0.9), ratio: quantile(ratios, 0.5),
    };
  });
}

function tableText(rows: readonly Row[]): string {
  const cells = [
    ['tokens', 'what', 'dispatches', 'median ms', 'p90 ms', 'x fused'],
    ...rows.map((r) => [String(r.tokens), r.name, String(r.dispatches), r.medianMs.toFixed(2), r.p90Ms.toFixed(2), r.ratio.toFixed(2)]),
  ];
  const widths = cells[0]?.map((_, c) => Math.max(...cells.map((row) => row[c]?.length ?? 0))) ?? [];
  return cells.map((row) => row.map((cell, c) => (c === 1 ? cell.padEnd(widths[c] ?? 0) : cell.padStart(widths[c] ?? 0))).join('  ')).join('\n');
}

async function openBench(io: Io, options: Options): Promise<Bench> {
  const { target = 'webgpu', emulate } = options;
  if (emulate === true && target !== 'cuda') throw new CommandError(EXIT.usage, '--emulate is for --target cuda', { fix: 'add --target cuda, or leave --emulate out' });
  const caps = capsOf(target, options);
  return target === 'cuda' ? cudaBench(io, { caps, ...(emulate === undefined ? {} : { emulate }) }) : webgpuBench({ caps });
}

export async function run(args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const rounds = positiveInteger(options.rounds, '--rounds');
  const others = options.against.split(',').map((w) => w.trim()).filter((w) => w !== '').map((word): Contestant => {
    const found = contestant(spec, word);
    if (found === undefined) throw new CommandError(EXIT.usage, `nothing called ${JSON.stringify(word)} can run beside it`, { fix: 'unfused, dense, or no-PASS' });
    return found;
  });
  const bench = await openBench(io, options);
  const timed: Timed[] = [];
  try {
    for (const c of [{ name: 'fused', spec, options: {} }, ...others]) {
      io.say(`compiling ${c.name}`);
      timed.push(await bench.open(c));
    }
    const device = timed[0]?.device;
    io.say(`device: ${device?.name ?? ''}${device?.software === true ? ' (a CPU plays it: only ratios mean something)' : ''}`);
    const rows: Row[] = [];
    for (const tokens of integerList(options.tokens, '--tokens')) rows.push(...(await measure(timed, tokens, rounds)));
    const timer = 'host clock around one call, input upload and result read-back included; procedural weights; interleaved rounds';
    if (io.json) io.emit({ name: spec.name, device: device?.name, software: device?.software, timer, rows });
    else io.out(`${tableText(rows)}\n${timer}, ${rounds} of them`);
    return EXIT.ok;
  } finally {
    for (const t of timed) await t.dispose();
    bench.dispose();
  }
}
