/** Limit profiles that a spec can be compiled for. */
export { type Capabilities, LIMIT_PROFILES } from '../target/types.ts';
