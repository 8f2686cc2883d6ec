/** Printed forms of the compiler's stages, for `moec dump`. */
export { printGraph } from '../ir/graph/print.ts';
export { printKernel } from '../ir/kernel/print.ts';
