/** `--limits PROFILE` */
import { type Capabilities, LIMIT_PROFILES } from '../driver/profiles.ts';
import { CommandError, EXIT } from './io.ts';

export function profileOf(name: string): Capabilities {
  const found = LIMIT_PROFILES.find((p) => p.profile === name);
  if (found === undefined) {
    throw new CommandError(EXIT.usage, `there is no limit profile ${JSON.stringify(name)}`, { fix: `one of ${LIMIT_PROFILES.map((p) => p.profile).join(', ')}` });
  }
  return found;
}
