/** The families of a layer's dense parts: embedding, norms, projections, rotary positions, attention, element-wise steps. */
export { embed, FAULT_TOKEN_ID } from './embed.ts';
export type { EmbedProblem } from './embed.ts';
export { norm, normSchedule } from './norm.ts';
export type { NormProblem, NormSchedule } from './norm.ts';
export { headLinear, linear, linearShape } from './linear.ts';
export type { HeadLinearProblem, LinearProblem } from './linear.ts';
export { linearSchedule, MATVEC_ROWS } from './matmul.ts';
export type { LinearSchedule, MatmulProblem } from './matmul.ts';
export { act, add, gateMul, glu } from './pointwise.ts';
export type { ActProblem, AddProblem, GateMulProblem, GluProblem } from './pointwise.ts';
export { cacheAppend, concatHeads, sliceHeads } from './heads.ts';
export type { CacheAppendProblem, ConcatHeadsProblem, SliceHeadsProblem } from './heads.ts';
export { rope } from './rope.ts';
export type { RopeProblem } from './rope.ts';
export { attention, attentionSchedule } from './attention.ts';
export type { AttentionProblem, AttentionSchedule } from './attention.ts';
export { elementwiseSchedule, lanesFor } from './common.ts';
export type { ElementwiseSchedule, Rows, Segmented, StorageElem } from './common.ts';
