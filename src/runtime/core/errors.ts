/**
 * Everything the runtime can throw on purpose: a stable code, the numbers, and a next step.
 * `message` says what is wrong, `fix` what to do about it; `details` holds the same facts as data.
 */
export type RuntimeErrorCode = `MOE${number}`;

export interface ErrorParts {
  readonly details?: Readonly<Record<string, unknown>>;
  readonly fix?: string;
  readonly cause?: unknown;
}

/** Base of all errors of the runtime. */
export class MoecError extends Error {
  override readonly name: string;
  readonly code: RuntimeErrorCode;
  readonly details: Readonly<Record<string, unknown>>;
  readonly fix: string;

  constructor(name: string, code: RuntimeErrorCode, message: string, parts: ErrorParts = {}) {
    super(message, parts.cause === undefined ? undefined : { cause: parts.cause });
    this.name = name;
    this.code = code;
    this.details = parts.details ?? {};
    this.fix = parts.fix ?? '';
  }
}

/** This JavaScript engine has no WebGPU at all. */
export class NoWebGPUError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('NoWebGPUError', 'MOE5001', message, parts);
  }
}

/** WebGPU is there, but no adapter (no driver, or blocked). */
export class NoAdapterError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('NoAdapterError', 'MOE5002', message, parts);
  }
}

/** A feature the kernels need and no variant does without. */
export class FeatureMissingError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('FeatureMissingError', 'MOE5003', message, parts);
  }
}

/** The device offers less than the plan needs; known before anything is allocated. */
export class LimitTooSmallError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('LimitTooSmallError', 'MOE5004', message, parts);
  }
}

/** The device could not allocate, or the plan is over the caller's budget. */
export class OutOfMemoryError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('OutOfMemoryError', 'MOE5005', message, parts);
  }
}

/** The device went away; every pending call rejects with this. */
export class DeviceLostError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('DeviceLostError', 'MOE5006', message, parts);
  }
}

/** The device's compiler refused a kernel, or the device refused a command. */
export class ShaderCompileError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('ShaderCompileError', 'MOE5007', message, parts);
  }
}

/** Weights are missing, of the wrong shape, or cannot be stored; `details.problems` lists all of them. */
export class WeightsError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}, name = 'WeightsError', code: RuntimeErrorCode = 'MOE5008') {
    super(name, code, message, parts);
  }
}

/** A weights file that is not what it claims to be. `details`: `file`, `tensor`, `position` (bytes), `reason`. */
export class SafetensorsError extends WeightsError {
  constructor(message: string, parts: ErrorParts = {}) {
    super(message, parts, 'SafetensorsError', 'MOE5009');
  }
}

/** Results are not the expected ones: golden vectors failed, or logits are not finite. */
export class NumericsError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('NumericsError', 'MOE5010', message, parts);
  }
}

/** The caller's AbortSignal fired. */
export class AbortError extends MoecError {
  constructor(message = 'the call was aborted', parts: ErrorParts = {}) {
    super('AbortError', 'MOE5011', message, parts);
  }
}

/** The model was disposed. */
export class DisposedError extends MoecError {
  constructor(message = 'the model has been disposed', parts: ErrorParts = {}) {
    super('DisposedError', 'MOE5012', message, { fix: 'load() it again', ...parts });
  }
}

/** A call with arguments that make no sense for this model. */
export class InputError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('InputError', 'MOE5013', message, parts);
  }
}

/** A package whose parts do not belong together, or that another version made. */
export class PackageError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('PackageError', 'MOE5014', message, parts);
  }
}

/** The npm package koffi, which calls the CUDA library, cannot be loaded. */
export class NoKoffiError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('NoKoffiError', 'MOE5015', message, parts);
  }
}

/** The kernels of a CUDA package have not been built, or what was built cannot be loaded. */
export class NoCudaLibraryError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('NoCudaLibraryError', 'MOE5016', message, parts);
  }
}

/** No NVIDIA driver, or one that is too old. */
export class NoCudaDriverError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('NoCudaDriverError', 'MOE5017', message, parts);
  }
}

/** The driver is there, the GPU is not. */
export class NoCudaDeviceError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('NoCudaDeviceError', 'MOE5018', message, parts);
  }
}

/** The kernels were built for another architecture than the device has. */
export class CudaArchitectureError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('CudaArchitectureError', 'MOE5019', message, parts);
  }
}

/** A compiler is missing, or refused the sources; `details`: `command` and `output`. */
export class CudaBuildError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('CudaBuildError', 'MOE5020', message, parts);
  }
}

/** A fault of this software. */
export class InternalError extends MoecError {
  constructor(message: string, parts: ErrorParts = {}) {
    super('InternalError', 'MOE9002', message, { fix: 'this is a fault of moec: please report it with the spec and the device', ...parts });
  }
}

/** The part of AbortSignal that is used, so that no DOM types are needed. */
export interface Signal {
  readonly aborted: boolean;
  readonly reason?: unknown;
  addEventListener(type: 'abort', listener: () => void, options?: { readonly once?: boolean }): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

export function throwIfAborted(signal: Signal | undefined): void {
  if (signal?.aborted === true) throw new AbortError(undefined, { cause: signal.reason });
}

/** Text from outside, fit to print: control, bidirectional and other unprintable characters escaped, long text cut. */
export function quote(text: string, max = 120): string {
  const cut = text.length > max ? `${text.slice(0, max)}…` : text;
  const escape = (c: string): string => {
    const code = c.codePointAt(0) ?? 0;
    return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, '0')}`;
  };
  return JSON.stringify(cut).replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]/gu, escape);
}

/** `1.50 GiB` */
export function showBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(2)} ${units[unit] ?? ''}`;
}
