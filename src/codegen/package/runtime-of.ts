/** The part of the runtime that packages of a target need. */
import type { Manifest } from '../../runtime/core/abi.ts';

/** Files of the runtime that only one target uses, by path inside `runtime/`. */
const OWN: Readonly<Record<Manifest['target'], RegExp>> = {
  webgpu: /^webgpu\/|^node\/(gpu|platform|software-driver)\./,
  cuda: /^cuda\/|^core\/cuda-|^node\/cuda-/,
};

/** @param runtime compiled files by path inside `runtime/` */
export function runtimeOf(target: Manifest['target'], runtime: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const foreign = OWN[target === 'webgpu' ? 'cuda' : 'webgpu'];
  return new Map([...runtime].filter(([path]) => !foreign.test(path)));
}
