/** Draws the pictures of a result into a directory. */
import { mkdirSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { writeWhole } from '../run-io.ts';
import { picturesOf } from './plots.ts';
import type { BenchResult } from './result.ts';
import { loadVega } from './vega.ts';

export interface WrittenPicture {
  readonly title: string;
  readonly path: string;
  /** As a Markdown file at its place refers to it. */
  readonly file: string;
}

/** @param markdown the file that will refer to the pictures */
export async function writePictures(result: BenchResult, directory: string, markdown: string | undefined): Promise<readonly WrittenPicture[]> {
  const vega = await loadVega();
  mkdirSync(directory, { recursive: true });
  const from = dirname(resolve(markdown ?? join(directory, 'report.md')));
  const written: WrittenPicture[] = [];
  for (const { name, title, spec } of picturesOf(result)) {
    const path = join(directory, `${name}.svg`);
    writeWhole(path, new TextEncoder().encode(await vega.svg(spec)));
    written.push({ title, path, file: relative(from, resolve(path)).split(sep).join('/') });
  }
  return written;
}
