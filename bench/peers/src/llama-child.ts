/** llama.cpp in a process of its own, by node-llama-cpp: answers to messages of the parent. */
import { performance } from 'node:perf_hooks';
import { getLlama, type LlamaContextSequence, LlamaLogLevel, type Token } from 'node-llama-cpp';
import type { Answer, Ask, Open, Run } from './llama-messages.ts';

let sequence: LlamaContextSequence | undefined;

async function open({ path, gpu, context }: Open): Promise<Answer> {
  const start = performance.now();
  const llama = await getLlama({ gpu, build: 'never', logLevel: LlamaLogLevel.error, progressLogs: false, maxThreads: gpu === false ? 2 : 1 });
  if (llama.gpu !== gpu) throw new Error(`asked for ${String(gpu)}, got ${String(llama.gpu)}`);
  const devices = await llama.getGpuDeviceNames();
  const model = await llama.loadModel({ modelPath: path, gpuLayers: gpu === false ? 0 : 'max' });
  const made = await model.createContext({ contextSize: context, batchSize: context, sequences: 1, ...(gpu === false ? {} : { threads: 1 }) });
  sequence = made.getSequence();
  return { op: 'opened', device: devices.join(', ') || 'CPU', version: llama.llamaCppRelease.release, loadMs: performance.now() - start };
}

async function run({ ids, decode, logits }: Run): Promise<Answer> {
  if (sequence === undefined) throw new Error('no model is open');
  await sequence.clearHistory();
  // Temperature 1 without any filter: the logits are those of the model.
  const options = { temperature: 1, topK: 0, topP: 1, minP: 0 };
  const next = (token: number, withLogits: boolean): [Token, object] => [token as Token, { generateNext: { token: !withLogits, logits: withLogits, options: withLogits ? options : { temperature: 0 } } }];
  const last = ids.at(-1) ?? 0;
  const start = performance.now();
  const made = await sequence.controlledEvaluate([...ids.slice(0, -1).map((id) => id as Token), next(last, logits)]);
  const prefillMs = performance.now() - start;
  const seen = made.at(-1)?.next;
  const all = logits ? Array.from(seen?.logits ?? new Map<Token, number>()) : undefined;
  const again = performance.now();
  for (let i = 0; i < decode; i++) await sequence.controlledEvaluate([next(ids[i % ids.length] ?? 0, false)]);
  const decodeMs = performance.now() - again;
  return { op: 'ran', prefillMs, decodeMs, logits: all?.sort(([a], [b]) => a - b).map(([, v]) => v) };
}

const answer = (value: Answer): void => void process.send?.(value);

process.on('message', (ask: Ask) => {
  if (ask.op === 'close') process.exit(0);
  void (ask.op === 'open' ? open(ask) : run(ask)).then(answer, (error: unknown) => answer({ op: 'failed', message: error instanceof Error ? error.message : String(error) }));
});
