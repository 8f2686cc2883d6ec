/**
 * Faults on purpose, for tests: `MOEC_TUNE_FAULTS=hang@2,crash@5` makes the second attempt of a run hang and the fifth end the
 * process. Without the variable nothing in here does anything.
 */
import { CandidateError, type Gpu } from './gpu.ts';

export const FAULTS = ['hang', 'crash', 'lose', 'wrong', 'guard', 'memory', 'compile'] as const;
export type Fault = (typeof FAULTS)[number];

export interface Faults {
  /** May never return. */
  beforeCheck(gpu: Gpu): Promise<void>;
  /** May change what was read. */
  afterCheck(output: Uint8Array | undefined, guard: Uint8Array | undefined): void;
}

export const NO_FAULTS: Faults = { beforeCheck: () => Promise.resolve(), afterCheck: () => undefined };

/** A loop that ends when a buffer says so, which nothing ever writes. */
const ENDLESS = `
@group(0) @binding(0) var<storage, read_write> flag: array<u32>;
@compute @workgroup_size(1) fn endless() {
  loop { if (flag[0] == 12345u) { break; } flag[1] = flag[1] + 1u; }
}`;

async function hang(gpu: Gpu): Promise<void> {
  const buffer = await gpu.buffer(16, 'flag');
  const pipeline = await gpu.compile({ name: 'endless', entry: 'endless', code: ENDLESS, block: 1, access: ['read_write'], hasScalars: false });
  await gpu.run([gpu.bind(pipeline, [buffer], undefined, [1, 1, 1])], [{ buffer, offset: 0, bytes: 16 }]);
}

async function commit(fault: Fault, gpu: Gpu): Promise<void> {
  switch (fault) {
    case 'hang':
      return hang(gpu);
    case 'crash':
      return process.abort();
    case 'lose':
      gpu.destroy();
      // The loss arrives as an event.
      return new Promise(() => undefined);
    case 'memory':
      throw new CandidateError('out-of-memory', 'a buffer could not be allocated (on purpose)');
    case 'compile':
      throw new CandidateError('compile', 'a kernel does not compile (on purpose)');
    default:
      return undefined;
  }
}

/** The faults that a variable of the environment asks for at one attempt. */
export function faultsAt(ordinal: number, text: string = process.env['MOEC_TUNE_FAULTS'] ?? ''): Faults {
  const wanted = text.split(',').map((word) => word.trim().split('@')).filter(([, at]) => Number(at) === ordinal).map(([name]) => name);
  const faults = FAULTS.filter((f) => wanted.includes(f));
  if (faults.length === 0) return NO_FAULTS;
  return {
    async beforeCheck(gpu) {
      for (const fault of faults) await commit(fault, gpu);
    },
    afterCheck(output, guard) {
      if (faults.includes('wrong') && output !== undefined) output[2] = (output[2] ?? 0) ^ 0x40;
      if (faults.includes('guard') && guard !== undefined) guard[16] = 0;
    },
  };
}
