/** The real files that CUDA packages carry: all .cuh and .h files of the folder. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CUDA_FOLDER } from './programs.ts';

const FILES = readdirSync(CUDA_FOLDER).filter((f) => /\.(cuh|h)$/.test(f));
const text = (name: string): string => readFileSync(join(CUDA_FOLDER, name), 'utf8');

describe('CUDA sources', () => {
  it('include each other only, and only what there is', () => {
    for (const name of FILES) {
      const included = [...text(name).matchAll(/^#include "([^"]+)"/gm)].map((m) => m[1] ?? '');
      expect(included.filter((i) => !FILES.includes(i)), name).toEqual([]);
    }
  });

  it('are ASCII and short', () => {
    for (const name of FILES) {
      expect(text(name), name).toMatch(/^[\n -~]*$/);
      expect(text(name).split('\n').length, name).toBeLessThan(500);
    }
  });

  it('keep inline assembly in the prelude and in the switch of fibers', () => {
    const strangers = FILES.filter((name) => /\basm\b/.test(text(name)) && !name.startsWith('prelude'));
    expect(strangers).toEqual(['emulator_fibers.h']);
  });
});
