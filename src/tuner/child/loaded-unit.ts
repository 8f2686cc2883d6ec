/** A unit on the device: its weights and inputs, the jobs bound to them, whether results are right, and how long they take. */
import { f16ToNumber, bf16ToNumber } from '../../runtime/core/f16.ts';
import { type Deviation, deviation } from '../../runtime/core/metrics.ts';
import { proceduralProvider } from '../../runtime/core/provider.ts';
import { bindingBytes } from '../../runtime/core/size.ts';
import { ELEM_BYTES } from '../../ir/kernel/cost.ts';
import type { GpuBuffer } from '../../runtime/webgpu/gpu-types.ts';
import type { Expected, Job, JobKernel, JobRef, UnitData, UnitOutput } from '../job.ts';
import type { Measured } from '../outcome.ts';
import type { BatchRule, NamedJob, Phase } from '../protocol.ts';
import { batchOf, inTurns } from '../turns.ts';
import type { Faults } from './faults.ts';
import { type BoundStep, CandidateError, type Gpu, type Pipeline, type Run } from './gpu.ts';

/** Bytes behind every buffer that kernels write, bound with it: they must stay as they are. */
const GUARD = 4096;
const GUARD_BYTE = 0xa5;
/** What buffers hold before a kernel writes them: NaN, and an id that no table has. */
const UNWRITTEN = 0xff;
/** A first run so many times slower than what is given up anyway needs no second one: no cold start explains it. */
const FAR = 2;
/** Jobs that stay compiled: the standard one, the best one and the candidate. */
const KEPT = 3;
const MOST_REPEATS = 512;
const MOST_PIPELINES = 64;

interface Bound {
  readonly job: Job;
  /** By scenario. */
  readonly steps: readonly (readonly BoundStep[])[];
  readonly scratch: readonly Guarded[];
  readonly owned: readonly GpuBuffer[];
  /** Milliseconds of one run by scenario, as first seen. */
  firstMs: readonly number[] | undefined;
}

interface Guarded {
  readonly buffer: GpuBuffer;
  readonly bytes: number;
  readonly label: string;
}

function floats(bytes: Uint8Array, { elem }: UnitOutput): ArrayLike<number> {
  if (elem === 'f32') return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  if (elem !== 'f16' && elem !== 'bf16') return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  return Float64Array.from(halves, elem === 'f16' ? f16ToNumber : bf16ToNumber);
}

/** The part of an output that the reference computed. */
function partOf(values: ArrayLike<number>, { width }: UnitOutput, { rows, columns: [from, to] }: Expected): Float64Array {
  const part = new Float64Array(rows.length * (to - from));
  rows.forEach((row, r) => {
    for (let c = from; c < to; c++) part[r * (to - from) + c - from] = values[row * width + c] ?? NaN;
  });
  return part;
}

const exceeds = (d: Deviation, gate: Deviation): boolean => !(d.nmse <= gate.nmse && d.rowNmse <= gate.rowNmse);

export class LoadedUnit {
  readonly #gpu: Gpu;
  readonly #data: UnitData;
  readonly #phase: (phase: Phase) => void;
  readonly #params = new Map<string, readonly GpuBuffer[]>();
  /** By scenario, then by name. */
  readonly #inputs: ReadonlyMap<string, GpuBuffer>[] = [];
  readonly #outputs = new Map<string, Guarded>();
  readonly #bound = new Map<string, Bound>();
  /** By text, the latest used last. */
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #awake = new WeakSet<object>();
  readonly #owned: GpuBuffer[] = [];
  /** Outputs of the standard job by scenario and name: what single rows of the reference say of it, holds for all of it. */
  readonly #standard: Map<string, ArrayLike<number>>[] = [];
  #faults: GpuBuffer | undefined;

  private constructor(gpu: Gpu, data: UnitData, phase: (phase: Phase) => void) {
    this.#gpu = gpu;
    this.#data = data;
    this.#phase = phase;
  }

  /** @throws CandidateError where the device has no room */
  static async load(gpu: Gpu, data: UnitData, phase: (phase: Phase) => void): Promise<LoadedUnit> {
    const unit = new LoadedUnit(gpu, data, phase);
    try {
      await unit.#fill();
      return unit;
    } catch (error) {
      unit.dispose();
      throw error;
    }
  }

  async #make(bytes: number, label: string, kind?: 'uniform'): Promise<GpuBuffer> {
    const buffer = await this.#gpu.buffer(bytes, label, kind);
    this.#owned.push(buffer);
    return buffer;
  }

  async #fill(): Promise<void> {
    const { params, inputs, outputs, scenarios, seed, experts } = this.#data;
    const provider = proceduralProvider(seed, experts);
    for (const { name, param, layer, segments } of params) {
      const buffers: GpuBuffer[] = [];
      for (const segment of segments) {
        const buffer = await this.#make(bindingBytes(segment.bytes), name);
        buffers.push(buffer);
        const rowBytes = segment.rows === 0 ? 0 : segment.bytes / segment.rows;
        for await (const chunk of provider.chunks(param, name, layer, segment.first, segment.rows, undefined)) {
          this.#gpu.write(buffer, chunk.row * rowBytes, chunk.data);
          this.#phase('load');
          await this.#gpu.finished();
        }
      }
      this.#params.set(name, buffers);
    }
    const input = async (name: string, bytes: Uint8Array): Promise<readonly [string, GpuBuffer]> => {
      const buffer = await this.#make(bindingBytes(bytes.length), name);
      this.#gpu.write(buffer, 0, bytes);
      return [name, buffer];
    };
    const common = await Promise.all(inputs.map((i) => input(i.name, i.bytes)));
    for (const s of scenarios) this.#inputs.push(new Map([...common, ...(await Promise.all(s.inputs.map((i) => input(i.name, i.bytes))))]));
    for (const o of outputs) this.#outputs.set(o.name, await this.#guarded(o.rows * o.width * ELEM_BYTES[o.elem], o.name, this.#owned));
    this.#faults = await this.#make(16, 'faults');
  }

  async #guarded(bytes: number, label: string, owner: GpuBuffer[]): Promise<Guarded> {
    const buffer = await this.#gpu.buffer(bindingBytes(bytes) + GUARD, label);
    owner.push(buffer);
    return { buffer, bytes: bindingBytes(bytes), label };
  }

  /** Compiles a job and binds it to the unit's buffers, unless that was done. */
  async #bind({ key, job }: NamedJob): Promise<Bound> {
    const known = this.#bound.get(key);
    if (known !== undefined) {
      // The map's order is that of use.
      this.#bound.delete(key);
      this.#bound.set(key, known);
      return known;
    }
    const { maxGrid } = this.#gpu.facts.limits;
    const wide = job.steps.find((s) => Math.max(...s.grid) > maxGrid);
    if (wide !== undefined) throw new CandidateError('compile', `a grid of ${wide.grid.join(' x ')} blocks, one dimension of the device holds ${maxGrid}`);
    const owned: GpuBuffer[] = [];
    try {
      const bound = await this.#bindNew(job, owned);
      this.#bound.set(key, bound);
      return bound;
    } catch (error) {
      for (const b of owned) b.destroy();
      throw error;
    }
  }

  /** Candidates differ in one kernel from those before: drivers take longer for a text than the text then runs. */
  async #compile(kernel: JobKernel): Promise<Pipeline> {
    const known = this.#pipelines.get(kernel.code);
    this.#phase('compile');
    const pipeline = known ?? (await this.#gpu.compile(kernel));
    this.#pipelines.delete(kernel.code);
    this.#pipelines.set(kernel.code, pipeline);
    for (const code of this.#pipelines.keys()) {
      if (this.#pipelines.size <= MOST_PIPELINES) break;
      this.#pipelines.delete(code);
    }
    return pipeline;
  }

  /** @param owned gets the buffers that are made for the job */
  async #bindNew(job: Job, owned: GpuBuffer[]): Promise<Bound> {
    const pipelines: Pipeline[] = [];
    for (const kernel of job.kernels) pipelines.push(await this.#compile(kernel));
    const scratch: Guarded[] = [];
    for (const [i, bytes] of job.scratch.entries()) scratch.push(await this.#guarded(bytes, `scratch ${i}`, owned));
    const uniforms: (GpuBuffer | undefined)[] = [];
    for (const step of job.steps) {
      if (job.kernels[step.kernel]?.hasScalars !== true) {
        uniforms.push(undefined);
        continue;
      }
      const buffer = await this.#gpu.buffer(256, 'scalars', 'uniform');
      owned.push(buffer);
      this.#gpu.write(buffer, 0, new Uint8Array(Uint32Array.from(step.words).buffer));
      uniforms.push(buffer);
    }
    const steps = this.#inputs.map((_, scenario) =>
      job.steps.flatMap((step, i): BoundStep[] => {
        const pipeline = pipelines[step.kernel];
        if (pipeline === undefined || step.grid.includes(0)) return [];
        return [this.#gpu.bind(pipeline, step.args.map((ref) => this.#bufferOf(ref, scenario, scratch)), uniforms[i], step.grid)];
      }),
    );
    return { job, steps, scratch, owned, firstMs: undefined };
  }

  /** Forgets the jobs that were not used for longest. */
  #evict(): void {
    for (const [key, bound] of this.#bound) {
      if (this.#bound.size <= KEPT) return;
      this.#bound.delete(key);
      for (const b of bound.owned) b.destroy();
    }
  }

  #bufferOf(ref: JobRef, scenario: number, scratch: readonly Guarded[]): GpuBuffer {
    const found =
      ref.kind === 'param' ? this.#params.get(ref.name)?.[ref.segment]
      : ref.kind === 'scratch' ? scratch[ref.slot]?.buffer
      : ref.kind === 'io' ? (this.#inputs[scenario]?.get(ref.name) ?? this.#outputs.get(ref.name)?.buffer)
      : this.#faults;
    if (found === undefined) throw new Error(`a job names ${JSON.stringify(ref)}, which the unit has not`);
    return found;
  }

  /** Runs a job once in every scenario on buffers that hold nothing. @throws CandidateError where a result is wrong */
  async #check(bound: Bound, faults: Faults, isStandard: boolean): Promise<void> {
    const outputs = [...this.#outputs.values()];
    const written = [...bound.scratch, ...outputs];
    const clear = (): void => {
      for (const { buffer, bytes } of written) {
        this.#gpu.write(buffer, 0, new Uint8Array(bytes).fill(UNWRITTEN));
        this.#gpu.write(buffer, bytes, new Uint8Array(GUARD).fill(GUARD_BYTE));
      }
    };
    clear();
    await this.#wake(bound);
    for (const [scenario, steps] of bound.steps.entries()) {
      this.#phase('check');
      clear();
      await faults.beforeCheck(this.#gpu);
      const read = await this.#gpu.run(steps, [
        ...outputs.map(({ buffer, bytes }) => ({ buffer, offset: 0, bytes })),
        ...written.map(({ buffer, bytes }) => ({ buffer, offset: bytes, bytes: GUARD })),
      ]);
      const guards = read.slice(outputs.length);
      faults.afterCheck(read[0], guards[0]);
      guards.forEach((guard, i) => {
        const at = guard.findIndex((b) => b !== GUARD_BYTE);
        if (at >= 0) throw new CandidateError('out-of-bounds', `wrote ${at} bytes behind the end of ${written[i]?.label ?? 'a buffer'} (${this.#data.scenarios[scenario]?.name ?? ''})`);
      });
      this.#compare(scenario, read.slice(0, outputs.length), isStandard);
    }
  }

  /** Runs kernels that never ran once, one by one: some drivers compile only then. */
  async #wake({ steps: [steps = []] }: Bound): Promise<void> {
    for (const step of steps) {
      if (this.#awake.has(step.pipeline)) continue;
      this.#phase('first');
      await this.#gpu.run([step], []);
      await this.#gpu.finished();
      this.#awake.add(step.pipeline);
    }
  }

  #compare(scenario: number, read: readonly Uint8Array[], isStandard: boolean): void {
    const { outputs, scenarios, gate } = this.#data;
    const { name = '', expected = [] } = scenarios[scenario] ?? {};
    const wrong = (what: string, d: Deviation): never => {
      throw new CandidateError('incorrect', `${what} (${name}): NMSE ${d.nmse.toExponential(1)}, of the worst row ${d.rowNmse.toExponential(1)}`);
    };
    outputs.forEach((output, i) => {
      const bytes = read[i]?.subarray(0, output.rows * output.width * ELEM_BYTES[output.elem]) ?? new Uint8Array(0);
      const values = floats(bytes, output);
      for (const e of expected) {
        if (e.output !== output.name) continue;
        const d = deviation(partOf(values, output, e), e.values, e.rows.length);
        if (exceeds(d, gate)) wrong(`${output.name} is off`, d);
      }
      const known = this.#standard[scenario]?.get(output.name);
      if (isStandard) {
        const all = this.#standard[scenario] ?? new Map<string, ArrayLike<number>>();
        this.#standard[scenario] = all.set(output.name, values);
      } else if (known !== undefined) {
        const d = deviation(values, known, output.rows);
        if (exceeds(d, gate)) wrong(`${output.name} is not what the standard kernels give`, d);
      }
    });
  }

  /** Milliseconds of one run by scenario: the shorter of two, of one where that is far too much already. */
  async #look(bound: Bound, tooMuch = Infinity): Promise<readonly number[]> {
    if (bound.firstMs !== undefined) return bound.firstMs;
    const looks: (readonly number[])[] = [];
    for (let i = 0; i < 2; i++) {
      this.#phase('time');
      const times = await this.#gpu.time(bound.steps.map((steps): Run => ({ steps, times: 1 })));
      looks.push(times);
      if (this.#weighted(times) > tooMuch) break;
    }
    bound.firstMs = bound.steps.map((_, s) => Math.max(1e-6, Math.min(...looks.map((l) => l[s] ?? Infinity))));
    return bound.firstMs;
  }

  #weighted(byScenario: readonly number[]): number {
    const { scenarios } = this.#data;
    const weight = scenarios.reduce((sum, s) => sum + s.weight, 0);
    return scenarios.reduce((sum, s, i) => sum + s.weight * (byScenario[i] ?? NaN), 0) / weight;
  }

  /** The standard job, right and with a first time; others are held against its results. */
  async standard(job: NamedJob, faults: Faults): Promise<number> {
    const bound = await this.#bind(job);
    await this.#check(bound, faults, true);
    return this.#weighted(await this.#look(bound));
  }

  /** Checks a candidate, then times it in batches that alternate with another job. */
  async attempt(candidate: NamedJob, beside: NamedJob, rule: BatchRule | undefined, faults: Faults): Promise<Measured> {
    try {
      const other = await this.#bind(beside);
      const own = await this.#bind(candidate);
      await this.#check(own, faults, false);
      if (rule === undefined) return { ok: true, ms: 0, besideMs: 0, ratio: 1, noise: 0, batches: 0, rough: true };
      return await this.#time(own, other, rule);
    } finally {
      this.#evict();
    }
  }

  async #time(own: Bound, other: Bound, rule: BatchRule): Promise<Measured> {
    const b = await this.#look(other);
    const a = await this.#look(own, rule.giveUp === undefined ? Infinity : FAR * rule.giveUp * this.#weighted(b));
    const first = { ms: this.#weighted(a), besideMs: this.#weighted(b) };
    if (rule.giveUp !== undefined && first.ms > rule.giveUp * first.besideMs) {
      return { ok: true, ...first, ratio: first.ms / first.besideMs, noise: 1, batches: 2, rough: true };
    }
    // A job comes twice a batch.
    const repeats = (ms: number): number => Math.min(MOST_REPEATS, Math.max(1, Math.ceil(rule.batchMs / ms / 2)));
    const runsOf = (bound: Bound, look: readonly number[]): readonly Run[] => bound.steps.map((steps, s) => ({ steps, times: repeats(look[s] ?? 1) }));
    const [runsA, runsB] = [runsOf(own, a), runsOf(other, b)];
    return inTurns(rule, async (swapped) => {
      this.#phase('time');
      const batch = batchOf(runsA, runsB, swapped, (byScenario) => this.#weighted(byScenario));
      return batch.turnOf(await this.#gpu.time(batch.runs));
    });
  }

  dispose(): void {
    for (const bound of this.#bound.values()) for (const b of bound.owned) b.destroy();
    this.#bound.clear();
    for (const b of this.#owned) b.destroy();
  }
}
