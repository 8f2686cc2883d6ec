/**
 * The seam between the backend and a built CUDA library: its C interface (`host.cuh`), with JavaScript's types.
 * Implemented in `../node` over koffi. Every call answers a code: 0 is well, below zero the library's own, else a cudaError_t.
 */

/** Version of the interface that this runtime speaks. */
export const CUDA_ABI = 1;

/** Address of something inside the library's process, such as an open device or device memory. */
export type Address = bigint;

/** The codes that the runtime tells apart. */
export const CODE = {
  ok: 0,
  badArgument: -1,
  wrongArchitecture: -2,
  internal: -3,
  outOfMemory: 2,
  insufficientDriver: 35,
  noDevice: 100,
  invalidDevice: 101,
  noKernelImage: 209,
} as const;

export interface CudaInfo {
  /** As the driver calls it. */
  readonly name: string;
  /** Compute capability, such as 90. */
  readonly capability: number;
  readonly multiprocessors: number;
  /** Bytes of shared memory that one block may ask for. */
  readonly sharedBytes: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly threadsPerBlock: number;
  /** Blocks per grid dimension: the smallest of the three. */
  readonly maxGrid: number;
  readonly l2Bytes: number;
  /** A CPU plays the device. */
  readonly emulated: boolean;
}

/** Calls that wait run on another thread, and promise; all others return at once. Arrays are read or filled in place. */
export interface CudaLibrary {
  /** Of the file. */
  readonly path: string;
  /** Opens device number `device`; `error` is the text where the code is not 0. */
  open(device: number): Promise<{ readonly code: number; readonly handle: Address; readonly error: string }>;
  info(handle: Address): { readonly code: number; readonly info: CudaInfo };
  /** Index of a kernel, below zero where there is none of this name. */
  kernel(handle: Address, name: string): number;
  /** Memory of zeros. */
  alloc(handle: Address, bytes: number): { readonly code: number; readonly address: Address };
  free(handle: Address, address: Address): number;
  write(handle: Address, address: Address, offset: number, data: Uint8Array): number;
  /** Enqueues commands; `graph` 0 launches them one by one. */
  run(handle: Address, words: BigUint64Array, graph: number): number;
  /** The same on another thread: for devices that compute when they are asked, not in the background. */
  runElsewhere(handle: Address, words: BigUint64Array, graph: number): Promise<number>;
  dropGraph(handle: Address, graph: number): number;
  /** Waits for all that was enqueued, then fills `out`. Three words a request: address, offset, bytes. */
  read(handle: Address, requests: BigUint64Array, out: Uint8Array): Promise<number>;
  wait(handle: Address): Promise<number>;
  /** Fills `milliseconds`, one run each. */
  time(handle: Address, words: BigUint64Array, milliseconds: Float32Array): Promise<number>;
  /** Text of the last failure. */
  error(handle: Address): string;
  /** No other call may be running. */
  close(handle: Address): number;
}
