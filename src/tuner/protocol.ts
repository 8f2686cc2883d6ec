/**
 * What the tuner and the process that measures say to each other. One request at a time; the answer carries its id, and phases
 * in between say that the process lives and what it is at.
 */
import { isObject } from '../base/is-object.ts';
import type { DeviceInfo } from '../runtime/core/backend.ts';
import type { Job, UnitData } from './job.ts';
import type { Outcome } from './outcome.ts';

export interface DeviceFacts extends DeviceInfo {
  /** Whether the device tells the time itself; else the host's clock is used over longer batches. */
  readonly timestamps: boolean;
  /** The implementation and its version. */
  readonly implementation: string;
}

export interface BatchRule {
  /** At least. */
  readonly batches: number;
  /** Batches and milliseconds up to which a difference that is not clear is followed up. */
  readonly most?: { readonly batches: number; readonly ms: number };
  /** Milliseconds that one candidate runs in one batch, at least. */
  readonly batchMs: number;
  /** A first look that is slower than the other's time times this ends the attempt; absent: no first look. */
  readonly giveUp?: number;
}

/** A job by a name under which the process may still have it compiled. */
export interface NamedJob {
  readonly key: string;
  readonly job: Job;
}

export type Request =
  | { readonly k: 'open'; readonly flags: readonly string[] }
  | { readonly k: 'load'; readonly data: UnitData; readonly standard: Job }
  /** `ordinal` counts the attempts of the whole run; `beside` runs in the same batches; without a rule results are only checked. */
  | { readonly k: 'attempt'; readonly ordinal: number; readonly candidate: NamedJob; readonly beside: NamedJob; readonly rule?: BatchRule };

/** `first`: one kernel runs for the first time, and may be compiled then. */
export type Phase = 'open' | 'load' | 'compile' | 'first' | 'check' | 'time';

export interface Loaded {
  /** Milliseconds of one run of the standard job, scenarios weighted: a first look. */
  readonly ms: number;
}

export type Answer =
  | { readonly k: 'opened'; readonly device: DeviceFacts }
  | { readonly k: 'loaded'; readonly loaded: Loaded | Extract<Outcome, { readonly ok: false }> }
  | { readonly k: 'attempted'; readonly outcome: Outcome };

export interface Numbered<T> {
  readonly id: number;
  readonly body: T;
}

export type FromChild =
  | { readonly k: 'phase'; readonly id: number; readonly phase: Phase }
  | { readonly k: 'answer'; readonly id: number; readonly body: Answer }
  /** The device is gone; the process ends. */
  | { readonly k: 'lost'; readonly message: string }
  /** The process cannot serve the request, and no candidate is to blame. */
  | { readonly k: 'refused'; readonly id: number; readonly name: string; readonly code: string; readonly message: string; readonly fix?: string };

/** Whether a message is one of the child's; its contents are trusted, the child is ours. */
export const isFromChild = (x: unknown): x is FromChild => isObject(x) && (x['k'] === 'phase' || x['k'] === 'answer' || x['k'] === 'lost' || x['k'] === 'refused');
export const isRequest = (x: unknown): x is Numbered<Request> => isObject(x) && typeof x['id'] === 'number' && isObject(x['body']) && typeof x['body']['k'] === 'string';
