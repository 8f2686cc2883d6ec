/** Runs one command: every way it can end becomes an exit code and, where it failed, words. */
import { CommandError, type CommonOptions, EXIT, type ExitCode, makeIo, Reported } from './io.ts';

interface TypedError {
  readonly code: string;
  readonly fix?: string;
}

const isTyped = (error: Error): error is Error & TypedError =>
  'code' in error && typeof error.code === 'string' && /^MOE[59]\d{3}$/.test(error.code);

const isSystem = (error: Error): error is Error & { readonly code: string; readonly path?: string } =>
  'code' in error && typeof error.code === 'string' && /^E[A-Z]+$/.test(error.code);

/** Exit codes of the runtime's errors by their class; of all others, `io`. */
const RUNTIME_EXITS: ReadonlyMap<string, ExitCode> = new Map([
  ['NoWebGPUError', EXIT.noDevice],
  ['NoAdapterError', EXIT.noDevice],
  ['FeatureMissingError', EXIT.noDevice],
  ['LimitTooSmallError', EXIT.noDevice],
  ['OutOfMemoryError', EXIT.noDevice],
  ['DeviceLostError', EXIT.noDevice],
  ['ShaderCompileError', EXIT.noDevice],
  ['NoKoffiError', EXIT.noDevice],
  ['NoCudaLibraryError', EXIT.noDevice],
  ['NoCudaDriverError', EXIT.noDevice],
  ['NoCudaDeviceError', EXIT.noDevice],
  ['CudaArchitectureError', EXIT.noDevice],
  ['NumericsError', EXIT.verification],
  ['AbortError', EXIT.interrupted],
  ['InternalError', EXIT.internal],
]);

const SYSTEM_WORDS: Readonly<Record<string, string>> = {
  ENOENT: 'does not exist',
  EACCES: 'may not be read or written by you',
  EISDIR: 'is a directory',
  ENOTDIR: 'is not a directory',
  ENOSPC: 'does not fit: the disk is full',
  EROFS: 'lies on a read-only file system',
};

interface Failure {
  readonly exitCode: number;
  readonly message: string;
  readonly code?: string;
  readonly fix?: string;
}

function failureOf(error: unknown): Failure {
  if (error instanceof CommandError) {
    return { exitCode: error.exitCode, message: error.message, ...(error.code === undefined ? {} : { code: error.code }), ...(error.fix === undefined ? {} : { fix: error.fix }) };
  }
  if (error instanceof Error && isTyped(error)) {
    const exitCode = RUNTIME_EXITS.get(error.name) ?? EXIT.io;
    return { exitCode, message: error.message, code: error.code, ...(error.fix === undefined ? {} : { fix: error.fix }) };
  }
  if (error instanceof Error && isSystem(error)) {
    const what = SYSTEM_WORDS[error.code];
    return { exitCode: EXIT.io, message: what === undefined || error.path === undefined ? error.message : `${error.path} ${what}` };
  }
  return {
    exitCode: EXIT.internal,
    message: `internal error: ${error instanceof Error ? error.message : String(error)}`,
    code: 'MOE9001',
    fix: 'run again with --verbose and report the trace together with the spec',
  };
}

/** The exit code of `body`; what it throws is told on stderr (and, with --json, as JSON on stdout). */
export async function runCommand(options: CommonOptions, body: () => Promise<number>): Promise<number> {
  const io = makeIo(options);
  try {
    return await body();
  } catch (error) {
    if (error instanceof Reported) return error.exitCode;
    const failure = failureOf(error);
    const { visible } = await import('../diagnostics/display.ts');
    if (io.json) io.emit({ error: failure });
    io.say(`error${failure.code === undefined ? '' : `[${failure.code}]`}: ${visible(failure.message, true)}`);
    if (failure.fix !== undefined) io.say(`  fix: ${visible(failure.fix, true)}`);
    if (options.verbose === true && error instanceof Error) io.say(error.stack ?? '');
    return failure.exitCode;
  }
}
