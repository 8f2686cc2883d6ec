/** The device and the units of a spec, as `moec tune` has them. */
import { GENERATOR } from '../../src/driver/compile.ts';
import { readSpecs } from '../../src/driver/frontend.ts';
import { DEFAULT_MIXES, mixesText } from '../../src/driver/tuning/routing.ts';
import { deviceCaps, unitsOf } from '../../src/driver/tuning/units.ts';
import type { Spec } from '../../src/model/types.ts';
import { type Capabilities, WEBGPU_BASELINE } from '../../src/target/types.ts';
import type { BatchRule, DeviceFacts, NamedJob } from '../../src/tuner/protocol.ts';
import type { Measured } from '../../src/tuner/outcome.ts';
import { Supervisor } from '../../src/tuner/supervisor.ts';
import { type Config, configText, type Unit } from '../../src/tuner/unit.ts';

export const ROUTING = mixesText(DEFAULT_MIXES);
/** For ratios that stand in tables: longer than the tuner's own. */
export const LONG: BatchRule = { batches: 21, batchMs: 4, most: { batches: 61, ms: 2500 } };
export const LONGER: BatchRule = { batches: 101, batchMs: 6 };

/** @throws Error where the text is no spec */
export function specOf(text: string): Spec {
  const { specs: [spec], diagnostics } = readSpecs(text, 'bench.moe');
  const wrong = diagnostics.filter((d) => d.severity === 'error');
  if (spec === undefined || wrong.length > 0) throw new Error(`no spec: ${wrong.map((d) => d.message).join('; ')}\n${text}`);
  return spec;
}

/** A process that measures, and its device. */
export interface Session {
  readonly supervisor: Supervisor;
  readonly device: DeviceFacts;
  readonly caps: Capabilities;
  units(spec: Spec, tokens: readonly number[]): readonly Unit[];
}

export const versionsOf = ({ implementation }: DeviceFacts): string => `${GENERATOR}, Node ${process.versions.node}, ${implementation}`;

/** Opens a process of its own, and ends it afterwards. */
export async function withSession<T>(use: (session: Session) => Promise<T>): Promise<T> {
  const supervisor = new Supervisor();
  const onExit = (): void => supervisor.kill();
  process.on('exit', onExit);
  try {
    const device = await supervisor.open();
    const target = { caps: WEBGPU_BASELINE, device, disabled: new Set<string>() };
    return await use({
      supervisor, device, caps: deviceCaps(target).tuned,
      units: (spec, tokens) => unitsOf(spec, { ...target, tokens, mixes: DEFAULT_MIXES }).map((p) => p.unit),
    });
  } finally {
    process.off('exit', onExit);
    await supervisor.close();
  }
}

/** A unit's default, as an untuned package has it. */
export const standardOf = (unit: Unit): NamedJob => ({ key: 'standard', job: unit.standardJob(unit.tokens) });
export const jobOf = (unit: Unit, config: Config): NamedJob => ({ key: configText(config), job: unit.job(config, unit.tokens) });

/** @throws Error where the device does not take the unit */
export async function load({ supervisor }: Session, unit: Unit, seed: number): Promise<void> {
  const loaded = await supervisor.load(await unit.data(unit.tokens, seed), unit.standardJob(unit.tokens));
  if ('ok' in loaded) throw new Error(`${unit.name}: the default fails: ${loaded.message}`);
}

/** @throws Error where a job that was right when it was tuned now fails */
export async function compare({ supervisor }: Session, candidate: NamedJob, beside: NamedJob, rule: BatchRule): Promise<Measured> {
  const outcome = await supervisor.attempt({ candidate, beside, rule });
  if (!outcome.ok) throw new Error(`${candidate.key} fails (${outcome.failure}): ${outcome.message}`);
  return outcome;
}
