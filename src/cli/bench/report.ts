/** A result as text for the terminal and as Markdown. */
import type { Row } from './measure.ts';
import { type BenchResult, type PassRow, passRows, type Rates, ratesOf, type StageRow, timerText } from './result.ts';
import { bytesText, type Column, markdownTable, plainTable, short, signed } from '../table.ts';

const percent = (share: number | undefined): string => (share === undefined ? '-' : `${short(100 * share, share < 0.1 ? 2 : 3)} %`);

function rowColumns({ rows, facts }: BenchResult): readonly Column<Row>[] {
  const device = rows.some((r) => r.device !== undefined);
  const rates = (r: Row): Rates => ratesOf(r, facts);
  return [
    ...(rows.some((r) => r.routing !== undefined) ? [{ title: 'routing', left: true, cell: (r: Row) => r.routing ?? '' }] : []),
    { title: 'tokens', cell: (r) => String(r.tokens) },
    { title: 'what', left: true, cell: (r) => r.name },
    { title: 'dispatches', cell: (r) => String(r.dispatches) },
    { title: 'bytes', cell: (r) => bytesText(r.work.bytes) },
    { title: 'host ms', cell: (r) => short(r.host.median) },
    { title: 'p90', cell: (r) => short(r.host.p90) },
    ...(device ? [{ title: 'device ms', cell: (r: Row) => short(r.device?.median ?? NaN) }, { title: 'p90', cell: (r: Row) => short(r.device?.p90 ?? NaN) }] : []),
    { title: 'n', cell: (r) => String(r.host.n) },
    { title: 'GFLOP/s', cell: (r) => short(rates(r).gflops) },
    { title: 'GB/s', cell: (r) => short(rates(r).gbs) },
    ...(facts === undefined
      ? []
      : [
          { title: 'of fma', cell: (r: Row) => percent(rates(r).share?.fma) },
          { title: 'of copy', cell: (r: Row) => percent(rates(r).share?.copy) },
          { title: 'of roofline', cell: (r: Row) => percent(rates(r).share?.roofline) },
        ]),
    { title: 'x fused', cell: (r) => r.ratio.toFixed(2) },
  ];
}

const PASS_COLUMNS: readonly Column<PassRow>[] = [
  { title: 'pass', left: true, cell: (r) => r.pass },
  { title: 'tokens', cell: (r) => String(r.tokens) },
  { title: 'time without', cell: (r) => signed(percent(r.time), r.time) },
  { title: 'ms', cell: (r) => signed(short(r.ms, 2), r.ms) },
  { title: 'bytes', cell: (r) => signed(bytesText(r.bytes), r.bytes) },
  { title: 'dispatches', cell: (r) => signed(String(r.dispatches), r.dispatches) },
];

const STAGE_COLUMNS: readonly Column<StageRow>[] = [
  { title: 'what', left: true, cell: (r) => r.name },
  { title: 'compile ms', cell: (r) => short(r.times.compile) },
  { title: 'kernels', cell: (r) => String(r.kernels) },
  { title: 'kernels ms', cell: (r) => short(r.times.kernels) },
  { title: 'weights', cell: (r) => bytesText(r.weightBytes) },
  { title: 'weights ms', cell: (r) => short(r.times.weights) },
  { title: 'tokens', cell: (r) => String(r.tokens) },
  { title: 'first call ms', cell: (r) => short(r.first) },
  { title: 'later calls ms', cell: (r) => short(r.steady) },
];

interface HistogramRow {
  readonly routing: string;
  readonly tokens: number;
  readonly counts: readonly number[];
  readonly touched: number;
  readonly imbalance: number;
}

/** Counts of the busiest experts; all the others as one number. */
function countsText(counts: readonly number[]): string {
  const sorted = [...counts].sort((a, b) => b - a);
  const shown = sorted.slice(0, 8);
  const rest = sorted.slice(8);
  return rest.length === 0 ? shown.join(' ') : `${shown.join(' ')}, then ${rest[0] ?? 0} to ${rest.at(-1) ?? 0}`;
}

const HISTOGRAM_COLUMNS: readonly Column<HistogramRow>[] = [
  { title: 'routing', left: true, cell: (r) => r.routing },
  { title: 'tokens', cell: (r) => String(r.tokens) },
  { title: 'experts used', cell: (r) => `${r.touched} of ${r.counts.length}` },
  { title: 'busiest / mean', cell: (r) => short(r.imbalance) },
  { title: 'tokens of experts, busiest first', left: true, cell: (r) => countsText(r.counts) },
];

function histogramRows({ rows }: BenchResult): readonly HistogramRow[] {
  const seen = new Set<string>();
  return rows.flatMap(({ routing, tokens, histogram }) => {
    const key = `${routing ?? ''} ${tokens}`;
    if (histogram === undefined || seen.has(key)) return [];
    seen.add(key);
    return [{ routing: routing ?? '', tokens, counts: histogram.counts, touched: histogram.touched, imbalance: histogram.imbalance }];
  });
}

interface Part {
  readonly title: string;
  readonly plain: string;
  readonly markdown: string;
}

function part<T>(title: string, columns: readonly Column<T>[], rows: readonly T[]): Part[] {
  return rows.length === 0 ? [] : [{ title, plain: plainTable(columns, rows), markdown: markdownTable(columns, rows) }];
}

const parts = (result: BenchResult): readonly Part[] => [
  ...part('Times', rowColumns(result), result.rows),
  ...part('What each pass is worth', passRows(result).some((r) => r.routing !== undefined) ? [{ title: 'routing', left: true, cell: (r) => r.routing ?? '' }, ...PASS_COLUMNS] : PASS_COLUMNS, passRows(result)),
  ...part('Routing reached', HISTOGRAM_COLUMNS, histogramRows(result)),
  ...part('Getting ready', STAGE_COLUMNS, result.stages),
];

export const deviceText = ({ device }: Pick<BenchResult, 'device'>): string =>
  `${device.name}${device.software ? ' (a CPU plays it: only ratios mean something)' : ''}`;

function notes(result: BenchResult): readonly string[] {
  const { rows, rounds, same, failed, facts, stages, quantisation: q } = result;
  return [
    `${timerText(rows)}, ${rounds} of them`,
    ...(rows.some((r) => r.work.flops > 0) ? ['GFLOP/s: the operations of the spec itself; GB/s: what the compiled form’s ops read and write, each operand once'] : []),
    ...(facts === undefined ? [] : [`peaks of this device, measured ${facts.measured.slice(0, 10)}: ${short(facts.peaks.fmaGflops)} GFLOP/s multiply-adds, ${short(facts.peaks.copyGBs)} GB/s copies`]),
    ...(stages.length === 0 ? [] : [result.device.backend === 'cuda' ? 'kernels: loading the library, which was built before' : 'kernels: the device’s own compiler, helped by whatever its driver keeps from earlier runs']),
    ...(q === undefined ? [] : [`quantised experts cost NMSE ${q.nmse.toExponential(1)}, worst row ${q.rowNmse.toExponential(1)}, against the same weights in full precision (random weights, small sizes)`]),
    ...same.map((s) => `${s.name} changes nothing for ${s.tokens.join(', ')} tokens`),
    ...failed.map((f) => `${f.name} cannot be compiled: ${f.why}`),
  ];
}

export const plainReport = (result: BenchResult): string =>
  [...parts(result).map((p, i) => (i === 0 ? p.plain : `${p.title}\n${p.plain}`)), notes(result).join('\n')].join('\n\n');

/** @param pictures file names, as seen from the Markdown file, with their titles */
export function markdownReport(result: BenchResult, pictures: readonly { readonly title: string; readonly file: string }[]): string {
  const { spec, date, versions, command } = result;
  const versionText = Object.entries(versions).map(([name, v]) => `${name} ${v}`).join(', ');
  return [
    `# ${spec}`,
    `${date.slice(0, 10)}, ${deviceText(result)}; ${versionText}.`,
    `    ${command}`,
    ...parts(result).flatMap((p) => [`## ${p.title}`, p.markdown]),
    notes(result).map((n) => `- ${n}`).join('\n'),
    ...pictures.map((p) => `![${p.title}](${p.file})`),
  ].join('\n\n').concat('\n');
}
