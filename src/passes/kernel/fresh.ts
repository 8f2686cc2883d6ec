/** Names for what the kernel passes introduce: never one that the kernel already uses. */
import { allNames } from '../../ir/kernel/walk.ts';
import type { Kernel } from '../../ir/kernel/types.ts';

/** Gives `base`, or `base_2`, `base_3` … where that is taken. */
export type Fresh = (base: string) => string;

export function freshNames(kernel: Kernel): Fresh {
  const taken = allNames(kernel);
  return (base) => {
    let name = base;
    for (let i = 2; taken.has(name); i++) name = `${base}_${i}`;
    taken.add(name);
    return name;
  };
}
