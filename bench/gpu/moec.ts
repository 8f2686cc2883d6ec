/**
 * Holds compiled layers on the device for layers.py, which asks in lines of JSON:
 *
 *   {"do":"open","name":N,"directory":PACKAGE,"weights":FILE}   {"do":"run","name":N,"input":FILE,"output":FILE}
 *   {"do":"time","name":N,"runs":R,"flush":B}                   {"do":"close","name":N}
 *
 * Each line is answered by one, with `error` where something went wrong.
 */
import { writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { NewTensor } from '../../src/runtime/core/safetensors.ts';
import { type OpenPackage, type Runtime, openPackage, runtimeOf } from './device.ts';

interface Held {
  readonly runtime: Runtime;
  readonly layer: OpenPackage;
}

const held = new Map<string, Held>();

const text = (request: Readonly<Record<string, unknown>>, key: string): string => {
  const value = request[key];
  if (typeof value !== 'string') throw new TypeError(`${key} is missing`);
  return value;
};

function find(name: string): Held {
  const found = held.get(name);
  if (found === undefined) throw new RangeError(`${name} is not open`);
  return found;
}

async function open(name: string, directory: string, weights: string): Promise<object> {
  const began = performance.now();
  const runtime = await runtimeOf(directory);
  const layer = await openPackage(directory, runtime, async (manifest) => runtime.provider.checkpointWeights(manifest, await runtime.files.openPath(weights)));
  held.set(name, { runtime, layer });
  const { device, memory, times } = layer.session.stats();
  return { device: device.name, software: device.software, weightBytes: memory.weights, uploadMs: times.upload, openMs: performance.now() - began };
}

async function run(name: string, input: string, output: string): Promise<object> {
  const { runtime, layer } = find(name);
  const set = await runtime.files.openPath(input);
  const x = await runtime.tensors.readF32(set, 'x');
  await set.close();
  const { model } = layer.manifest;
  const tokens = x.length / model.hidden;
  const { y, traced } = await layer.call({ tokens, past: 0, x, trace: model.hasRouter ? ['topk_indices'] : [] });
  const tensors: NewTensor[] = [{ name: 'y', dtype: 'F32', shape: [tokens, model.hidden], data: y }];
  const ids = traced.get('topk_indices');
  if (ids !== undefined) tensors.push({ name: 'topk_indices', dtype: 'I32', shape: [tokens, model.slots], data: ids });
  writeFileSync(output, runtime.safetensors.writeSafetensors(tensors));
  return { tokens, dispatches: layer.session.stats().dispatches.last };
}

async function answer(request: Readonly<Record<string, unknown>>): Promise<object> {
  const name = text(request, 'name');
  switch (request['do']) {
    case 'open':
      return open(name, text(request, 'directory'), text(request, 'weights'));
    case 'run':
      return run(name, text(request, 'input'), text(request, 'output'));
    case 'time':
      return { ms: [...(await find(name).layer.time(Number(request['runs']), request['flush'] === true))] };
    case 'close': {
      const { layer } = find(name);
      held.delete(name);
      await layer.dispose();
      return {};
    }
    default:
      throw new RangeError(`nothing called ${String(request['do'])} can be done`);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  let result: object;
  try {
    const request: unknown = JSON.parse(line);
    if (typeof request !== 'object' || request === null) throw new TypeError('a request is an object');
    result = await answer({ ...request });
  } catch (error) {
    result = { error: error instanceof Error ? `${error.name}: ${error.message}` : String(error) };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
for (const { layer } of held.values()) await layer.dispose();
