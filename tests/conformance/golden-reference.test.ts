/** The golden cases in the f64 evaluator. */
import { REFERENCE } from './benches.ts';
import { MODEL_CASES } from './cases.ts';
import { layerSuite, modelSuite } from './golden-suite.ts';

layerSuite(REFERENCE);
modelSuite(REFERENCE, MODEL_CASES);
