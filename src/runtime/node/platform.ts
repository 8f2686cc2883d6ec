/** What a Node process adds: the file system and Dawn. Imported only there, never by a browser. */
export { nodeGpu as gpu } from './gpu.ts';
export { openPath } from './paths.ts';
