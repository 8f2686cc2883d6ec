/** The golden cases on CUDA kernels under the emulator, in every order of threads: all specs in f32, so that the gates are narrow. */
import { MODEL_CASES } from './cases.ts';
import { cudaBench } from './cuda-bench.ts';
import { layerSuite, modelSuite } from './golden-suite.ts';

const bench = cudaBench();
layerSuite(bench);
modelSuite(bench, MODEL_CASES);
