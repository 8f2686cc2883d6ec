/**
 * Kernels of a program, each distinct one once: nodes that ask for the same thing share one launch, launches of equal
 * content share one kernel, and different kernels never share a name.
 */
import { sameData } from '../base/hash.ts';
import type { Kernel } from '../ir/kernel/types.ts';
import type { Launch } from '../kernels/launch.ts';
import type { LaunchGroup } from '../kernels/moe/index.ts';

export interface KernelPool {
  /** The launches for `key`, made at most once; equal keys must stand for equal problems. Without a key they are made anew. */
  launches(key: string | undefined, make: () => LaunchGroup): LaunchGroup;
}

interface Entry {
  /** As the family made it. */
  readonly source: Kernel;
  readonly named: Kernel;
}

export function kernelPool(): KernelPool {
  const groups = new Map<string, LaunchGroup>();
  const byFamilyName = new Map<string, Entry[]>();
  const names = new Set<string>();

  const freeName = (stem: string): string => {
    let name = stem;
    for (let n = 2; names.has(name); n++) name = `${stem}_${n}`;
    names.add(name);
    return name;
  };
  const shared = (source: Kernel): Kernel => {
    const known = byFamilyName.get(source.name) ?? [];
    const same = known.find((entry) => sameData(entry.source, source));
    if (same !== undefined) return same.named;
    const name = freeName(source.name);
    const named = name === source.name ? source : { ...source, name };
    byFamilyName.set(source.name, [...known, { source, named }]);
    return named;
  };
  return {
    launches(key, make) {
      const known = key === undefined ? undefined : groups.get(key);
      if (known !== undefined) return known;
      const { launches, scratch } = make();
      const group = { launches: launches.map((launch): Launch => ({ ...launch, kernel: shared(launch.kernel) })), scratch };
      if (key !== undefined) groups.set(key, group);
      return group;
    },
  };
}
