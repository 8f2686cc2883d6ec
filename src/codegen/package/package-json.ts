/** package.json of a generated package: no dependency, no script; what reaches the device is an optional peer. */
import type { Manifest } from '../../runtime/core/abi.ts';
import { packageName } from './escape.ts';

/** Each target's name for people, the folders only it has, and the package that reaches its devices. */
const TARGETS = {
  webgpu: { title: 'WebGPU', folders: ['kernels'], peers: { webgpu: '>=0.6.0 <1' } },
  cuda: { title: 'CUDA', folders: ['cuda'], peers: { koffi: '>=3.3 <4' } },
} as const;

export function packageJson(manifest: Manifest): string {
  const { model } = manifest;
  const { title, folders, peers } = TARGETS[manifest.target];
  const json = JSON.stringify(
    {
      name: packageName(model.name),
      version: '1.0.0',
      description: `${model.kind === 'model' ? 'Model' : 'Layer'} ${packageName(model.name)} on ${title}`,
      type: 'module',
      license: 'UNLICENSED',
      engines: { node: '>=20.19' },
      sideEffects: false,
      main: './index.js',
      types: './index.d.ts',
      exports: {
        '.': { types: './index.d.ts', default: './index.js' },
        './manifest.json': './manifest.json',
        './golden.bin': './golden.bin',
        './package.json': './package.json',
      },
      files: ['index.js', 'index.d.ts', 'manifest.json', 'manifest.js', 'manifest.d.ts', 'golden.bin', 'golden', ...folders, 'runtime', 'src', 'README.md'],
      peerDependencies: peers,
      peerDependenciesMeta: Object.fromEntries(Object.keys(peers).map((name) => [name, { optional: true }])),
    },
    undefined,
    2,
  );
  return `${json}\n`;
}
