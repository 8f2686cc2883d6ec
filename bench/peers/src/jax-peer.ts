/** jax-js: it has no grouped product, so a mixture is dense over all experts, those not chosen with weight 0. */
import { createRequire } from 'node:module';
import type * as JaxModule from '@jax-js/jax';
import { injectNavigatorGpu } from './device.ts';
import type { DenseWeights, LayerWeights, Shape } from './numbers.ts';
import type { Peer } from './peer.ts';

const require = createRequire(import.meta.url);

function versionOf(): string {
  // Its package.json is not among its exports.
  const path = require.resolve('@jax-js/jax').replace(/dist[\\/].*$/, 'package.json');
  return (require(path) as { readonly version: string }).version;
}

type Jax = typeof JaxModule;

async function load(): Promise<Jax> {
  await injectNavigatorGpu();
  const jax = await import('@jax-js/jax');
  const found = await jax.init('webgpu');
  if (!found.includes('webgpu')) throw new Error('jax-js finds no WebGPU device');
  jax.defaultDevice('webgpu');
  return jax;
}

const DETAIL = (): string => `@jax-js/jax ${versionOf()}`;

export async function jaxMixture(weights: LayerWeights, { experts, active, hidden, width }: Shape): Promise<Peer> {
  const { numpy: np, lax, nn, jit } = await load();
  const slice = (data: Float32Array, e: number, n: number, k: number): InstanceType<Jax['Array']> => np.array(data.slice(e * n * k, (e + 1) * n * k)).reshape([n, k]).transpose();
  const banks = Array.from({ length: experts }, (_, e) => ({
    gate: slice(weights.gate, e, width, hidden),
    up: slice(weights.up, e, width, hidden),
    down: slice(weights.down, e, hidden, width),
  }));
  const router = np.array(weights.router.slice()).reshape([experts, hidden]).transpose();
  const layer = jit((x: InstanceType<Jax['Array']>, r: InstanceType<Jax['Array']>, all: typeof banks) => {
    const logits = np.matmul(x.ref, r);
    const [values, ids] = lax.topK(logits, active);
    const chosen = nn.softmax(values);
    // [T, experts]: the weight of each expert, 0 where it was not chosen.
    const share = np.sum(nn.oneHot(ids, experts).mul(np.expandDims(chosen, -1)), 1);
    let y: InstanceType<Jax['Array']> | undefined;
    all.forEach(({ gate, up, down }, e) => {
      const h = nn.silu(np.matmul(x.ref, gate)).mul(np.matmul(x.ref, up));
      const part = np.matmul(h, down).mul(share.ref.slice([], [e, e + 1]));
      y = y === undefined ? part : y.add(part);
    });
    share.dispose();
    x.dispose();
    if (y === undefined) throw new Error('no experts');
    return y;
  });
  return {
    name: 'jax-js, dense over experts',
    storage: 'f32',
    detail: DETAIL(),
    async run(x) {
      const held = banks.map((b) => ({ gate: b.gate.ref, up: b.up.ref, down: b.down.ref }));
      const data = await layer(np.array(x.slice()).reshape([x.length / hidden, hidden]), router.ref, held).data();
      return Float32Array.from(data);
    },
    dispose: () => undefined,
  };
}

export async function jaxDense({ hidden, width, gate, up, down }: DenseWeights): Promise<Peer> {
  const { numpy: np, nn, jit } = await load();
  type Arr = InstanceType<Jax['Array']>;
  const held = (data: Float32Array, n: number, k: number): Arr => np.array(data.slice()).reshape([n, k]).transpose();
  const [g, u, d] = [held(gate, width, hidden), held(up, width, hidden), held(down, hidden, width)];
  const layer = jit((x: Arr, wg: Arr, wu: Arr, wd: Arr) => np.matmul(nn.silu(np.matmul(x.ref, wg)).mul(np.matmul(x, wu)), wd));
  return {
    name: 'jax-js, f32',
    storage: 'f32',
    detail: DETAIL(),
    async run(x) {
      const data = await layer(np.array(x.slice()).reshape([x.length / hidden, hidden]), g.ref, u.ref, d.ref).data();
      return Float32Array.from(data);
    },
    dispose: () => undefined,
  };
}
