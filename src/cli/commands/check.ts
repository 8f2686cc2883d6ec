/** `moec check FILE…` */
import { renderGithub, summary, toJson } from '../../diagnostics/render.ts';
import { countErrors, EXIT, makeIo, type CommonOptions } from '../io.ts';
import { readSpecFile, tell } from '../load-spec.ts';

interface Options extends CommonOptions {
  readonly format?: 'text' | 'json' | 'github';
}

export function run(files: readonly string[], options: Options): number {
  const json = options.json === true || options.format === 'json';
  const io = makeIo({ ...options, json });
  const results = files.map(readSpecFile);
  const sources = (name: string): string | undefined => results.find((r) => r.file === name)?.text;
  const all = results.flatMap((r) => r.front.diagnostics);
  if (json) {
    io.emit({
      files: results.map((r) => ({ file: r.file, units: r.front.specs.map((s) => ({ name: s.name, kind: s.kind })) })),
      diagnostics: toJson(all, sources),
    });
  } else if (options.format === 'github') {
    if (all.length > 0) io.out(renderGithub(all, sources));
  } else {
    for (const r of results) tell(io, r, r.front.diagnostics);
    for (const r of results) {
      if (countErrors(r.front.diagnostics) === 0) {
        const units = r.front.specs.map((s) => `${s.kind} ${JSON.stringify(s.name)}`).join(', ');
        io.say(`${r.file}: ok (${units === '' ? 'empty' : units}${r.front.diagnostics.length > 0 ? `; ${summary(r.front.diagnostics)}` : ''})`);
      }
    }
  }
  return countErrors(all) > 0 ? EXIT.diagnostics : EXIT.ok;
}
