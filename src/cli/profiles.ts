/** What to compile for: `--target`, `--limits` (WebGPU) and `--arch` (CUDA). */
import { type Capabilities, CUDA_ARCHITECTURES, LIMIT_PROFILES, type TargetName } from '../driver/profiles.ts';
import { CommandError, EXIT } from './io.ts';

function named(all: readonly Capabilities[], name: string, what: string): Capabilities {
  const found = all.find((p) => p.profile === name);
  if (found !== undefined) return found;
  throw new CommandError(EXIT.usage, `there is no ${what} ${JSON.stringify(name)}`, { fix: `one of ${all.map((p) => p.profile).join(', ')}` });
}

export const profileOf = (name: string): Capabilities => named(LIMIT_PROFILES, name, 'limit profile');
export const architectureOf = (name: string): Capabilities => named(CUDA_ARCHITECTURES, name, 'CUDA architecture');

export interface DeviceChoice {
  /** WebGPU's; default `baseline`. */
  readonly limits?: string;
  /** CUDA's; default `sm_80`, which runs on everything from Ampere on. */
  readonly arch?: string;
}

export const capsOf = (target: TargetName, { limits = 'baseline', arch = 'sm_80' }: DeviceChoice): Capabilities =>
  target === 'cuda' ? architectureOf(arch) : profileOf(limits);
