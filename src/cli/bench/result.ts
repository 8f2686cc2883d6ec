/** All that one `moec bench` found, and what follows from it: rates, shares of the device's peaks, what each pass is worth. */
import type { DeviceInfo } from '../../runtime/core/backend.ts';
import type { Deviation } from '../../runtime/core/metrics.ts';
import type { DeviceFacts, DevicePeaks } from '../device-facts.ts';
import type { Clock, Row } from './measure.ts';
import type { StageTimes } from './session.ts';

/** One-time costs of a contestant, in milliseconds, and its first call beside a later one. */
export interface StageRow {
  readonly name: string;
  readonly kernels: number;
  readonly weightBytes: number;
  readonly times: StageTimes;
  readonly tokens: number;
  readonly first: number;
  readonly steady: number;
}

export interface BenchResult {
  readonly spec: string;
  readonly command: string;
  /** ISO date. */
  readonly date: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly device: Pick<DeviceInfo, 'backend' | 'name' | 'software'>;
  readonly rounds: number;
  readonly rows: readonly Row[];
  /** Contestants that do the very same as the first one, for the given tokens. */
  readonly same: readonly { readonly name: string; readonly tokens: readonly number[] }[];
  /** Contestants that cannot be compiled, and why. */
  readonly failed: readonly { readonly name: string; readonly why: string }[];
  readonly stages: readonly StageRow[];
  readonly facts: DeviceFacts | undefined;
  /** What quantised experts cost the results of the spec, or of its small twin, against full precision. */
  readonly quantisation?: Deviation;
}

export interface Rates {
  readonly clock: Clock;
  readonly ms: number;
  readonly gflops: number;
  readonly gbs: number;
  /** Useful operations a byte. */
  readonly intensity: number;
  /** Of the device's peaks; absent where it was not measured. */
  readonly share?: { readonly fma: number; readonly copy: number; /** Of what the roofline allows at this intensity. */ readonly roofline: number };
}

/** What a device allows at an intensity (operations a byte), in 10⁹ operations a second. */
export const roofline = (peaks: DevicePeaks, intensity: number): number => Math.min(peaks.fmaGflops, peaks.copyGBs * intensity);

/** By the device's clock where there is one: what the host adds is not the kernels'. */
export function ratesOf({ host, device, work }: Row, facts: DeviceFacts | undefined): Rates {
  const ms = device?.median ?? host.median;
  const gflops = work.flops / ms / 1e6;
  const gbs = work.bytes / ms / 1e6;
  const intensity = work.bytes === 0 ? 0 : work.flops / work.bytes;
  const clock = device === undefined ? 'host' : 'device';
  if (facts === undefined) return { clock, ms, gflops, gbs, intensity };
  const { peaks } = facts;
  return { clock, ms, gflops, gbs, intensity, share: { fma: gflops / peaks.fmaGflops, copy: gbs / peaks.copyGBs, roofline: gflops / roofline(peaks, intensity) } };
}

/** What a pass is worth: what its absence adds. */
export interface PassRow {
  readonly pass: string;
  readonly tokens: number;
  readonly routing?: string;
  /** Part of the first one's time, by its clock: 0.2 where a call takes a fifth more without the pass. */
  readonly time: number;
  readonly ms: number;
  readonly bytes: number;
  readonly dispatches: number;
}

export function passRows({ rows }: Pick<BenchResult, 'rows'>): readonly PassRow[] {
  return rows.flatMap((row): PassRow[] => {
    const first = rows.find((r) => r.tokens === row.tokens && r.routing === row.routing);
    if (row.without === undefined || first === undefined) return [];
    return [{
      pass: row.without,
      tokens: row.tokens,
      ...(row.routing === undefined ? {} : { routing: row.routing }),
      time: row.ratio - 1,
      ms: (row.ratio - 1) * ratesOf(first, undefined).ms,
      bytes: row.work.bytes - first.work.bytes,
      dispatches: row.dispatches - first.dispatches,
    }];
  });
}

export const timerText = (rows: readonly Row[]): string =>
  [
    'host: one call by the host’s clock, upload of the input and read-back of the result included',
    ...(rows.some((r) => r.device !== undefined) ? ['device: its passes by timestamp queries; rates and ratios are of it'] : []),
    'procedural weights, interleaved rounds, ratios per round',
  ].join('; ');
