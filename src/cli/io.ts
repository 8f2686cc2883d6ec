/** How commands talk: stdout is the product, stderr the talk; exit codes are a contract. */
import type { Diagnostic } from '../diagnostics/types.ts';

export const EXIT = {
  ok: 0,
  diagnostics: 1,
  usage: 2,
  noDevice: 3,
  verification: 4,
  io: 5,
  internal: 70,
  interrupted: 130,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** Ends a command with a message and an exit code. */
export class CommandError extends Error {
  readonly exitCode: ExitCode;
  readonly fix: string | undefined;
  /** `MOE…` where the problem has a page. */
  readonly code: string | undefined;

  constructor(exitCode: ExitCode, message: string, details: { readonly fix?: string; readonly code?: string } = {}) {
    super(message);
    this.name = 'CommandError';
    this.exitCode = exitCode;
    this.fix = details.fix;
    this.code = details.code;
  }
}

/** Ends a command whose diagnostics were told already. */
export class Reported extends Error {
  readonly exitCode: number;
  constructor(exitCode: number) {
    super('reported');
    this.exitCode = exitCode;
  }
}

/** Options every command has. */
export interface CommonOptions {
  readonly json?: boolean;
  readonly verbose?: boolean;
}

export interface Io {
  readonly json: boolean;
  readonly color: boolean;
  /** The product: text as it is, or JSON. */
  out(text: string): void;
  /** Talk; silent in JSON mode only where it would repeat the JSON. */
  say(text: string): void;
  /** One JSON document on stdout. */
  emit(value: unknown): void;
}

const isSet = (variable: string): boolean => (process.env[variable] ?? '') !== '';

/** https://no-color.org and https://force-color.org: an empty variable says nothing. */
const wantsColor = (stream: { readonly isTTY?: boolean }): boolean =>
  !isSet('NO_COLOR') && ((isSet('FORCE_COLOR') && process.env['FORCE_COLOR'] !== '0') || (stream.isTTY === true && process.env['TERM'] !== 'dumb'));

/** A reader that stops reading (`moec dump … | head`) ends the command quietly; a full disk is told. */
export function watchStdout(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit();
    process.stderr.write(`error: stdout cannot be written: ${error.message}\n`);
    process.exit(EXIT.io);
  });
}

export function makeIo(options: CommonOptions): Io {
  const line = (text: string): string => (text.endsWith('\n') ? text : `${text}\n`);
  return {
    json: options.json === true,
    color: wantsColor(process.stderr),
    out: (text) => void process.stdout.write(line(text)),
    say: (text) => void process.stderr.write(line(text)),
    emit: (value) => void process.stdout.write(`${JSON.stringify(value, jsonValue, 2)}\n`),
  };
}

const jsonValue = (_key: string, value: unknown): unknown => (value instanceof Map ? Object.fromEntries(value) : value);

export const countErrors = (diagnostics: readonly Diagnostic[]): number => diagnostics.filter((d) => d.severity === 'error').length;
