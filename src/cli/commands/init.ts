/** `moec init --from DIR|config.json` and `moec init --template NAME` */
import { existsSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { hasErrors, renderText, toJson } from '../../diagnostics/index.ts';
import { initFromConfig, type InitResult, initTemplate, templateNames } from '../../driver/init/index.ts';
import { CommandError, EXIT, makeIo, type CommonOptions, type Io } from '../io.ts';
import { readText } from '../load-spec.ts';
import { writeWhole } from '../run-io.ts';

interface Options extends CommonOptions {
  readonly from?: string;
  readonly template?: string;
  readonly output?: string;
  readonly force?: boolean;
}

const MAX_CONFIG_BYTES = 16 << 20;

function configPath(from: string): string {
  const stat = statSync(from, { throwIfNoEntry: false });
  if (stat === undefined) throw new CommandError(EXIT.io, `${from} does not exist`, { fix: 'give a model directory or its config.json' });
  const path = stat.isDirectory() ? join(from, 'config.json') : from;
  if (!existsSync(path)) {
    throw new CommandError(EXIT.io, `${from} has no config.json`, { fix: 'give the directory of a model in Hugging Face layout, or a config.json' });
  }
  if (statSync(path).size > MAX_CONFIG_BYTES) throw new CommandError(EXIT.io, `${path} is too large for a config.json`);
  return path;
}

function fromConfig(from: string): InitResult {
  const path = configPath(from);
  let config: unknown;
  try {
    config = JSON.parse(readText(path).replace(/^\ufeff/, ''));
  } catch (error) {
    if (error instanceof CommandError) throw error;
    throw new CommandError(EXIT.io, `${path} is not JSON: ${error instanceof Error ? error.message : String(error)}`, { code: 'MOE2050' });
  }
  return initFromConfig(config, { name: basename(dirname(resolve(path))) });
}

function tell(io: Io, result: InitResult): void {
  if (result.diagnostics.length > 0) io.say(renderText(result.diagnostics, () => undefined, { color: io.color }));
  for (const note of result.notes) io.say(`note: ${note}`);
}

function write(io: Io, output: string, text: string, force: boolean): void {
  if (existsSync(output) && !force) {
    throw new CommandError(EXIT.io, `${output} exists already`, { fix: 'choose another name, or add --force to replace it' });
  }
  writeWhole(output, new TextEncoder().encode(text));
  io.say(`${output}: written`);
}

export function run(_args: readonly string[], options: Options): number {
  const io = makeIo(options);
  if ((options.from === undefined) === (options.template === undefined)) {
    throw new CommandError(EXIT.usage, 'give either --from or --template', { fix: `templates: ${templateNames.join(', ')}` });
  }
  const result = options.from === undefined ? initTemplate(options.template ?? '') : fromConfig(options.from);
  const bad = hasErrors(result.diagnostics);
  if (!io.json) tell(io, result);
  if (!bad && options.output !== undefined) write(io, options.output, result.text, options.force === true);
  if (io.json) {
    io.emit({ text: result.text, notes: result.notes, diagnostics: toJson(result.diagnostics, () => undefined), output: bad ? null : (options.output ?? null) });
  } else if (!bad && options.output === undefined) {
    io.out(result.text);
  }
  return bad ? EXIT.diagnostics : EXIT.ok;
}
