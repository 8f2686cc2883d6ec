/** Codes 3xxx, the sense of a model. Counting and routing stand in `sense-routing.ts`. */
import { type CodeTable, withExamples } from './page.ts';
import { routing } from './sense-routing.ts';

/** A model around one attention clause or some layer blocks. */
const model = (body: string): string => `model m {\n  vocab 64  hidden 32  context 128\n  ${body}\n}`;

/** A layer of quantised experts. */
const quantised = (group: string, width: number): string =>
  `layer l {\n  hidden 32  dtype f16 experts int4${group === '' ? '' : ` ${group}`}\n  moe { experts 8 of swiglu ${width}  active 2 }\n}`;

export const sense: CodeTable = {
  ...routing,
  MOE3010: withExamples(
    'query heads do not divide among key heads',
    `In grouped-query attention every key and value head serves the same number of query heads, so \`heads\` is a multiple of \`kv\`.`,
    model('attention gqa { heads 8 x 16  kv 3 }  depth 2  ffn swiglu 64'),
    model('attention gqa { heads 8 x 16  kv 2 }  depth 2  ffn swiglu 64'),
  ),
  MOE3011: withExamples(
    'the size of a head cannot be derived',
    `\`heads 8\` alone means heads of hidden / 8 dims. Where that is no whole number, the size of a head must be written.`,
    model('attention mha { heads 5 }  depth 2  ffn swiglu 64'),
    model('attention mha { heads 5 x 8 }  depth 2  ffn swiglu 64'),
  ),
  MOE3012: withExamples(
    'these dims cannot rotate',
    `Rotary embedding turns pairs of dims at the beginning of every head: an even number of them, and no more than the head has.
Where nothing is said, all dims rotate.`,
    model('attention mha { heads 4 x 8  rope 10000 dim 16 }  depth 2  ffn swiglu 64'),
    model('attention mha { heads 4 x 8  rope 10000 dim 4 }  depth 2  ffn swiglu 64'),
  ),
  MOE3013: withExamples(
    'latent attention without rotating dims',
    `A key of latent attention (MLA) has a part that comes from the latent, \`nope\`, and a rotating part that all heads share. The
size of the latter is said by \`rope THETA dim N\`; it follows from nothing else.`,
    model('attention mla { heads 4  kv-lora 16  nope 8  value 8  rope 10000 }  depth 2  ffn swiglu 64'),
    model('attention mla { heads 4  kv-lora 16  nope 8  value 8  rope 10000 dim 8 }  depth 2  ffn swiglu 64'),
  ),
  MOE3020: withExamples(
    'layers that nothing describes',
    `Every layer needs an attention and a feed-forward part, from a layer block that names it or from the model itself. A gap between
two ranges is most often a slip.`,
    model('attention mha { heads 4 }\n  layer 0 { ffn swiglu 64 }\n  layers 2..3 { moe { experts 8 of swiglu 16  active 2 } }'),
    model('attention mha { heads 4 }\n  layer 0 { ffn swiglu 64 }\n  layers 1..3 { moe { experts 8 of swiglu 16  active 2 } }'),
  ),
  MOE3021: withExamples(
    'layers that are described twice',
    `No block wins over another, so a layer has one block that says its attention and one that says its feed-forward part (they may be
two blocks). \`layers rest\` means the layers that no other block names.`,
    model('attention mha { heads 4 }\n  layers 0..2 { ffn swiglu 64 }\n  layers 2..3 { moe { experts 8 of swiglu 16  active 2 } }'),
    model(
      'attention mha { heads 4 }  depth 4\n  layers 0..1 { ffn swiglu 64 }\n  layers rest { moe { experts 8 of swiglu 16  active 2 } }',
    ),
  ),
  MOE3022: withExamples(
    'a layer that does not exist',
    `Layers are counted from 0, so the last of 28 layers is layer 27.`,
    model('attention mha { heads 4 }  depth 4  ffn swiglu 64\n  layers 2..4 { moe { experts 8 of swiglu 16  active 2 } }'),
    model('attention mha { heads 4 }  depth 4  ffn swiglu 64\n  layers 2..3 { moe { experts 8 of swiglu 16  active 2 } }'),
  ),
  MOE3023: withExamples(
    'the number of layers is not known',
    `\`depth\` says how many layers there are. It may be left out only where every block names its last layer by itself; \`all\`, \`rest\`
and an \`every\` without \`to\` do not.`,
    model('attention mha { heads 4 }  ffn swiglu 64'),
    model('attention mha { heads 4 }  ffn swiglu 64  depth 4'),
  ),
  MOE3024: withExamples(
    'a description that serves no layer',
    `The block is read, and no layer is left for it. It may be a leftover, or its selector may be wrong.`,
    model('attention mha { heads 4 }  depth 2\n  layers 0..1 { ffn swiglu 64 }\n  layers rest { ffn swiglu 32 }'),
    model('attention mha { heads 4 }  depth 3\n  layers 0..1 { ffn swiglu 64 }\n  layers rest { ffn swiglu 32 }'),
  ),
  MOE3025: withExamples(
    'a range that runs backwards',
    `A range of layers goes from its lower to its higher end; both are included.`,
    model('attention mha { heads 4 }\n  layers 3..0 { ffn swiglu 64 }'),
    model('attention mha { heads 4 }\n  layers 0..3 { ffn swiglu 64 }'),
  ),
  MOE3046: withExamples(
    'YaRN with impossible constants',
    `YaRN stretches the context by \`factor\` (1 or more). Waves that turn more than \`beta-fast\` times over the original context keep
their frequency, those that turn less than \`beta-slow\` times are stretched fully; so \`beta-fast\` is the larger one.`,
    model('attention mha { heads 4  rope 10000 yarn { factor 4  original 32  beta-fast 1  beta-slow 32 } }  depth 2  ffn swiglu 64'),
    model('attention mha { heads 4  rope 10000 yarn { factor 4  original 32  beta-fast 32  beta-slow 1 } }  depth 2  ffn swiglu 64'),
  ),
  MOE3050: withExamples(
    'a group size of quantised experts that is not stored',
    `Quantised experts are stored in groups of 32 values along the depth, each group with a scale. \`group 32\` may be written or left out.`,
    quantised('group 64', 64),
    quantised('group 32', 64),
  ),
  MOE3051: withExamples(
    'a depth that groups do not divide',
    `The rows of quantised experts are cut into groups of 32 weights. Gate and up matrices are as deep as \`hidden\`, down matrices as
the width of an expert (or of the shared experts together); both must be multiples of 32.`,
    quantised('', 48),
    quantised('', 64),
  ),
};
