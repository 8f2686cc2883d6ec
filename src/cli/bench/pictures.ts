/** Draws the pictures of a result into a directory. */
import { mkdirSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { writeWhole } from '../run-io.ts';
import { picturesOf, searchPicture } from './plots.ts';
import type { BenchResult } from './result.ts';
import type { SearchStep } from './tuning-log.ts';
import { loadVega } from './vega.ts';

export interface WrittenPicture {
  readonly title: string;
  readonly path: string;
  /** As a Markdown file at its place refers to it. */
  readonly file: string;
}

/**
 * @param markdown the file that will refer to the pictures
 * @param search of the tuner, where one is to be shown
 */
export async function writePictures(result: BenchResult, directory: string, markdown: string | undefined, search: readonly SearchStep[] = []): Promise<readonly WrittenPicture[]> {
  const vega = await loadVega();
  mkdirSync(directory, { recursive: true });
  const from = dirname(resolve(markdown ?? join(directory, 'report.md')));
  const written: WrittenPicture[] = [];
  for (const { name, title, spec } of [...picturesOf(result), ...(search.length === 0 ? [] : [searchPicture(result, search)])]) {
    const path = join(directory, `${name}.svg`);
    writeWhole(path, new TextEncoder().encode(await vega.svg(spec)));
    written.push({ title, path, file: relative(from, resolve(path)).split(sep).join('/') });
  }
  return written;
}
