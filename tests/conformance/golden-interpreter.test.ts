/** The golden cases through the whole runtime, on a device played by the kernel interpreter, with both variants of every kernel. */
import { interpreterBench } from './benches.ts';
import { MODEL_CASES } from './cases.ts';
import { layerSuite, modelSuite } from './golden-suite.ts';

const portable = interpreterBench({ variant: 'portable' });
layerSuite(portable);
modelSuite(portable, MODEL_CASES);

// Small subgroups, as software adapters have them: a block holds many.
const subgroups = interpreterBench({ variant: 'subgroups', subgroupSize: 8 });
layerSuite(subgroups);
modelSuite(subgroups, []);
