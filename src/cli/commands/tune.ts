/** `moec tune FILE`: finds the fastest schedules for this device and keeps them where `moec compile --tuned` finds them. */
import { GENERATOR } from '../../driver/compile.ts';
import { mixesText } from '../../driver/tuning/routing.ts';
import { deviceCaps, unitsOf } from '../../driver/tuning/units.ts';
import { listedChoices, spaceSize } from '../../tuner/search/search.ts';
import { TuneStopped } from '../../tuner/runner.ts';
import { keyOf } from '../../tuner/store/entry.ts';
import { TuneLog } from '../../tuner/store/log.ts';
import { TuneStore, warnOnce } from '../../tuner/store/store.ts';
import { Supervisor } from '../../tuner/supervisor.ts';
import { questionFor, tuneAll, type TuneReport, type UnitReport } from '../../tuner/tune-all.ts';
import { plannedEvaluations, spaceOf } from '../../tuner/tune-unit.ts';
import type { DeviceFacts } from '../../tuner/protocol.ts';
import type { Unit } from '../../tuner/unit.ts';
import type { Capabilities } from '../../driver/profiles.ts';
import { CommandError, EXIT, type Io, makeIo } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { disabledPasses } from '../passes-option.ts';
import { capsOf } from '../profiles.ts';
import { resumeCommand, type TuneChoices, type TuneCliOptions, tuneChoices } from '../tune/options.ts';
import { type ProgressLine, progressOn } from '../tune/progress.ts';
import { failureRows, failureText, progressLine, rowOf, tableText } from '../tune/text.ts';

/** Seconds that one measurement takes, about, where nothing is known: drivers compile for longer than kernels run. */
const SECONDS_EACH = 1.5;
/** Two runs of the same kernels that differ by more than this: something else is running. */
const BUSY = 0.1;

interface Session {
  readonly io: Io;
  readonly options: TuneCliOptions;
  readonly choices: TuneChoices;
  readonly units: readonly Unit[];
  readonly device: DeviceFacts;
  readonly caps: Capabilities;
  readonly store: TuneStore;
}

const asked = (s: Session): { readonly device: DeviceFacts; readonly generator: string; readonly routing: string } => ({ device: s.device, generator: GENERATOR, routing: mixesText(s.choices.mixes) });

/** What would be measured: sizes of the spaces, what constraints left out, and where results would go. */
function dryRun(s: Session): number {
  const rows = s.units.map((unit) => {
    const space = spaceOf(unit, s.caps);
    const lists = space.tileRows.flatMap((rows) => space.choices(rows));
    const considered = lists.reduce((n, c) => n + c.considered, 0);
    const legal = lists.reduce((n, c) => n + c.all.length, 0);
    return {
      kernel: unit.name, tokens: unit.tokens, from: unit.from, configurations: spaceSize(space), choices: listedChoices(space), pruned: Math.max(0, considered - legal),
      evaluations: plannedEvaluations(space, s.choices.effort), file: s.store.fileOf(keyOf(questionFor(unit, asked(s)))),
    };
  });
  const seconds = rows.reduce((n, r) => n + r.evaluations, 0) * SECONDS_EACH;
  if (s.io.json) s.io.emit({ device: s.device.name, units: rows, seconds });
  else {
    for (const r of rows) {
      s.io.out(`${r.kernel} T=${r.from === r.tokens ? r.tokens : `${r.from}..${r.tokens}`}: ${r.configurations} configurations of ${r.choices} schedules (${r.pruned} more are not legal here), ${r.evaluations} to measure -> ${r.file}`);
    }
    s.io.out(`about ${Math.ceil(seconds / 60)} min on ${s.device.name}`);
  }
  return EXIT.ok;
}

function tellUnit(line: ProgressLine, r: UnitReport): void {
  const name = `${r.unit.name} T=${r.unit.tokens}`;
  if (r.status === 'failed') return line.say(`${r.why ?? name} (left out)`);
  if (r.result !== undefined && r.result.unrest > BUSY) {
    line.say(`${name}: two runs of the same kernels differ by ${(100 * r.result.unrest).toFixed(0)} %: is something else running on this machine?`);
  }
  const row = rowOf(r);
  if (row === undefined) return;
  const reason = r.status === 'default' && r.why !== undefined ? ` (${r.why})` : '';
  line.say(`${name}: ${row.config === 'default' ? `the default stays${reason}` : `${row.gain.toFixed(2)}x, ${row.config}`}`);
}

function tell(s: Session, report: TuneReport, log: TuneLog): void {
  const rows = report.reports.flatMap((r) => rowOf(r) ?? []);
  const failures = failureRows(report.reports);
  const failed = report.reports.filter((r) => r.status === 'failed').map((r) => ({ kernel: r.unit.name, tokens: r.unit.tokens, why: r.why }));
  const { stopped, unfinished } = report;
  if (s.io.json) {
    s.io.emit({
      device: s.device.name, adapter: s.device.adapter, units: rows, failures, failed, store: s.store.directory, log: log.path,
      ...(stopped === undefined ? {} : { stopped: stopped.message, resume: resumeCommand() }),
    });
    return;
  }
  if (rows.length > 0) s.io.out(tableText(rows));
  if (failures.length > 0) s.io.out(failureText(failures));
  s.io.say(`log: ${log.path}`);
  if (stopped !== undefined) {
    if (unfinished !== undefined) s.io.say(`so far: ${progressLine(unfinished, 0)}`);
    s.io.say(`${stopped.why === 'interrupted' ? 'interrupted' : `stopped: ${stopped.message}`}; everything measured is kept`);
    if (stopped.fix !== undefined) s.io.say(`  fix: ${stopped.fix}`);
    s.io.say(`go on with: ${resumeCommand()}`);
    return;
  }
  if (report.reports.some((r) => r.entry?.config !== null && r.entry !== undefined)) s.io.say(`use it: moec compile FILE --out DIR --tuned ${s.store.directory}`);
}

function exitOf({ reports, stopped }: TuneReport): number {
  if (stopped !== undefined) return stopped.why === 'interrupted' ? EXIT.interrupted : EXIT.noDevice;
  const failed = reports.filter((r) => r.status === 'failed');
  if (failed.length > 0 && failed.length === reports.length) return EXIT.noDevice;
  // The table was told, but what it says is lost.
  return reports.some((r) => r.kept === false) ? EXIT.io : EXIT.ok;
}

async function search(s: Session, supervisor: Supervisor): Promise<number> {
  const line = progressOn(process.stderr);
  const warn = warnOnce((message) => line.say(`warning: ${message}`));
  const resume = s.options.resume === true;
  const store = new TuneStore(s.options.store, warn);
  const log = new TuneLog(s.options.store, warn, resume);
  const { effort, seed, budgetMs } = s.choices;
  const report = await tuneAll({
    units: s.units, runner: supervisor, store, log, caps: s.caps, effort, seed, resume, ...asked(s),
    ...(budgetMs === undefined ? {} : { budgetMs }),
    now: () => performance.now(),
    onProgress: (p) => line.show(p),
    onDone: (r) => tellUnit(line, r),
  });
  line.end();
  tell(s, report, log);
  return exitOf(report);
}

export async function run(args: readonly string[], options: TuneCliOptions): Promise<number> {
  const io = makeIo(options);
  const choices = tuneChoices(options);
  const disabled = disabledPasses();
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const stop = new AbortController();
  const supervisor = new Supervisor({ flags: choices.flags, signal: stop.signal });
  const onSignal = (): void => {
    // The second time at once: whatever hangs is not waited for.
    if (stop.signal.aborted) {
      supervisor.kill();
      process.exit(EXIT.interrupted);
    }
    stop.abort();
  };
  const onExit = (): void => supervisor.kill();
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  process.on('exit', onExit);
  try {
    const device = await supervisor.open();
    const target = { caps: capsOf('webgpu', options), device, disabled };
    const units = unitsOf(spec, { ...target, tokens: choices.tokens, mixes: choices.mixes }).map((p) => p.unit);
    if (units.length === 0) throw new CommandError(EXIT.usage, 'nothing in this spec has schedules to choose from');
    const session: Session = { io, options, choices, units, device, caps: deviceCaps(target).tuned, store: new TuneStore(options.store, io.say) };
    if (options.dryRun === true) return dryRun(session);
    io.say(`device: ${device.name}${device.software ? ' (a CPU plays it)' : ''}; ${units.length} kernels to tune`);
    return await search(session, supervisor);
  } catch (error) {
    if (!(error instanceof TuneStopped)) throw error;
    if (error.why === 'interrupted') return EXIT.interrupted;
    throw new CommandError(EXIT.noDevice, error.message, error.fix === undefined ? {} : { fix: error.fix });
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    process.off('exit', onExit);
    await supervisor.close();
  }
}
