/** Weights with some tensors replaced. */
import { type NamedTensor, type TensorSet, namedTensors } from '../../src/runtime/core/tensors.ts';

export function withTensors(set: TensorSet, replaced: Readonly<Record<string, NamedTensor>>): TensorSet {
  const own = namedTensors(Object.entries(replaced), 'replaced tensors');
  const of = (name: string): TensorSet => (own.info(name) === undefined ? set : own);
  return {
    label: set.label,
    names: () => set.names(),
    info: (name) => of(name).info(name),
    read: (name, begin, end, signal) => of(name).read(name, begin, end, signal),
    close: () => set.close(),
  };
}
