/** Results as a page of Markdown. */
import { type Column, markdownTable, short } from '../../src/cli/table.ts';
import { median } from '../../src/tuner/stats.ts';
import { type ExhaustiveRow, WITHIN } from './exhaustive.ts';
import type { FaultRow } from './faults.ts';
import type { KillsRow, PairRow } from './kills.ts';
import { allowance, type PromiseRow } from './promise.ts';
import type { Part, Results } from './results.ts';

const percent = (x: number, digits = 1): string => `${(100 * x).toFixed(digits)} %`;
const ratio = (x: number): string => x.toFixed(3);
const noisy = (x: number, noise: number): string => `${ratio(x)} ± ${noise.toFixed(3)}`;

const SPEC_COLUMNS: readonly Column<PromiseRow>[] = [
  { title: '#', cell: (r) => String(r.index) },
  { title: 'spec', left: true, cell: (r) => r.spec },
  { title: 'kernel', left: true, cell: (r) => r.kernel },
  { title: 'T', cell: (r) => String(r.tokens) },
  { title: 'tried', cell: (r) => String(r.evaluations) },
  { title: 'default ms', cell: (r) => short(r.defaultMs) },
  { title: 'tuned ms', cell: (r) => short(r.tunedMs) },
  { title: 'tuned / default', cell: (r) => `${noisy(r.ratio, r.noise)}${r.longer ? '*' : ''}` },
  { title: 'default / itself', cell: (r) => noisy(r.twin, r.twinNoise) },
  { title: 'chosen', left: true, cell: (r) => r.config },
];

/** Per spec: time of all defaults by that of all winners. */
function gains(rows: readonly PromiseRow[]): readonly number[] {
  const bySpec = new Map<number, PromiseRow[]>();
  for (const r of rows) bySpec.set(r.index, [...(bySpec.get(r.index) ?? []), r]);
  return [...bySpec.values()].map((own) => own.reduce((n, r) => n + r.defaultMs, 0) / own.reduce((n, r) => n + r.defaultMs * r.ratio, 0));
}

function specsText({ rows }: Part<PromiseRow>): string {
  const broken = rows.filter((r) => r.ratio > allowance(r));
  const worst = rows.reduce((a, b) => (b.ratio > a.ratio ? b : a), rows[0] ?? { ratio: NaN, noise: NaN, index: -1, kernel: '' });
  const all = gains(rows);
  const tuned = rows.filter((r) => r.config !== 'default');
  const middle = median(all);
  return `Random specs, each tuned with a budget of 12 to 20 s, winners measured again in a new process, with other numbers, in turns with the default.
*tried*: candidates measured. *default / itself*: what two identical runs differ by, measured the same way. \\*: measured a second time, for longer,
because the first ratio was above what is allowed.

- ${all.length} specs, ${rows.length} kernels; ${tuned.length} tuned, ${rows.length - tuned.length} keep the default
- never slower than the default by more than 3 % or what identical runs differ by: ${broken.length === 0 ? 'kept by all' : `**broken by ${broken.length}**: ${broken.map((r) => `${r.kernel} of ${r.index}`).join(', ')}`}; worst ratio ${noisy(worst.ratio, worst.noise)} (${worst.kernel} of ${worst.index})
- gain over the default, whole specs: median ${percent(middle - 1)}, most ${percent(Math.max(...all) - 1)}; of tuned kernels alone: median ${tuned.length === 0 ? '-' : percent(median(tuned.map((r) => 1 / r.ratio)) - 1)}
- untuned default within 25 % of the best tuned on the median spec: ${middle <= 1.25 ? 'kept' : '**broken**'} (${ratio(middle)})

${markdownTable(SPEC_COLUMNS, rows)}`;
}

const EXHAUSTIVE_COLUMNS: readonly Column<ExhaustiveRow>[] = [
  { title: '#', cell: (r) => String(r.index) },
  { title: 'space', left: true, cell: (r) => r.what },
  { title: 'T', cell: (r) => String(r.tokens) },
  { title: 'size', cell: (r) => String(r.size) },
  { title: 'tried', cell: (r) => String(r.evaluations) },
  { title: 'default / optimum', cell: (r) => ratio(r.room) },
  { title: 'place', cell: (r) => String(r.place) },
  { title: 'found / optimum', cell: (r) => `${noisy(r.ratio, r.noise)}${r.longer ? '*' : ''}` },
  { title: 'found', left: true, cell: (r) => r.found },
  { title: 'optimum', left: true, cell: (r) => r.optimum },
];

function exhaustiveText({ rows }: Part<ExhaustiveRow>): string {
  const far = rows.filter((r) => r.ratio > WITHIN);
  return `Some schedules of one kernel of a unit, drawn at random, with the default among them; everything else stays as it is. All of them are measured
beside the default, the fastest ones once more, and the search gets 15 % of the measurements. *place*: of the found one among all by the first measurements.
\\*: measured a second time, for longer.

- ${rows.length} spaces of ${Math.min(...rows.map((r) => r.size))} to ${Math.max(...rows.map((r) => r.size))} schedules; found within 5 % of the optimum: ${rows.length - far.length} of ${rows.length}${far.length === 0 ? '' : ` (**not**: ${far.map((r) => r.index).join(', ')})`}
- found / optimum: median ${ratio(median(rows.map((r) => r.ratio)))}, worst ${ratio(Math.max(...rows.map((r) => r.ratio)))}

${markdownTable(EXHAUSTIVE_COLUMNS, rows)}`;
}

const KILLS_COLUMNS: readonly Column<KillsRow>[] = [
  { title: '#', cell: (r) => String(r.index) },
  { title: 'spec', left: true, cell: (r) => r.spec },
  { title: 'T', left: true, cell: (r) => r.tokens },
  { title: 'kills', cell: (r) => String(r.kills) },
  { title: 'of runs that measured', cell: (r) => String(r.useful) },
  { title: 'measurements', cell: (r) => String(r.measurements) },
  { title: 'entries', cell: (r) => String(r.entries) },
  { title: 'same winners', left: true, cell: (r) => (r.same ? 'yes' : '**no**') },
  { title: 'measured again', cell: (r) => String(r.measuredAgain) },
  { title: 'corrupt files', cell: (r) => String(r.corrupt) },
  { title: 'torn lines', cell: (r) => String(r.torn) },
  { title: 'temporary files left', cell: (r) => String(r.left) },
];

function killsText({ rows }: Part<KillsRow>): string {
  const sum = (of: (r: KillsRow) => number): number => rows.reduce((n, r) => n + of(r), 0);
  return `\`moec tune --resume\`, killed with SIGKILL and all of its processes at random moments, resumed until it ends. *Same winners*: as a run in peace that is
given the same measurements; *measured again*: what that run measured itself. Torn lines of the log are passed over by readers.

- ${sum((r) => r.kills)} kills in ${rows.length} runs; same winners in ${rows.filter((r) => r.same).length}; corrupt files: ${sum((r) => r.corrupt)}

${markdownTable(KILLS_COLUMNS, rows)}`;
}

const PAIR_COLUMNS: readonly Column<PairRow>[] = [
  { title: 'spec', left: true, cell: (r) => r.spec },
  { title: 'T', left: true, cell: (r) => r.tokens },
  { title: 'exit codes', left: true, cell: (r) => r.codes },
  { title: 'measurements', cell: (r) => String(r.measurements) },
  { title: 'entries', cell: (r) => String(r.entries) },
  { title: 'corrupt files', cell: (r) => String(r.corrupt) },
  { title: 'torn lines', cell: (r) => String(r.torn) },
  { title: 'temporary files left', cell: (r) => String(r.left) },
  { title: 'a third run takes them as they are', left: true, cell: (r) => (r.known ? 'yes' : '**no**') },
];

const FAULT_COLUMNS: readonly Column<FaultRow>[] = [
  { title: 'fault', left: true, cell: (r) => r.fault },
  { title: 'exit code', cell: (r) => String(r.code) },
  { title: 'failures told', left: true, cell: (r) => r.told },
  { title: 'measurements kept', cell: (r) => String(r.measurements) },
  { title: 'entries', cell: (r) => String(r.entries) },
  { title: 'corrupt files', cell: (r) => String(r.corrupt) },
  { title: 's', cell: (r) => r.seconds.toFixed(0) },
  { title: 'warnings', left: true, cell: (r) => r.warnings },
];

function section<R>(title: string, part: Part<R> | undefined, text: (part: Part<R>) => string): string {
  if (part === undefined) return '';
  return `\n## ${title}\n\n${part.date}, ${part.device}; ${part.versions}.\n\n    ${part.command}\n\n${text(part)}\n`;
}

export const page = (r: Results): string => `# What the tuner promises, measured

Made by \`bench/tuning\` with the tuner that \`moec tune\` runs. Times in milliseconds by the device's clock; a CPU plays the device, so only ratios mean
something. ± is two standard errors of a median ratio.
${section('Never slower than the default', r.specs, specsText)}${section('The search beside whole measurements', r.exhaustive, exhaustiveText)}${section('Kills', r.kills, killsText)}${section(
  'Two at once', r.pair, ({ rows }) => `Two runs of \`moec tune\` started together on one empty store.\n\n${markdownTable(PAIR_COLUMNS, rows)}`,
)}${section('Faults', r.faults, ({ rows }) => `One fault in the fourth attempt of a run (\`MOEC_TUNE_FAULTS\`), and a store on a disk of 8 KiB.\n\n${markdownTable(FAULT_COLUMNS, rows)}`)}`;
