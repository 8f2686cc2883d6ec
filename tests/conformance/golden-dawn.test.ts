/** The golden cases on the WebGPU device at hand, all on one device: on software adapters compiling the kernels takes most of the time. */
import { dawnBench } from './benches.ts';
import { layerSuite, modelSuite } from './golden-suite.ts';

const bench = dawnBench();
layerSuite(bench);
modelSuite(bench, ['tiny_deepseek_v3', 'tiny_gpt_oss']);
