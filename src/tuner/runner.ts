/** Who runs jobs: the supervisor's process, or a stand-in of tests. */
import type { Job, UnitData } from './job.ts';
import type { Failed, Outcome } from './outcome.ts';
import type { BatchRule, DeviceFacts, Loaded, NamedJob } from './protocol.ts';

export interface AttemptRequest {
  readonly candidate: NamedJob;
  /** Runs in the same batches. */
  readonly beside: NamedJob;
  /** Absent: results are only checked. */
  readonly rule?: BatchRule;
}

export interface Runner {
  /** @throws the error that says why there is no device */
  open(): Promise<DeviceFacts>;
  /** Puts a unit on the device in place of the one before, with the job that all others are held against. */
  load(data: UnitData, standard: Job): Promise<Loaded | Failed>;
  /** @throws TuneStopped where going on makes no sense */
  attempt(request: AttemptRequest): Promise<Outcome>;
  close(): Promise<void>;
}

/** Tuning cannot go on; what was found so far is good. */
export class TuneStopped extends Error {
  readonly why: 'interrupted' | 'device';
  readonly fix: string | undefined;
  constructor(why: 'interrupted' | 'device', message: string, fix?: string) {
    super(message);
    this.name = 'TuneStopped';
    this.why = why;
    this.fix = fix;
  }
}
