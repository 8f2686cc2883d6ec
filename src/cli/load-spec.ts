/** Reads spec files for commands and tells what is wrong with them. */
import { readFileSync } from 'node:fs';
import { renderText, summary, toJson } from '../diagnostics/render.ts';
import type { Diagnostic } from '../diagnostics/types.ts';
import { chooseUnit, type Frontend, readSpecs } from '../driver/frontend.ts';
import type { Spec } from '../driver/analysis.ts';
import { CommandError, EXIT, type Io, Reported } from './io.ts';

export interface SpecFile {
  readonly file: string;
  readonly text: string;
  readonly front: Frontend;
}

function readBytes(file: string): Uint8Array {
  try {
    return readFileSync(file === '-' ? 0 : file);
  } catch (error) {
    // Reading a directory is the one failure of which Node does not tell the path.
    if (error instanceof Error && 'code' in error && error.code === 'EISDIR') throw new CommandError(EXIT.io, `${file} is a directory, not a file`);
    throw error;
  }
}

/** The text of a file; `-` is stdin. Invalid UTF-8 is an input error with the byte's position. */
export function readText(file: string): string {
  const bytes = readBytes(file);
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    const good = new TextDecoder('utf-8').decode(bytes).indexOf('\ufffd');
    throw new CommandError(EXIT.io, `${file} is not UTF-8 text (near character ${good})`, { fix: 'save it as UTF-8' });
  }
}

export function readSpecFile(file: string): SpecFile {
  const text = readText(file);
  return { file, text, front: readSpecs(text, file) };
}

/** Tells diagnostics on stderr; with --json they are emitted by the caller. */
export function tell(io: Io, file: SpecFile, diagnostics: readonly Diagnostic[]): void {
  if (diagnostics.length === 0) return;
  io.say(renderText(diagnostics, (name) => (name === file.file ? file.text : undefined), { color: io.color }));
  const total = summary(diagnostics);
  if (total !== '') io.say(`${file.file}: ${total}`);
}

/** The spec a command works on; tells the diagnostics, and throws `Reported` where there are errors. */
export function loadSpec(io: Io, path: string, unit: string | undefined): { readonly spec: Spec; readonly file: SpecFile } {
  const file = readSpecFile(path);
  const { spec, diagnostics } = chooseUnit(file.front, path, unit);
  if (spec === undefined && io.json) {
    io.emit({ diagnostics: toJson(diagnostics, (name) => (name === path ? file.text : undefined)) });
  } else {
    tell(io, file, diagnostics);
  }
  if (spec === undefined) throw new Reported(EXIT.diagnostics);
  return { spec, file };
}
