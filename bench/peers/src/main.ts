/** Measures moec beside its peers and writes Markdown and JSON: see ../README.md. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { GENERATOR } from '../../../src/driver/compile.ts';
import { sharedDevice } from './device.ts';
import { jaxDense, jaxMixture } from './jax-peer.ts';
import { benchLayer, type LayerBench } from './layer-bench.ts';
import { moecDense, moecMixture } from './moec-peers.ts';
import { benchModel } from './model-bench.ts';
import { dequantised, denseFlops, denseReference, denseWeights, layerFlops, layerInput, layerWeights, mixtureReference, quantisedWeights, SHAPE } from './numbers.ts';
import { onnxDense, onnxMixture } from './onnx-peer.ts';
import { type Absent, type Peer, tryPeer } from './peer.ts';
import { markdown, type Result } from './report.ts';
import { naivePeer, tiledPeer } from './wgsl-peer.ts';

/** `bench/peers`; this file runs from `build/bench/peers/src` below it. */
const HERE = fileURLToPath(new URL('../../../..', import.meta.url));
const TABLES = ['mixture', 'dense', 'model'] as const;
type Table = (typeof TABLES)[number];

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: TABLES.join(',') },
    tokens: { type: 'string', default: '1,64,256' },
    rounds: { type: 'string', default: '9' },
    'model-rounds': { type: 'string', default: '5' },
    storage: { type: 'string', default: 'f32,int8,int4' },
    cpu: { type: 'boolean', default: false },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

const say = (text: string): void => void process.stderr.write(`${text}\n`);
const fail = (text: string): never => {
  say(`error: ${text}`);
  process.exit(2);
};
const isTable = (word: string): word is Table => TABLES.some((t) => t === word);
const isStorage = (word: string): word is Peer['storage'] => word === 'f32' || word === 'int8' || word === 'int4';
const count = (text: string, option: string): number => (/^[1-9]\d*$/.test(text) ? Number(text) : fail(`--${option} takes positive whole numbers, not ${JSON.stringify(text)}`));

if (values.help) {
  process.stdout.write('npm start -- [--only mixture,dense,model] [--tokens 1,64,256] [--rounds 9] [--model-rounds 5] [--storage f32,int8,int4] [--cpu] [--out FILE]\n');
  process.exit(0);
}
const only = values.only.split(',').map((w) => (isTable(w) ? w : fail(`--only: there is no table ${JSON.stringify(w)}, only ${TABLES.join(', ')}`)));
const storages = values.storage.split(',').map((w) => (isStorage(w) ? w : fail(`--storage: f32, int8 or int4, not ${JSON.stringify(w)}`)));
const tokens = values.tokens.split(',').map((t) => count(t, 'tokens'));
const rounds = count(values.rounds, 'rounds');
const modelRounds = count(values['model-rounds'], 'model-rounds');

async function openAll(makers: readonly (readonly [string, () => Promise<Peer>])[]): Promise<readonly (Peer | Absent)[]> {
  const opened: (Peer | Absent)[] = [];
  for (const [name, make] of makers) {
    say(`opening ${name}`);
    opened.push(await tryPeer(name, make));
  }
  return opened;
}

async function mixtureTable(): Promise<LayerBench> {
  const weights = layerWeights(SHAPE);
  const makers: (readonly [string, () => Promise<Peer>])[] = [['naive WGSL', () => naivePeer(weights)]];
  for (const s of storages) makers.push([`moec, ${s}`, () => moecMixture(weights, SHAPE, s)]);
  for (const s of storages) if (s !== 'f32') makers.push([`ONNX Runtime WebGPU, QMoE ${s}`, () => onnxMixture(weights, SHAPE, `${s}_f32`)]);
  if (values.cpu) for (const s of storages) if (s !== 'f32') makers.push([`ONNX Runtime CPU, QMoE ${s}`, () => onnxMixture(weights, SHAPE, `${s}_f32`, 'cpu')]);
  makers.push(['jax-js', () => jaxMixture(weights, SHAPE)]);
  return benchLayer(await openAll(makers), {
    tokens, rounds, say,
    input: (n) => layerInput(n, SHAPE),
    reference(x, storage) {
      if (storage === 'f32') return mixtureReference(x, weights.router, weights, SHAPE);
      const { gate, up, down } = quantisedWeights(weights, SHAPE, `${storage}_f32`);
      return mixtureReference(x, weights.router, { gate: dequantised(gate), up: dequantised(up), down: dequantised(down) }, SHAPE);
    },
    flops: (n) => layerFlops(SHAPE, n),
  });
}

async function denseTable(): Promise<LayerBench> {
  const weights = denseWeights(SHAPE);
  const makers: readonly (readonly [string, () => Promise<Peer>])[] = [
    ['plain WGSL', () => tiledPeer(weights)],
    ['moec, f32', () => moecDense(weights)],
    ['ONNX Runtime WebGPU, f32', () => onnxDense(weights)],
    ['jax-js, f32', () => jaxDense(weights)],
  ];
  return benchLayer(await openAll(makers), { tokens, rounds, say, input: (n) => layerInput(n, SHAPE), reference: (x) => denseReference(x, weights), flops: (n) => denseFlops(weights, n) });
}

interface PackageJson {
  readonly dependencies: Readonly<Record<string, string>>;
}

/** The first word of a name, for a file name. */
const slug = (text: string): string => (text.toLowerCase().match(/[a-z0-9]+/g) ?? ['device']).slice(0, 1).join('-');

const { acquired } = await sharedDevice();
const own = JSON.parse(readFileSync(resolve(HERE, 'package.json'), 'utf8')) as PackageJson;
const { 'onnx-proto': _proto, ...peers } = own.dependencies;
const [moec = '', moecVersion = ''] = GENERATOR.split(' ');
say(`device: ${acquired.name}`);
const mixture = only.includes('mixture') ? await mixtureTable() : undefined;
const dense = only.includes('dense') ? await denseTable() : undefined;
const model = only.includes('model') ? await benchModel(64, 16, modelRounds, storages, values.cpu, say) : undefined;
const result: Result = {
  date: new Date().toISOString(),
  command: `npm start${process.argv.length > 2 ? ` -- ${process.argv.slice(2).join(' ')}` : ''}`,
  device: { name: acquired.name, software: acquired.software, processor: cpus()[0]?.model.trim() ?? 'unknown', cores: cpus().length },
  versions: { [moec]: moecVersion, Node: process.versions.node, ...peers },
  ...(mixture === undefined ? {} : { mixture }),
  ...(dense === undefined ? {} : { dense }),
  ...(model === undefined ? {} : { model }),
};
// Where npm was called, not where it runs its scripts.
const from = process.env['INIT_CWD'] ?? process.cwd();
const stem = resolve(from, values.out?.replace(/\.(md|json)$/, '') ?? resolve(HERE, '../results', `peers-${slug(acquired.name)}`));
mkdirSync(dirname(stem), { recursive: true });
writeFileSync(`${stem}.md`, markdown(result));
writeFileSync(`${stem}.json`, `${JSON.stringify(result, undefined, 2)}\n`);
process.stdout.write(`${markdown(result)}\nwrote ${stem}.md and ${stem}.json\n`);
// Libraries hold devices and threads of their own.
process.exit(0);
