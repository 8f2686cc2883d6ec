/** Work on a spec's text alone, for commands that need no more. */
export { format } from '../parser/index.ts';
