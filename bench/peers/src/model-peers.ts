/** The whole model: a prompt, then tokens one after another, by moec and by llama.cpp. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { GENERATOR } from '../../../src/driver/compile.ts';
import type { Answer, Ask } from './llama-messages.ts';
import { openSpec, specOf } from './moec-peers.ts';
import { type ModelStorage, OLMOE, olmoeSpec, prompt, type Tensor } from './olmoe.ts';

export interface ModelRun {
  readonly prefillMs: number;
  readonly decodeMs: number;
}

export interface ModelPeer {
  readonly name: string;
  readonly storage: ModelStorage;
  readonly detail: string;
  /** Of getting ready: compiling kernels as far as that is done before the first call, and loading. */
  readonly openMs: number;
  run(tokens: number, decode: number): Promise<ModelRun>;
  /** Logits after the prompt. */
  logits(tokens: number): Promise<ArrayLike<number>>;
  dispose(): Promise<void>;
}

export async function moecModel(tensors: ReadonlyMap<string, Tensor>, storage: ModelStorage): Promise<ModelPeer> {
  const start = performance.now();
  const { session } = await openSpec(specOf(olmoeSpec(storage)), tensors);
  const openMs = performance.now() - start;
  const context = session.acquire();
  const call = async (ids: Int32Array, past: number): Promise<Float32Array> => (await session.call({ tokens: ids.length, past, ids, context, rows: 'last' })).y;
  return {
    name: `moec, ${storage}`,
    storage,
    detail: GENERATOR,
    openMs,
    async run(tokens, decode) {
      const ids = prompt(tokens);
      const begun = performance.now();
      await call(ids, 0);
      const prefillMs = performance.now() - begun;
      const again = performance.now();
      for (let i = 0; i < decode; i++) await call(ids.subarray(i % tokens, (i % tokens) + 1), tokens + i);
      return { prefillMs, decodeMs: performance.now() - again };
    },
    logits: (tokens) => call(prompt(tokens), 0),
    async dispose() {
      session.release(context);
      await session.dispose();
    },
  };
}

function asker(child: ChildProcess): (ask: Ask) => Promise<Answer> {
  let lost: string | undefined;
  child.on('exit', (code, signal) => {
    lost = `its process ended (${signal ?? code ?? ''})`;
  });
  return async (ask) => {
    if (lost !== undefined) throw new Error(lost);
    child.send(ask);
    const ended = once(child, 'exit').then((): [Answer] => [{ op: 'failed', message: 'its process ended' }]);
    const [answer] = (await Promise.race([once(child, 'message'), ended])) as [Answer];
    if (answer.op === 'failed') throw new Error(answer.message);
    return answer;
  };
}

const wrong = (answer: Answer): never => {
  throw new Error(`an unexpected answer: ${answer.op}`);
};

/** @param path of a GGUF file */
export async function llamaModel(path: string, storage: ModelStorage, gpu: 'vulkan' | false): Promise<ModelPeer> {
  const child = fork(fileURLToPath(new URL('llama-child.js', import.meta.url)), [], {
    // A software adapter is a CPU to Vulkan, and ggml takes such only where it is named.
    env: { ...process.env, GGML_VK_VISIBLE_DEVICES: process.env['GGML_VK_VISIBLE_DEVICES'] ?? '0' },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const ask = asker(child);
  try {
    const opened = await ask({ op: 'open', path, gpu, context: OLMOE.context });
    if (opened.op !== 'opened') return wrong(opened);
    const names = { f32: 'f32', int4: 'Q4_0', int8: 'Q8_0' } as const;
    return {
      name: `llama.cpp ${gpu === false ? 'CPU' : 'Vulkan'}, ${names[storage]}`,
      storage,
      detail: `node-llama-cpp, llama.cpp ${opened.version}, ${opened.device}`,
      openMs: opened.loadMs,
      async run(tokens, decode) {
        const ran = await ask({ op: 'run', ids: [...prompt(tokens)], decode, logits: false });
        return ran.op === 'ran' ? ran : wrong(ran);
      },
      async logits(tokens) {
        const ran = await ask({ op: 'run', ids: [...prompt(tokens)], decode: 0, logits: true });
        return ran.op === 'ran' ? (ran.logits ?? []) : wrong(ran);
      },
      async dispose() {
        const ended = once(child, 'exit');
        child.send({ op: 'close' });
        await ended;
      },
    };
  } catch (error) {
    child.kill();
    throw error;
  }
}
