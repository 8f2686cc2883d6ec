/** The small OLMoE by all who can run it: logits against f64 first, then prompts and tokens one after another, in turns. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { summarise } from '../../../src/cli/bench/stats.ts';
import { loadReference } from '../../../src/driver/reference.ts';
import { lowerToGraphs } from '../../../src/lower/model-to-graph.ts';
import { deviation } from '../../../src/runtime/core/metrics.ts';
import { namedTensors } from '../../../src/runtime/core/tensors.ts';
import { specOf } from './moec-peers.ts';
import { llamaModel, moecModel, type ModelPeer, type ModelRun } from './model-peers.ts';
import { type ModelStorage, OLMOE, olmoeSpec, olmoeTensors, prompt, type Tensor, writeOlmoeGguf } from './olmoe.ts';
import { type Absent, reasonOf } from './peer.ts';
import { interleaved, timeOf, timesAsFast } from './rounds.ts';

export interface ModelRow {
  readonly name: string;
  readonly storage: ModelStorage;
  readonly detail: string;
  readonly n: number;
  readonly promptTokens: number;
  readonly decodeTokens: number;
  /** Tokens a second, medians. */
  readonly prefill: number;
  readonly decode: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
  /** How many times as fast as llama.cpp on Vulkan with the same storage; medians of the rounds' ratios. */
  readonly timesLlama?: { readonly prefill: number; readonly decode: number };
  /** Of the logits after the prompt, against f64 over the weights as they are stored. */
  readonly nmse: number;
  readonly openMs: number;
  /** Of the first prompt, and of the first tokens after it: compilers included. */
  readonly firstMs: number;
}

const LLAMA = 'llama.cpp Vulkan';

async function referenceLogits(tensors: ReadonlyMap<string, Tensor>, storage: ModelStorage, tokens: number): Promise<Float64Array> {
  const reference = await loadReference(lowerToGraphs(specOf(olmoeSpec(storage))), namedTensors(tensors), { capacity: tokens, stored: true });
  const { results } = reference.run({ ids: prompt(tokens) });
  return Float64Array.from(results['y'] ?? []).slice(-OLMOE.vocab);
}

export interface ModelBench {
  readonly rows: readonly ModelRow[];
  readonly absent: readonly Absent[];
}

export async function benchModel(tokens: number, decode: number, rounds: number, storages: readonly ModelStorage[], cpu: boolean, say: (text: string) => void): Promise<ModelBench> {
  const directory = mkdtempSync(join(tmpdir(), 'moec-peers-'));
  const absent: Absent[] = [];
  const ready: { readonly peer: ModelPeer; readonly nmse: number; readonly firstMs: number }[] = [];
  try {
    const tensors = olmoeTensors();
    for (const storage of storages) {
      say(`the reference’s logits, ${storage}`);
      const expected = await referenceLogits(tensors, storage, tokens);
      const path = join(directory, `${storage}.gguf`);
      writeOlmoeGguf(path, tensors, storage);
      const open: readonly (readonly [string, () => Promise<ModelPeer>])[] = [
        [`moec, ${storage}`, () => moecModel(tensors, storage)],
        [`${LLAMA}, ${storage}`, () => llamaModel(path, storage, 'vulkan')],
        ...(cpu ? [[`llama.cpp CPU, ${storage}`, () => llamaModel(path, storage, false)] as const] : []),
      ];
      for (const [name, make] of open) {
        say(`${name}: loading, first calls (a software adapter may compile for minutes)`);
        try {
          const peer = await make();
          let logits: ArrayLike<number> = [];
          const firstMs = await timeOf(async () => {
            logits = await peer.logits(tokens);
            await peer.run(tokens, decode);
          });
          ready.push({ peer, nmse: deviation(logits, expected, 1).nmse, firstMs });
        } catch (error) {
          absent.push({ name, why: reasonOf(error) });
        }
      }
    }
    say(`${rounds} rounds of ${ready.length}`);
    const runs = new Map<ModelPeer, ModelRun[]>(ready.map(({ peer }) => [peer, []]));
    const timed = await interleaved(ready, rounds, ({ peer }) =>
      timeOf(async () => {
        runs.get(peer)?.push(await peer.run(tokens, decode));
      }),
    );
    const byWord = (peer: ModelPeer | undefined, of: 'prefillMs' | 'decodeMs'): number[] => (peer === undefined ? [] : (runs.get(peer) ?? []).map((r) => r[of]));
    const llama = (storage: ModelStorage): ModelPeer | undefined => ready.find(({ peer }) => peer.storage === storage && peer.name.startsWith(LLAMA))?.peer;
    const rows = timed.flatMap(({ of: { peer, nmse, firstMs }, failed }): ModelRow[] => {
      const own = runs.get(peer) ?? [];
      if (failed !== undefined) {
        absent.push({ name: peer.name, why: failed });
        return [];
      }
      const [prefillMs, decodeMs] = [summarise(own.map((r) => r.prefillMs)).median, summarise(own.map((r) => r.decodeMs)).median];
      const base = llama(peer.storage);
      const times = (of: 'prefillMs' | 'decodeMs'): number => timesAsFast(byWord(peer, of), byWord(base, of));
      return [{
        ...(base === undefined ? {} : { timesLlama: { prefill: times('prefillMs'), decode: times('decodeMs') } }),
        name: peer.name, storage: peer.storage, detail: peer.detail, n: own.length, promptTokens: tokens, decodeTokens: decode,
        prefill: (1000 * tokens) / prefillMs, decode: (1000 * decode) / decodeMs, prefillMs, decodeMs, nmse, openMs: peer.openMs, firstMs,
      }];
    });
    return { rows, absent };
  } finally {
    for (const { peer } of ready) await peer.dispose().catch(() => undefined);
    rmSync(directory, { recursive: true, force: true });
  }
}
