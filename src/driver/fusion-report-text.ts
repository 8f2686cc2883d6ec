/** The fusion report as text: a table per section, then what each pass did. */
import type { PassEvent } from '../passes/pass.ts';
import type { BucketReport, CallReport, FusionReport, SectionCost, SectionFusion } from './fusion-report.ts';

type Row = readonly string[];

/** Columns padded to their widest cell; numbers to the right. */
function table(rows: readonly Row[], right: ReadonlySet<number>): readonly string[] {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, i) => (right.has(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}

const indent = (lines: readonly string[], by = 2): readonly string[] =>
  lines.map((line) => (line === '' ? line : `${' '.repeat(by)}${line}`));

/** Three digits and a unit of 1024. */
function bytes(n: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = n;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ${units[unit] ?? ''}`;
}

/** `before -> after` with both sides aligned, one text a row; what did not change stands alone. */
function changes(pairs: readonly (readonly [before: string, after: string])[]): readonly string[] {
  const sides = pairs.map(([before, after]): Row => (before === after ? [before, '', ''] : [before, '->', after]));
  return table(sides, new Set([0, 2]));
}

function callTable(calls: readonly CallReport[]): readonly string[] {
  const hasMixture = calls.some((c) => c.after.mixtureDispatches !== undefined);
  const count = (c: SectionCost): string => `${c.dispatches}${c.splitDispatches === 0 ? '' : `+${c.splitDispatches}`}`;
  const column = (header: string, of: (cost: SectionCost) => string): readonly string[] => [
    header,
    ...changes(calls.map(({ before, after }) => [of(before), of(after)] as const)),
  ];
  const columns = [
    ['tokens', ...calls.map((c) => String(c.tokens))],
    column('dispatches', count),
    ...(hasMixture ? [column('of the mixture', (c) => String(c.mixtureDispatches ?? 0))] : []),
    column('bytes moved', (c) => bytes(c.bytes)),
    column('scratch', (c) => bytes(c.scratch)),
  ];
  const rows = ['', ...calls].map((_, i) => columns.map((cells) => cells[i] ?? ''));
  return table(rows, new Set([0]));
}

const bucketTitle = ({ maxTokens }: BucketReport): string =>
  maxTokens === undefined ? 'calls of any number of tokens' : `calls of at most ${maxTokens} tokens`;

const eventRow = ({ pass, kind, where, what }: PassEvent): Row => [kind === 'fired' ? '+' : '-', pass, where, what];

function bucketLines(bucket: BucketReport): readonly string[] {
  const { kernels, events } = bucket;
  const rows = kernels.map((k, i) => [String(i + 1), k.group, k.op, k.kernel, k.dispatches === 1 ? '' : `${k.dispatches} dispatches`]);
  return [
    `${bucketTitle(bucket)}:`,
    ...indent(table(events.map(eventRow), new Set())),
    ...(events.length === 0 ? [] : ['']),
    ...indent(table(rows, new Set([0]))),
    '',
  ];
}

function sectionLines(section: SectionFusion): readonly string[] {
  const times = section.runs === 1 ? '' : `, run ${section.runs} times`;
  return [`${section.section}${times}`, '', ...indent(callTable(section.calls)), '', ...indent(section.buckets.flatMap(bucketLines))];
}

/** Before `->` every op of the spec runs as a kernel of its own; `+n` dispatches come from splitting weights over bindings. */
export function renderFusionReport(report: FusionReport): string {
  const isSplit = report.total.some((c) => c.before.splitDispatches + c.after.splitDispatches > 0);
  return [
    `Fusion, for the limits "${report.profile}": unfused -> fused.`,
    ...(isSplit ? ['"+n" are dispatches more because weights are split over several bindings.'] : []),
    '"+" fired, "-" did not and says why.',
    '',
    ...report.sections.flatMap(sectionLines),
    'All sections, as often as they run (scratch: the largest section)',
    '',
    ...indent(callTable(report.total)),
    '',
  ].join('\n');
}
