/** Runs the sections of a program over one call's tokens: sizes buffers, binds, and makes the list of commands. */
import type { ManifestIo, ManifestRef, ManifestSection, ManifestStep } from './abi.ts';
import { type BindingHandle, type Command, type DeviceBuffer, type ReadRequest, UNIFORM_ALIGN } from './backend.ts';
import { InternalError, LimitTooSmallError } from './errors.ts';
import { type Bucket, addSectionNeeds, bucketFor, ioBytes, isTokenIds, outputY, scratchName } from './needs.ts';
import { CallBuffers, type KvContext, type RopeTables, type Weights } from './params.ts';
import type { Program } from './program.ts';
import { type SizeEnv, evalSize } from './size.ts';
import { ELEM_BYTES } from './quant.ts';
import { layerName } from './weights.ts';

export interface Call {
  readonly tokens: number;
  /** Tokens in the cache before this call. */
  readonly past: number;
  /** Tokens per sequence. */
  readonly sequenceLength: number;
  readonly ids: Int32Array | undefined;
  readonly x: Float32Array | undefined;
  readonly context: KvContext | undefined;
  /** Rows of the result: all, or that of the last token (models only). */
  readonly rows: 'all' | 'last';
  /** Further outputs of the sections to read, such as `topk_indices`. */
  readonly trace: readonly string[];
}

export interface CallResult {
  readonly y: Float32Array;
  readonly traced: ReadonlyMap<string, Uint8Array>;
  /** Dispatches of the whole call. */
  readonly dispatches: number;
  /** Rows with router logits that were not finite, since the session began. */
  readonly faults: number;
}

/** Commands per submission of a long call: keeps each one short enough for a driver's watchdog. */
const SLICE = 128;
const SLICED_TOKENS = 64;

interface Stage {
  readonly section: ManifestSection;
  readonly sectionIndex: number;
  readonly bucket: Bucket;
  readonly bucketIndex: number;
  readonly layer: number | null;
  /** Tells bindings apart: equal keys bind equal roles. */
  readonly key: string;
  readonly env: SizeEnv;
  readonly io: ReadonlyMap<string, DeviceBuffer>;
}


interface HeadPlan {
  readonly entry: number;
  /** Rows of logits that the call wants, and how many of them one run makes. */
  readonly rows: number;
  readonly run: number;
  readonly rowBytes: number;
  readonly perToken: number;
  /** Whether the rows are copied out of the hidden states first. */
  readonly copies: boolean;
  readonly env: SizeEnv;
}

const bytesOf = (a: Int32Array | Float32Array): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);

/** A view of the first result. */
function floatsOf(part: Uint8Array | undefined): Float32Array {
  if (part === undefined) throw new InternalError('a call without results');
  return new Float32Array(part.buffer, part.byteOffset, part.byteLength / 4);
}

interface Cached {
  readonly buffers: readonly DeviceBuffer[];
  readonly handle: BindingHandle;
}

export class Executor {
  readonly #program: Program;
  readonly #weights: Weights;
  readonly #ropes: RopeTables;
  readonly #buffers: CallBuffers;
  readonly #bindings = new Map<string, Cached>();
  #uniform: DeviceBuffer | undefined;
  #faults: DeviceBuffer | undefined;

  constructor(program: Program, weights: Weights, ropes: RopeTables, memoryLimit: number | undefined) {
    this.#program = program;
    this.#weights = weights;
    this.#ropes = ropes;
    this.#buffers = new CallBuffers(program.backend, memoryLimit);
  }

  get bufferBytes(): number {
    return this.#buffers.bytes + (this.#uniform?.bytes ?? 0) + (this.#faults?.bytes ?? 0);
  }

  #sectionAt(entry: number): { readonly section: ManifestSection; readonly index: number; readonly layer: number | null } {
    const at = this.#program.manifest.sequence[entry];
    const section = at === undefined ? undefined : this.#program.manifest.sections[at.section];
    if (at === undefined || section === undefined) throw new InternalError(`no section at ${entry}`);
    return { section, index: at.section, layer: at.layer };
  }

  #bufferOf(ref: ManifestRef, stage: Stage, step: ManifestStep, context: KvContext | undefined): DeviceBuffer {
    switch (ref.kind) {
      case 'param': {
        const name = layerName(ref.name, stage.layer);
        const segments = this.#weights.buffers.get(name);
        const segment = step.segment?.param === ref.name ? step.segment.index : 0;
        const found = segments?.[segment] ?? this.#ropes.get(name) ?? context?.get(name);
        if (found === undefined) throw new InternalError(`no buffer for parameter ${name}`);
        return found;
      }
      case 'scratch':
        return this.#buffers.get(scratchName(stage.bucket, ref.slot));
      case 'io': {
        const found = stage.io.get(ref.name);
        if (found === undefined) throw new InternalError(`section ${stage.section.name} has no ${ref.name}`);
        return found;
      }
      case 'faults':
        if (this.#faults === undefined) throw new InternalError('no counters');
        return this.#faults;
    }
  }

  #commandsOf(stage: Stage, context: KvContext | undefined): Command[] {
    const program = this.#program;
    const { maxGrid } = program.backend.info.limits;
    const commands: Command[] = [];
    stage.bucket.steps.forEach((step, i) => {
      const grid: [number, number, number] = [evalSize(step.grid[0], stage.env), evalSize(step.grid[1], stage.env), evalSize(step.grid[2], stage.env)];
      if (grid.includes(0)) return;
      const kernel = program.kernels[step.kernel];
      if (kernel === undefined) throw new InternalError(`no kernel ${step.kernel}`);
      const widest = Math.max(...grid);
      if (widest > maxGrid) {
        throw new LimitTooSmallError(`${kernel.label} needs a grid of ${grid.join(' × ')} blocks, and one dimension of this device holds ${maxGrid}`, {
          details: { limit: 'maxComputeWorkgroupsPerDimension', needed: widest, available: maxGrid, tokens: stage.env.T },
          fix: 'call with fewer tokens',
        });
      }
      const buffers = step.args.map((ref) => this.#bufferOf(ref, stage, step, context));
      commands.push({ k: 'dispatch', binding: this.#bind(`${stage.key}.${i}`, stage, i, kernel, buffers), grid });
    });
    return commands;
  }

  #bind(key: string, stage: Stage, step: number, kernel: Program['kernels'][number], buffers: readonly DeviceBuffer[]): BindingHandle {
    const cached = this.#bindings.get(key);
    if (cached !== undefined && cached.buffers.every((b, i) => b === buffers[i])) return cached.handle;
    const program = this.#program;
    const uniform = this.#uniform;
    const slot = program.uniformOf(stage.sectionIndex, stage.bucketIndex, step);
    const range = slot === undefined || uniform === undefined ? undefined : { buffer: uniform, offset: slot.offset, bytes: UNIFORM_ALIGN };
    const handle = program.backend.bind(kernel, buffers, range);
    this.#bindings.set(key, { buffers, handle });
    return handle;
  }

  #writeUniforms(body: SizeEnv, head: SizeEnv): void {
    if (this.#uniform === undefined) return;
    const words = new Uint32Array(this.#uniform.bytes / 4);
    for (const slot of this.#program.uniforms) {
      const env = slot.head ? head : body;
      slot.names.forEach((name, i) => {
        const value = name === 'T' || name === 'past' || name === 'seq' || name === 'cap' ? env[name] : slot.constants[name];
        if (value === undefined) throw new InternalError(`no value for the scalar ${name}`);
        words[slot.offset / 4 + i] = value;
      });
    }
    this.#program.backend.write(this.#uniform, 0, new Uint8Array(words.buffer));
  }

  async #prepare(): Promise<void> {
    if (this.#faults !== undefined) return;
    const { backend, uniforms } = this.#program;
    const uniformBytes = uniforms.length * UNIFORM_ALIGN;
    const made = await backend.createBuffers([
      { bytes: 16, label: 'moec:faults' },
      ...(uniformBytes === 0 ? [] : [{ bytes: uniformBytes, label: 'moec:scalars', uniform: true }]),
    ]);
    [this.#faults, this.#uniform] = made;
  }

  #stage(entry: number, env: SizeEnv, mode: string, context: KvContext | undefined, x: DeviceBuffer | undefined, y: DeviceBuffer): Stage {
    const { section, index, layer } = this.#sectionAt(entry);
    const { bucket, index: bucketIndex } = bucketFor(section, env.T);
    const io = new Map<string, DeviceBuffer>();
    for (const input of section.inputs) {
      if (isTokenIds(input.name)) io.set(input.name, this.#buffers.get('ids'));
      else if (x !== undefined) io.set(input.name, x);
    }
    for (const output of section.outputs) io.set(output.name, output.name === 'y' ? y : this.#buffers.get(`out/${output.name}`));
    return { section, sectionIndex: index, bucket, bucketIndex, layer, env, io, key: `${entry}.${bucketIndex}.${context?.id ?? 0}.${mode}` };
  }

  #stepsThatRun(entry: number, env: SizeEnv): number {
    const { bucket } = bucketFor(this.#sectionAt(entry).section, env.T);
    return bucket.steps.filter((st) => st.grid.every((g) => evalSize(g, env) > 0)).length;
  }

  /** Dispatches that a call of `tokens` tokens takes. */
  countDispatches(tokens: number): number {
    if (tokens === 0) return 0;
    const env = { T: tokens, past: 0, seq: tokens, cap: tokens };
    return this.#program.manifest.sequence.reduce((sum, _, entry) => sum + this.#stepsThatRun(entry, env), 0);
  }

  #yOf(entry: number): ManifestIo {
    return outputY(this.#sectionAt(entry).section);
  }

  /** How the head runs: over all rows at once, or, where their logits exceed one binding, over runs of rows. */
  #planHead(call: Call, cap: number): HeadPlan | undefined {
    const entry = this.#program.headEntry;
    if (entry < 0) return undefined;
    const { limits } = this.#program.backend.info;
    const y = this.#yOf(entry);
    const rowBytes = y.perToken * ELEM_BYTES[y.elem];
    const fit = Math.max(1, Math.floor(Math.min(limits.maxBindingBytes, limits.maxBufferBytes) / rowBytes));
    const rows = call.rows === 'last' ? 1 : call.tokens;
    const run = Math.min(rows, fit);
    return { entry, rows, run, rowBytes, perToken: y.perToken, copies: run !== call.tokens, env: { T: run, past: call.past, seq: run, cap } };
  }

  async run(call: Call): Promise<CallResult> {
    const { manifest, backend, headEntry } = this.#program;
    const cap = call.context?.capacity ?? 0;
    const env: SizeEnv = { T: call.tokens, past: call.past, seq: call.sequenceLength, cap };
    const body = manifest.sequence.map((_, i) => i).filter((i) => i !== headEntry);
    const head = this.#planHead(call, cap);

    const needs = new Map<string, number>();
    for (const entry of body) addSectionNeeds(needs, this.#sectionAt(entry).section, env);
    const widest = Math.max(...body.map((i) => ioBytes(this.#yOf(i), env)), call.x?.byteLength ?? 0);
    needs.set('hidden/0', widest);
    needs.set('hidden/1', widest);
    if (head !== undefined) {
      addSectionNeeds(needs, this.#sectionAt(head.entry).section, head.env);
      needs.set('logits', head.run * head.rowBytes);
      if (head.copies) needs.set('hidden/head', head.run * manifest.model.hidden * 4);
    }
    await this.#prepare();
    await this.#buffers.ensure(needs, call.tokens);

    if (call.ids !== undefined) backend.write(this.#buffers.get('ids'), 0, bytesOf(call.ids));
    if (call.x !== undefined) backend.write(this.#buffers.get('hidden/0'), 0, bytesOf(call.x));
    this.#writeUniforms(env, head?.env ?? env);

    const commands: Command[] = [];
    // A layer's input fills hidden/0; a model's embedding writes it.
    let current = call.x === undefined ? 1 : 0;
    for (const entry of body) {
      const stage = this.#stage(entry, env, 'body', call.context, this.#buffers.get(`hidden/${current}`), this.#buffers.get(`hidden/${1 - current}`));
      commands.push(...this.#commandsOf(stage, call.context));
      current = 1 - current;
    }
    const traced = call.trace.map((name) => this.#traceRequest(name, body, env));
    if (head !== undefined) return this.#runHead(call, head, env, `hidden/${current}`, commands, traced);
    const bytes = ioBytes(this.#yOf(body[body.length - 1] ?? 0), env);
    const parts = await this.#submit('moec:layer', commands, call.tokens, [{ buffer: this.#buffers.get(`hidden/${current}`), offset: 0, bytes }, ...traced]);
    return { ...this.#result(parts, call.trace), y: floatsOf(parts[0]).slice(), dispatches: commands.length };
  }

  async #runHead(call: Call, head: HeadPlan, env: SizeEnv, hiddenName: string, body: readonly Command[], traced: readonly ReadRequest[]): Promise<CallResult> {
    const hidden = this.#buffers.get(hiddenName);
    const logits = this.#buffers.get('logits');
    const hiddenBytes = this.#program.manifest.model.hidden * 4;
    const out = new Float32Array(head.rows * head.perToken);
    const first = call.rows === 'last' ? call.tokens - 1 : 0;
    let dispatches = 0;
    let result: Omit<CallResult, 'y' | 'dispatches'> | undefined;
    for (let row = 0; row < head.rows; row += head.run) {
      const rows = Math.min(head.run, head.rows - row);
      const runEnv: SizeEnv = { ...head.env, T: rows, seq: rows };
      if (rows !== head.run) this.#writeUniforms(env, runEnv);
      const commands: Command[] = row === 0 ? [...body] : [];
      let source = hidden;
      if (head.copies) {
        source = this.#buffers.get('hidden/head');
        commands.push({ k: 'copy', from: hidden, fromOffset: (first + row) * hiddenBytes, to: source, toOffset: 0, bytes: rows * hiddenBytes });
      }
      const mode = head.copies ? 'head' : `head:${hiddenName}`;
      commands.push(...this.#commandsOf(this.#stage(head.entry, runEnv, mode, call.context, source, logits), call.context));
      const parts = await this.#submit('moec:model', commands, call.tokens, [{ buffer: logits, offset: 0, bytes: rows * head.rowBytes }, ...(row === 0 ? traced : [])]);
      out.set(floatsOf(parts[0]), row * head.perToken);
      dispatches += commands.filter((c) => c.k === 'dispatch').length;
      const now = this.#result(parts, row === 0 ? call.trace : []);
      result = { faults: now.faults, traced: result?.traced ?? now.traced };
    }
    if (result === undefined) throw new InternalError('a head without rows');
    return { ...result, y: out, dispatches };
  }

  #faultsBuffer(): DeviceBuffer {
    if (this.#faults === undefined) throw new InternalError('no counters');
    return this.#faults;
  }

  #traceRequest(name: string, body: readonly number[], env: SizeEnv): ReadRequest {
    for (const entry of body) {
      const io = this.#sectionAt(entry).section.outputs.find((o) => o.name === name);
      if (io !== undefined) return { buffer: this.#buffers.get(`out/${name}`), offset: 0, bytes: ioBytes(io, env) };
    }
    throw new InternalError(`no section gives ${name}`);
  }

  /** What follows the result itself: the traced outputs, then the counters. */
  #result(parts: readonly Uint8Array[], names: readonly string[]): { readonly traced: ReadonlyMap<string, Uint8Array>; readonly faults: number } {
    const faults = parts[parts.length - 1];
    if (faults === undefined) throw new InternalError('a call without results');
    return {
      traced: new Map(names.map((n, i) => [n, parts[i + 1] ?? new Uint8Array(0)])),
      faults: new DataView(faults.buffer, faults.byteOffset, 4).getUint32(0, true),
    };
  }

  /** Submits in slices where the call is long; the counters are read last. */
  async #submit(label: string, commands: readonly Command[], tokens: number, reads: readonly ReadRequest[]): Promise<readonly Uint8Array[]> {
    const { backend } = this.#program;
    let at = 0;
    if (tokens > SLICED_TOKENS) {
      for (; commands.length - at > SLICE; at += SLICE) await backend.run(label, commands.slice(at, at + SLICE), []);
    }
    const counters = { buffer: this.#faultsBuffer(), offset: 0, bytes: 4 };
    return backend.run(label, at === 0 ? commands : commands.slice(at), [...reads, counters]);
  }

  dispose(): void {
    this.#buffers.dispose();
    this.#bindings.clear();
    for (const b of [this.#uniform, this.#faults]) if (b !== undefined) this.#program.backend.destroyBuffer(b);
    this.#uniform = undefined;
    this.#faults = undefined;
  }
}
