/** Places as users name them: paths, or `file:` URLs. */
import { fileURLToPath } from 'node:url';
import type { Signal } from '../core/errors.ts';
import type { TensorSet } from '../core/tensors.ts';
import { openPath as openFilePath } from './files.ts';

export const toPath = (place: string): string => (/^file:/i.test(place) ? fileURLToPath(place) : place);

/** Opens weights. */
export const openPath = (place: string, signal?: Signal): Promise<TensorSet> => openFilePath(toPath(place), signal);
