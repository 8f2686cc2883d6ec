/** `moec fmt [--check] FILE…` */
import { realpathSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { renderText, toJson } from '../../diagnostics/render.ts';
import { format } from '../../driver/text.ts';
import { countErrors, EXIT, makeIo, type CommonOptions } from '../io.ts';
import { readText } from '../load-spec.ts';

interface Options extends CommonOptions {
  readonly check?: boolean;
}

/** Replaces a file, or what a link leads to, in one step, keeping its mode. */
function replaceFile(path: string, text: string): void {
  const file = realpathSync(path);
  const temporary = `${file}.tmp-${process.pid}`;
  writeFileSync(temporary, text, { mode: statSync(file).mode });
  renameSync(temporary, file);
}

export function run(files: readonly string[], options: Options): number {
  const io = makeIo(options);
  let status: number = EXIT.ok;
  const report: { readonly file: string; readonly changed?: boolean; readonly text?: string; readonly diagnostics?: unknown }[] = [];
  for (const file of files) {
    const text = readText(file);
    const result = format(text, file);
    if (countErrors(result.diagnostics) > 0) {
      if (io.json) report.push({ file, diagnostics: toJson(result.diagnostics, () => text) });
      else io.say(renderText(result.diagnostics, () => text, { color: io.color }));
      status = EXIT.diagnostics;
      continue;
    }
    const changed = result.text !== text;
    report.push({ file, changed, ...(file === '-' ? { text: result.text } : {}) });
    if (options.check === true) {
      if (changed) {
        io.say(`${file}: not formatted`);
        status = EXIT.diagnostics;
      }
    } else if (file === '-') {
      if (!io.json) io.out(result.text);
    } else if (changed) {
      replaceFile(file, result.text);
      io.say(`${file}: formatted`);
    }
  }
  if (io.json) io.emit({ files: report });
  return status;
}
