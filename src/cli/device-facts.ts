/** What `moec doctor --measure` found a device to reach: a small JSON file in the user's cache, one a device. */
import { isObject } from '../base/is-object.ts';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { stableHash } from '../base/hash.ts';
import type { DeviceInfo } from '../runtime/core/backend.ts';
import { writeWhole } from './run-io.ts';

/** Peaks of a device, as kernels made by this compiler reach them. */
export interface DevicePeaks {
  /** 10⁹ bytes a second of a large copy, those read and those written together. */
  readonly copyGBs: number;
  /** 10⁹ floating-point operations a second of f32 multiply-adds in registers, each counted as two. */
  readonly fmaGflops: number;
  /** 10⁹ loads a second of one f32, in a loop, from memory in the nearest cache. */
  readonly loadG: number;
  /** The same of four f32 at once. */
  readonly load4G: number;
  /** 10⁹ bytes a second read of shared memory. */
  readonly sharedGBs: number;
  /** Microseconds that one more dispatch in a pass takes. */
  readonly dispatchUs: number;
  /** Microseconds from a submission of one dispatch to its result on the host. */
  readonly submitUs: number;
}

export interface DeviceFacts {
  readonly version: 1;
  readonly backend: string;
  readonly name: string;
  readonly adapter: string;
  readonly software: boolean;
  /** ISO date and time. */
  readonly measured: string;
  readonly peaks: DevicePeaks;
}

const PEAKS: readonly (keyof DevicePeaks)[] = ['copyGBs', 'fmaGflops', 'loadG', 'load4G', 'sharedGBs', 'dispatchUs', 'submitUs'];

/** `$XDG_CACHE_HOME/moec/devices` */
export const factsHome = (): string => join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'moec', 'devices');

type Key = Pick<DeviceInfo, 'backend' | 'name'> & { readonly adapter?: string };

/** Where the facts of a device lie: another device, driver or backend has another file. */
export const factsPath = ({ backend, name, adapter }: Key, home: string = factsHome()): string =>
  join(home, `${stableHash({ backend, name, adapter: adapter ?? '' }).slice(0, 16)}.json`);

function isPeaks(value: unknown): value is DevicePeaks {
  return isObject(value) && PEAKS.every((key) => typeof value[key] === 'number' && Number.isFinite(value[key]) && value[key] > 0);
}

/** The facts of a JSON text; undefined where it is something else, or of another version. */
export function parseFacts(text: string): DeviceFacts | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isObject(value) || value['version'] !== 1 || !isPeaks(value['peaks'])) return undefined;
  const { backend, name, adapter, software, measured, peaks } = value;
  if (typeof backend !== 'string' || typeof name !== 'string' || typeof adapter !== 'string' || typeof software !== 'boolean' || typeof measured !== 'string') return undefined;
  return { version: 1, backend, name, adapter, software, measured, peaks };
}

/** Undefined where the device was not measured, or what lies there cannot be read. */
export function readFacts(device: Key, home?: string): DeviceFacts | undefined {
  const path = factsPath(device, home);
  return existsSync(path) ? parseFacts(readFileSync(path, 'utf8')) : undefined;
}

/** @returns the path of the file */
export function writeFacts(device: Key & Pick<DeviceInfo, 'software'>, peaks: DevicePeaks, home: string = factsHome()): string {
  const { backend, name, adapter = '', software } = device;
  const facts: DeviceFacts = { version: 1, backend, name, adapter, software, measured: new Date().toISOString(), peaks };
  mkdirSync(home, { recursive: true });
  const path = factsPath(device, home);
  writeWhole(path, new TextEncoder().encode(`${JSON.stringify(facts, undefined, 2)}\n`));
  return path;
}
