/**
 * Waiting for a device that the CPU plays. Dawn's binding for Node asks the device for news in every turn of the event loop, and so
 * keeps a core from the driver's threads while these compute. Turns that rest a little leave it to them; timers, sockets and files
 * are served between rests. Engines whose event loop does not turn for the device (browsers) have nothing to rest.
 */

/** Milliseconds: a rest is a small part of what has been waited so far, so that results are not much later for it. */
const PART = 1 / 16;
const LEAST = 0.05;
const MOST = 1;

type NextTurn = (then: () => void) => unknown;

const isNextTurn = (value: unknown): value is NextTurn => typeof value === 'function';

/** Node's `setImmediate`; undefined elsewhere. */
function nextTurnOfNode(): NextTurn | undefined {
  const process: unknown = Reflect.get(globalThis, 'process');
  const versions: unknown = typeof process === 'object' && process !== null && 'versions' in process ? process.versions : undefined;
  const next: unknown = Reflect.get(globalThis, 'setImmediate');
  return typeof versions === 'object' && versions !== null && 'node' in versions && isNextTurn(next) ? next : undefined;
}

const cell = typeof SharedArrayBuffer === 'undefined' ? undefined : new Int32Array(new SharedArrayBuffer(4));
let waiting = 0;
let began = 0;
let turning = false;

function turn(next: NextTurn, at: Int32Array): void {
  if (waiting === 0) {
    turning = false;
    return;
  }
  Atomics.wait(at, 0, 0, Math.min(MOST, Math.max(LEAST, (performance.now() - began) * PART)));
  next(() => turn(next, at));
}

/** What `news` resolves to; until then the event loop rests in every turn. */
export async function resting<T>(news: Promise<T>): Promise<T> {
  const next = nextTurnOfNode();
  if (next === undefined || cell === undefined) return news;
  if (waiting === 0) began = performance.now();
  waiting++;
  if (!turning) {
    turning = true;
    const at = cell;
    next(() => turn(next, at));
  }
  try {
    return await news;
  } finally {
    waiting--;
  }
}
