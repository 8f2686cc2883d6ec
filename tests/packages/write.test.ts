import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CommandError } from '../../src/cli/io.ts';
import { writePackage } from '../../src/cli/write-package.ts';

let dir = '';
let out = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'moec-write-'));
  out = join(dir, 'pkg');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const files = (text: string, more: readonly string[] = []): Map<string, string | Uint8Array> => {
  const all = new Map<string, string | Uint8Array>([['index.js', text], ['kernels/k.wgsl', text], ['golden.bin', Uint8Array.of(1, 2)], ...more.map((m): [string, string] => [m, text])]);
  const manifest = JSON.stringify({ generator: 'moec 0.1.0', files: Object.fromEntries([...all.keys()].map((k) => [k, 'digest'])) });
  return all.set('manifest.json', manifest).set('manifest.js', text);
};
const read = (root: string): Record<string, string> =>
  Object.fromEntries((readdirSync(root, { recursive: true, withFileTypes: true })).filter((e) => e.isFile()).map((e) => {
    const path = join(e.parentPath, e.name);
    return [path.slice(root.length + 1), readFileSync(path, 'latin1')];
  }));
const wanted = (f: ReadonlyMap<string, string | Uint8Array>): Record<string, string> =>
  Object.fromEntries([...f].map(([k, v]) => [k, typeof v === 'string' ? v : Buffer.from(v).toString('latin1')]));
const clean = (): void => expect(readdirSync(dir).filter((f) => f.startsWith('.'))).toEqual([]);

describe('writing a package', () => {
  it('makes the directory, and replaces an earlier package as a whole', async () => {
    await writePackage(join(dir, 'deep/er/pkg'), files('0'));
    expect(read(join(dir, 'deep/er/pkg'))).toEqual(wanted(files('0')));
    await writePackage(out, files('1', ['old.txt']));
    await writePackage(out, files('2'));
    expect(read(out)).toEqual(wanted(files('2')));
    mkdirSync(join(dir, 'empty'));
    await writePackage(join(dir, 'empty'), files('3'));
    expect(read(join(dir, 'empty'))).toEqual(wanted(files('3')));
    clean();
  });

  it('touches nothing that is not ours', async () => {
    mkdirSync(out);
    writeFileSync(join(out, 'thesis.txt'), 'years');
    await expect(writePackage(out, files('1'))).rejects.toThrow(CommandError);
    writeFileSync(join(out, 'manifest.json'), '{"generator":"other","files":{}}');
    await expect(writePackage(out, files('1'))).rejects.toThrow(/no package of moec/);
    const ours = join(dir, 'ours');
    await writePackage(ours, files('1'));
    writeFileSync(join(ours, 'notes.txt'), 'mine');
    await expect(writePackage(ours, files('2'))).rejects.toThrow(/notes\.txt/);
    expect(readFileSync(join(ours, 'index.js'), 'utf8')).toBe('1');
    symlinkSync(ours, join(dir, 'link'));
    await expect(writePackage(join(dir, 'link'), files('2'))).rejects.toThrow(/symbolic link/);
    writeFileSync(join(dir, 'file'), '');
    await expect(writePackage(join(dir, 'file'), files('2'))).rejects.toThrow(/not a directory/);
    await expect(writePackage(process.cwd(), files('2'))).rejects.toThrow(/directory you are in/);
    await expect(writePackage('/', files('2'))).rejects.toThrow(CommandError);
    expect(read(out)['thesis.txt']).toBe('years');
    clean();
  });

  it('takes libraries that were built later for its own, of one package and of one for each target', async () => {
    await writePackage(out, files('one'));
    const library = (root: string): string => {
      mkdirSync(join(root, 'cuda/lib'), { recursive: true });
      writeFileSync(join(root, 'cuda/lib/moec-0123456789ab-sm_80.so'), 'built');
      return join(root, 'cuda/lib');
    };
    library(out);
    await writePackage(out, files('two'));
    expect(existsSync(join(out, 'cuda'))).toBe(false);
    const all = (text: string): Map<string, string | Uint8Array> =>
      new Map<string, string | Uint8Array>([
        ['targets.json', JSON.stringify({ generator: 'moec 0.1.0', targets: ['webgpu', 'cuda'] })], ['package.json', text], ['README.md', text],
        ...['webgpu', 'cuda'].flatMap((t) => [...files(text)].map(([path, data]): [string, string | Uint8Array] => [`${t}/${path}`, data])),
      ]);
    await writePackage(out, all('three'));
    const built = library(join(out, 'cuda'));
    await writePackage(out, all('four'));
    expect(existsSync(built)).toBe(false);
    library(join(out, 'cuda'));
    writeFileSync(join(built, 'notes.txt'), 'mine');
    await expect(writePackage(out, all('five'))).rejects.toThrow(/cuda\/cuda\/lib\/notes\.txt that moec did not write/);
    rmSync(join(built, 'notes.txt'));
    writeFileSync(join(out, 'webgpu/notes.txt'), 'mine');
    await expect(writePackage(out, files('six'))).rejects.toThrow(/webgpu\/notes\.txt/);
  });

  it('takes no path that leaves the directory', async () => {
    for (const bad of ['../x', '/x', 'a/../../x', '', 'a//b', './x', '.hidden', 'a\\b', 'a\0b']) {
      await expect(writePackage(out, new Map([[bad, 'x']])), bad).rejects.toThrow(/cannot hold the path/);
    }
    expect(existsSync(out)).toBe(false);
  });

  it('leaves the old package or the new one, wherever it fails', async () => {
    const steps: string[] = [];
    await writePackage(out, files('old'));
    await writePackage(out, files('old'), { before: (s) => void steps.push(s) });
    expect(steps.length).toBe(files('x').size + 4);
    for (const failing of steps) {
      const fail = (step: string): void => {
        if (step === failing) throw new Error('ENOSPC');
      };
      await expect(writePackage(out, files('new'), { before: fail }), failing).rejects.toThrow('ENOSPC');
      expect(read(out), failing).toEqual(wanted(files(failing === 'remove old' ? 'new' : 'old')));
      await writePackage(out, files('old'));
      clean();
    }
  });

  it('repairs what a killed run left', async () => {
    await writePackage(join(dir, '.pkg.old-1'), files('old'));
    mkdirSync(join(dir, '.pkg.tmp-2'));
    writeFileSync(join(dir, '.pkg.tmp-2/index.js'), 'half');
    writeFileSync(join(dir, '.pkg.moec-lock'), '{"pid":999999999,"since":"then"}');
    const stop = (step: string): void => {
      if (step.startsWith('write')) throw new Error('stop');
    };
    await expect(writePackage(out, files('new'), { before: stop })).rejects.toThrow('stop');
    expect(read(out)).toEqual(wanted(files('old')));
    clean();
  });

  it('yields to another process that is writing', async () => {
    writeFileSync(join(dir, '.pkg.moec-lock'), JSON.stringify({ pid: process.ppid, since: 'noon' }));
    await expect(writePackage(out, files('1'))).rejects.toThrow(new RegExp(`process ${process.ppid} .*noon`));
    expect(existsSync(out)).toBe(false);
    for (const stale of ['', '{', '[]', '{"pid":"x"}']) {
      writeFileSync(join(dir, '.pkg.moec-lock'), stale);
      await writePackage(out, files('1'));
      clean();
    }
  });
});
