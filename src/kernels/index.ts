/**
 * Kernel families: functions `(problem, schedule, caps) => Launch` (or `LaunchGroup` where an op may need
 * several kernels). A problem is a plain record of sizes and forms; a schedule of `undefined` asks for the default.
 */
export type { Launch } from './launch.ts';
export * from './dense/index.ts';
export { applyEpilogue, activate, epilogueCount } from './epilogue.ts';
export type { Activation, Epilogue, GluClamp } from './epilogue.ts';
export { legalMatvec, legalTile, matvecColumns, tileSharedBytes, tileThreads } from './schedule.ts';
export type { FmaTile, MatvecSchedule, MmaTile, TileSchedule, TileShape, WgmmaTile } from './schedule.ts';
export * from './moe/index.ts';
