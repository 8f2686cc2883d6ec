/** One layer by all who can run it: the same numbers in, results against f64 first, then times. */
import { deviation } from '../../../src/runtime/core/metrics.ts';
import { summarise } from '../../../src/cli/bench/stats.ts';
import { isAbsent, type Absent, type Peer, reasonOf } from './peer.ts';
import { interleaved, timeOf, timesAsFast } from './rounds.ts';

export interface LayerRow {
  readonly tokens: number;
  readonly name: string;
  readonly storage: Peer['storage'];
  readonly detail: string;
  readonly n: number;
  readonly medianMs: number;
  readonly p90Ms: number;
  /** 10⁹ useful operations a second. */
  readonly gflops: number;
  /** How many times as fast as the first peer; median of the rounds. */
  readonly timesFirst: number;
  /** Σ(y − r)² / Σr² against f64 over the weights as they are stored. */
  readonly nmse: number;
  /** Of the first call of so many tokens, in milliseconds: compilers included. */
  readonly firstMs: number;
}

export interface LayerBench {
  readonly rows: readonly LayerRow[];
  readonly absent: readonly Absent[];
}

export interface LayerTask {
  readonly tokens: readonly number[];
  readonly rounds: number;
  readonly input: (tokens: number) => Float32Array;
  readonly reference: (x: Float32Array, storage: Peer['storage']) => Float64Array;
  readonly flops: (tokens: number) => number;
  readonly say: (text: string) => void;
}

/** Results further off than this are wrong, not inexact: such a peer is not timed. */
const WRONG = 1e-2;
const WARM_CALLS = 2;

export async function benchLayer(opened: readonly (Peer | Absent)[], task: LayerTask): Promise<LayerBench> {
  const absent: Absent[] = opened.filter(isAbsent);
  const peers = opened.filter((p): p is Peer => !isAbsent(p));
  const rows: LayerRow[] = [];
  for (const tokens of task.tokens) {
    const x = task.input(tokens);
    const references = new Map<Peer['storage'], Float64Array>();
    const referenceOf = (storage: Peer['storage']): Float64Array => {
      const known = references.get(storage) ?? task.reference(x, storage);
      references.set(storage, known);
      return known;
    };
    const ready: { readonly peer: Peer; readonly nmse: number; readonly firstMs: number }[] = [];
    for (const peer of peers) {
      task.say(`${peer.name}, ${tokens} tokens: first call`);
      try {
        let y = new Float32Array(0);
        const firstMs = await timeOf(async () => {
          y = Float32Array.from(await peer.run(x));
        });
        const { nmse } = deviation(y, referenceOf(peer.storage), tokens);
        if (!(nmse < WRONG)) throw new Error(`its result is wrong: NMSE ${nmse.toExponential(1)}`);
        for (let i = 0; i < WARM_CALLS; i++) await peer.run(x);
        ready.push({ peer, nmse, firstMs });
      } catch (error) {
        absent.push({ name: `${peer.name}, ${tokens} tokens`, why: reasonOf(error) });
      }
    }
    task.say(`${tokens} tokens: ${task.rounds} rounds of ${ready.length}`);
    const timed = await interleaved(ready, task.rounds, ({ peer }) => timeOf(() => peer.run(x)));
    const first = timed[0]?.times ?? [];
    for (const { of: { peer, nmse, firstMs }, times, failed } of timed) {
      if (failed !== undefined) {
        absent.push({ name: `${peer.name}, ${tokens} tokens`, why: failed });
        continue;
      }
      const { n, median, p90 } = summarise(times);
      rows.push({ tokens, name: peer.name, storage: peer.storage, detail: peer.detail, n, medianMs: median, p90Ms: p90, gflops: task.flops(tokens) / median / 1e6, timesFirst: timesAsFast(times, first), nmse, firstMs });
    }
  }
  for (const p of peers) await p.dispose();
  return { rows, absent };
}
