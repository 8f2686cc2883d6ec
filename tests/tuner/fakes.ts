/** A unit without a spec and a device without kernels: candidates take as long as a formula says. */
import { hashAt, hashText } from '../../src/runtime/core/random.ts';
import type { GroupedProblem } from '../../src/kernels/index.ts';
import { type Capabilities, WEBGPU_BASELINE } from '../../src/target/types.ts';
import type { Job, UnitData } from '../../src/tuner/job.ts';
import type { Failed, FailureClass, Outcome } from '../../src/tuner/outcome.ts';
import type { DeviceFacts, Loaded } from '../../src/tuner/protocol.ts';
import { type AttemptRequest, type Runner, TuneStopped } from '../../src/tuner/runner.ts';
import type { Asked } from '../../src/tuner/space/index.ts';
import { configText, type Unit } from '../../src/tuner/unit.ts';

export const CAPS: Capabilities = { ...WEBGPU_BASELINE, subgroups: true, subgroupSize: 8 };

export const DEVICE: DeviceFacts = {
  backend: 'webgpu', name: 'fake', adapter: 'v / a / d / fake 1.0', implementation: 'fake 1', software: true, subgroupSize: 8, timestamps: true, features: ['subgroups'],
  limits: { maxBindingBytes: 1 << 27, maxBufferBytes: 1 << 28, maxBindings: 8, maxThreadsPerBlock: 256, maxSharedBytes: 16_384, maxGrid: 65_535 },
};

export const problem = (p: Partial<GroupedProblem> = {}): GroupedProblem => ({
  experts: 8, slots: 2, mode: 'direct', tileRows: 1, gather: true, epilogue: { kind: 'none' }, n: 64, k: 128, weightElem: 'f32',
  routeWeights: false, combine: false, scale: 1, residual: false, ...p,
});

const asked = (p: Partial<GroupedProblem>): Asked => ({ family: 'grouped-linear', problem: problem(p) });

export interface FakeUnitOptions {
  readonly name?: string;
  readonly tokens?: number;
  readonly from?: number;
  /** `rows`: one kernel without a plan; `layer`: two kernels over a sorted plan. */
  readonly kind?: 'rows' | 'layer';
  readonly exact?: boolean;
}

const EMPTY: Job = { kernels: [], steps: [], scratch: [] };

export interface FakeUnit extends Unit {
  /** How often data were made. */
  readonly made: { count: number };
}

export function fakeUnit({ name = 'fake', tokens = 4, from = tokens, kind = 'rows', exact = false }: FakeUnitOptions = {}): FakeUnit {
  const made = { count: 0 };
  return {
    id: hashText(name + kind, 1).toString(16), name, tokens, from, exact, work: 1e6, bytes: 1e6, made,
    scenarios: [{ name: 'uniform', weight: 1 }, { name: 'onehot', weight: 0.2 }],
    ...(kind === 'layer' ? { plan: { experts: 8, slots: 2, standard: 16 } } : {}),
    asked: (tileRows) =>
      kind === 'rows'
        ? [asked({})]
        : [asked({ mode: 'sorted', tileRows: tileRows ?? 16, epilogue: { kind: 'glu', activation: 'silu' } }), asked({ mode: 'sorted', tileRows: tileRows ?? 16, n: 128, k: 64, gather: false })],
    standardJob: () => EMPTY,
    job: () => EMPTY,
    data(t, seed): Promise<UnitData> {
      made.count++;
      return Promise.resolve({ seed, experts: 8, params: [], inputs: [], outputs: [], scenarios: [{ name: String(t), weight: 1, inputs: [], expected: [] }], gate: { nmse: 1e-9, rowNmse: 1e-8 } });
    },
  };
}

/** What a job's key says: heights and parameters of the schedules. */
export function paramsOf(key: string): { readonly tileRows: number | undefined; readonly schedules: readonly Readonly<Record<string, number | string>>[] } {
  const [rows = '', ...texts] = key.split('|');
  const schedules = texts.map((t): Readonly<Record<string, number | string>> => {
    const parsed: { readonly tile?: Readonly<Record<string, number | string>>; readonly matvec?: Readonly<Record<string, number | string>> } = JSON.parse(t);
    return parsed.tile ?? parsed.matvec ?? {};
  });
  return { tileRows: rows === '' ? undefined : Number(rows), schedules };
}

export type Landscape = (key: string, at: { readonly tokens: number; readonly seed: number }) => number;

/** A valley with its bottom at some schedule, steeper along some parameters, and uneven by a few percent. */
export function valley(seed: number, uneven = 0.03): Landscape {
  const key = hashText('valley', seed);
  const unit = (name: string): number => hashAt(key, hashText(name, 0)) / 2 ** 32;
  return (text) => {
    const { tileRows, schedules } = paramsOf(text);
    let log = 0;
    schedules.forEach((s, i) => {
      for (const [name, value] of Object.entries(s)) {
        if (typeof value === 'string') log += unit(`${i} ${name} ${value}`) * 0.8;
        else if (name !== 'bm') log += (0.05 + 0.2 * unit(`${i} ${name} weight`)) * Math.abs(Math.log2(value) - 7 * unit(`${i} ${name}`)) ** 1.5;
      }
    });
    if (tileRows !== undefined) log += 0.3 * Math.abs(Math.log2(tileRows) - 2 - 4 * unit('rows'));
    return Math.exp(log) * (1 + uneven * (2 * unit(text) - 1));
  };
}

export interface FakeRunnerOptions {
  readonly landscape?: Landscape;
  readonly noise?: number;
  /** Failures by the key of a candidate. */
  fails?(key: string, at: { readonly tokens: number; readonly seed: number; readonly checkOnly: boolean }): FailureClass | undefined;
  /** Asked before each attempt; what it throws ends the run. */
  before?(attempt: number): void;
  /** Milliseconds that an attempt takes. */
  readonly delay?: number;
  readonly standard?: string;
}

export class FakeRunner implements Runner {
  readonly attempts: { readonly key: string; readonly beside: string; readonly tokens: number; readonly seed: number; readonly timed: boolean }[] = [];
  loads = 0;
  #at = { tokens: 0, seed: 0 };
  readonly #options: FakeRunnerOptions;

  constructor(options: FakeRunnerOptions = {}) {
    this.#options = options;
  }

  open(): Promise<DeviceFacts> {
    return Promise.resolve(DEVICE);
  }

  load(data: UnitData): Promise<Loaded | Failed> {
    this.loads++;
    this.#at = { tokens: Number(data.scenarios[0]?.name), seed: data.seed };
    return Promise.resolve({ ms: 1 });
  }

  #ms(key: string): number {
    const { landscape = valley(1), standard } = this.#options;
    return key === 'standard' ? (standard === undefined ? 10 : landscape(standard, this.#at)) : landscape(key, this.#at);
  }

  async attempt({ candidate, beside, rule }: AttemptRequest): Promise<Outcome> {
    const { fails, before, delay, noise = 0.01 } = this.#options;
    before?.(this.attempts.length);
    if (delay !== undefined) await new Promise((resolve) => void setTimeout(resolve, delay));
    this.attempts.push({ key: candidate.key, beside: beside.key, ...this.#at, timed: rule !== undefined });
    const failure = fails?.(candidate.key, { ...this.#at, checkOnly: rule === undefined });
    if (failure !== undefined) return { ok: false, failure, message: `${failure} on purpose` };
    const [ms, besideMs] = [this.#ms(candidate.key), this.#ms(beside.key)];
    return { ok: true, ms, besideMs, ratio: ms / besideMs, noise, batches: rule?.batches ?? 0, rough: rule?.giveUp !== undefined && ms > rule.giveUp * besideMs };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

export const stopAt = (n: number): ((attempt: number) => void) => (attempt) => {
  if (attempt >= n) throw new TuneStopped('interrupted', 'interrupted');
};

export { configText };
