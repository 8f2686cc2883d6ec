/** The sources that all CUDA programs include, and where tests keep what they build of them. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '../..');
const SHARED = join(ROOT, 'src/codegen/cuda');

/** Libraries and objects by what they are made of; git does not see it. */
export const CUDA_CACHE = join(ROOT, '.moec/cuda');

/** Texts by name. */
export const sharedSources = (): ReadonlyMap<string, string> =>
  new Map(readdirSync(SHARED).filter((f) => /\.(cuh|h)$/.test(f)).map((f) => [f, readFileSync(join(SHARED, f), 'utf8')]));
