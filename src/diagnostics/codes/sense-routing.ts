/** Codes 3xxx about counting experts and routing tokens. */
import { type CodeTable, withExamples } from './page.ts';

const layer = (moe: string, head = 'hidden 32'): string => `layer tiny {\n  ${head}\n  moe { ${moe} }\n}`;

export const routing: CodeTable = {
  MOE3001: withExamples(
    'more active experts than experts',
    `Every token picks \`active\` different experts out of the routed ones, so there must be at least that many. Shared experts do not
count: they always run and are not picked.`,
    layer('experts 6 of swiglu 16  active 8'),
    layer('experts 8 of swiglu 16  active 6'),
  ),
  MOE3002: withExamples(
    'groups of unequal size',
    `Group-limited routing cuts the routed experts into runs of consecutive experts of one size (the experts of one device or node).`,
    layer('experts 16 of swiglu 16  active 4  router sigmoid groups 3 keep 2 by max'),
    layer('experts 16 of swiglu 16  active 4  router sigmoid groups 4 keep 2 by max'),
  ),
  MOE3003: withExamples(
    'more groups kept than there are',
    `Each token keeps the best \`keep\` groups and picks its experts from those.`,
    layer('experts 16 of swiglu 16  active 4  router sigmoid groups 4 keep 5 by max'),
    layer('experts 16 of swiglu 16  active 4  router sigmoid groups 4 keep 2 by max'),
  ),
  MOE3004: withExamples(
    'kept groups with too few experts',
    `Experts outside the kept groups cannot be picked, so the kept groups must hold at least \`active\` experts.`,
    layer('experts 16 of swiglu 16  active 6  router sigmoid groups 8 keep 2 by max'),
    layer('experts 16 of swiglu 16  active 4  router sigmoid groups 8 keep 2 by max'),
  ),
  MOE3005: withExamples(
    'groups too small for the sum of two',
    `\`by top2-sum\` scores a group by its two best experts (DeepSeek-V3), so a group has at least two. \`by max\` takes the best one
(DeepSeek-V2).`,
    layer('experts 8 of swiglu 16  active 2  router sigmoid groups 8 keep 4 by top2-sum'),
    layer('experts 8 of swiglu 16  active 2  router sigmoid groups 4 keep 2 by top2-sum'),
  ),
  MOE3006: withExamples(
    'nothing is left to route',
    `In the paper's counting shared experts are among the mN experts and among the mK active ones: mN − Ks experts are routed and
mK − Ks of them run. Both must be at least 1. (Released models count the other way: "64 routed, 6 active, 2 shared" are 66 experts.)`,
    layer('segment m 2 of N 8 into swiglu 16  active K 1  shared Ks 2'),
    layer('segment m 2 of N 8 into swiglu 16  active K 2  shared Ks 2'),
  ),
  MOE3007: withExamples(
    'a width that cannot be cut',
    `\`segment m 4 of N 16 of swiglu W\` cuts standard experts of width W into four of width W/4. Where W/4 is no whole number, round W,
or give the width of the fine experts with \`into\`.`,
    layer('segment m 4 of N 4 of swiglu 90  active K 2'),
    layer('segment m 4 of N 4 of swiglu 88  active K 2'),
  ),
  MOE3030: withExamples(
    'a hash router without a vocabulary',
    `A hash router looks up the token's id in a table with one row for each id, so the layer must know how many ids there are.`,
    layer('experts 8 of mlp relu 16  router hash table "hash_table"'),
    layer('experts 8 of mlp relu 16  router hash table "hash_table"', 'hidden 32  vocab 1000'),
  ),
  MOE3031: withExamples(
    'a hash router whose scores do not fit its weights',
    `A plain hash layer has no router matrix: the table chooses and the weight is 1. With a score (\`router softmax hash table …\`) the
table still chooses, and the router matrix gives the weights. One without the other has no meaning.`,
    layer('experts 8 of mlp relu 16  router hash table "hash_table" weights scores', 'hidden 32  vocab 1000'),
    layer('experts 8 of mlp relu 16  router softmax hash table "hash_table" weights scores', 'hidden 32  vocab 1000'),
  ),
  MOE3032: withExamples(
    'sparse-mixer with another number of experts',
    `SparseMixer-2 is defined by a first choice and a second one made without it: two active experts, no more and no fewer.`,
    layer('experts 8 of swiglu 16  active 3  router sparse-mixer'),
    layer('experts 8 of swiglu 16  active 2  router sparse-mixer'),
  ),
  MOE3033: withExamples(
    'expert choice in a model that generates',
    `With expert choice an expert takes its best tokens of a whole sequence, so whether it takes a token depends on later ones. That
suits encoders and single layers; a decoder would see the future in one long call and not when it generates.`,
    `model m {
  vocab 64  hidden 32  context 128  depth 2  attention mha { heads 4 }
  moe { experts 8 of swiglu 16  router softmax expert-choice factor 2 }
}`,
    `model m {
  vocab 64  hidden 32  context 128  depth 2  attention mha { heads 4 }
  moe { experts 8 of swiglu 16  active 2  router softmax top-k }
}`,
  ),
  MOE3034: withExamples(
    'experts that would take more than all tokens',
    `Each expert takes tokens · factor / experts tokens. At a factor equal to the number of experts it takes all of them.`,
    layer('experts 4 of swiglu 16  router softmax expert-choice factor 5'),
    layer('experts 4 of swiglu 16  router softmax expert-choice factor 2'),
  ),
  MOE3036: withExamples(
    'renormalisation in two places',
    `Weights may be renormalised before tokens are dropped (GShard: a dropped half is lost) or after (fairseq: what is kept sums to 1).
The results differ, so with a \`capacity\` only the capacity says it.`,
    layer('experts 4 of swiglu 16  active 2  router softmax top-k renormalize  capacity 8'),
    layer('experts 4 of swiglu 16  active 2  router softmax top-k  capacity 8 renormalize before'),
  ),
  MOE3037: withExamples(
    'a renormalisation without effect',
    `Weights that already sum to 1 (\`weights softmax\`) stay as they are; the single weight of one active expert becomes 1, and the
router no longer weighs anything. Switch multiplies by the probability itself, without renormalising.`,
    layer('experts 4 of swiglu 16  active 1  router softmax top-k renormalize'),
    layer('experts 4 of swiglu 16  active 1  router softmax top-k'),
  ),
  MOE3039: withExamples(
    'a router without scores',
    `\`none\` means that there is no router matrix. Then a hash table must say which expert a token goes to.`,
    layer('experts 4 of swiglu 16  active 1  router none top-k'),
    layer('experts 4 of swiglu 16  router none hash table "hash_table"', 'hidden 32  vocab 100'),
  ),
  MOE3042: withExamples(
    'shared and routed experts are clamped differently',
    `Models that clamp the values inside their experts do so in routed and shared ones alike. A clamp that is missing in one of them
changes results only for large activations, which tests with small random inputs do not show.`,
    layer('experts 8 of swiglu 16 clamp 7  active 2  shared 1 of swiglu 16'),
    layer('experts 8 of swiglu 16 clamp 7  active 2  shared 1 of swiglu 16 clamp 7'),
  ),
  MOE3047: withExamples(
    'token dropping in a model that generates',
    `A capacity counts the tokens of one call. When a model generates token by token every call is short, so tokens are kept that one
long call would have dropped. Published models drop tokens in training only.`,
    `model m {
  vocab 64  hidden 32  context 128  depth 2  attention mha { heads 4 }
  moe { experts 4 of mlp relu 64  active 1  capacity factor 1.25 }
}`,
    `model m {
  vocab 64  hidden 32  context 128  depth 2  attention mha { heads 4 }
  moe { experts 4 of mlp relu 64  active 1 }
}`,
  ),
  MOE3048: withExamples(
    'a promise that this router cannot keep',
    `\`deterministic batch\` promises that a token's result does not depend on the other tokens of a call. Capacities and expert choice
make it depend on them by definition. \`deterministic run\` (equal calls give equal bits) holds for every spec.`,
    layer('experts 4 of mlp relu 64  active 1  capacity 8', 'hidden 32  deterministic batch'),
    layer('experts 4 of mlp relu 64  active 1  capacity 8', 'hidden 32  deterministic run'),
  ),
};
