/** Printed forms of the compiler's stages and reports, for commands. */
export { printGraph } from '../ir/graph/print.ts';
export { printKernel } from '../ir/kernel/print.ts';
export { renderFusionReport } from './fusion-report-text.ts';
