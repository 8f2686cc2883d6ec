/** Small specs to begin with: `moec init --template NAME`. */
export const TEMPLATES: ReadonlyMap<string, string> = new Map([
  [
    'deepseekmoe',
    `// A small DeepSeekMoE: fine-grained experts, one dense layer first, shared experts that always run
model my_deepseekmoe {
  vocab 32000
  hidden 512
  context 2048
  attention mha { heads 8 x 64  rope 10000 }
  layer 0 { ffn swiglu 1408 }
  layers 1..7 {
    moe {
      experts 64 of swiglu 176  // routed experts; shared ones are not counted
      active 6  // of them, for each token
      shared 2  // and these for every token
      router softmax top-k  // add \`renormalize\` to make the weights sum to 1
    }
  }
}
`,
  ],
  [
    'paper',
    `// DeepSeekMoE in the paper's notation: N standard experts cut into m parts each, mK of them run, Ks are shared
model my_segmented_moe {
  vocab 32000
  hidden 512
  context 2048
  depth 8
  attention mha { heads 8 x 64  rope 10000 }
  moe {
    segment m 4 of N 16 of swiglu 1408  // 64 experts of width 352
    active K 2  // 8 run,
    shared Ks 1  // 1 of them always: 7 of 63 are routed
    router softmax top-k
  }
}
`,
  ],
  [
    'deepseek-v3',
    `// The router and the attention of DeepSeek-V3, small
model my_v3 {
  vocab 32000
  hidden 512
  context 4096
  attention mla { heads 8  q-lora 192  kv-lora 128  nope 64  value 64  rope 10000 dim 32 }
  layer 0 { ffn swiglu 1408 }
  layers 1..7 {
    moe {
      experts 64 of swiglu 176  active 8  shared 1
      router sigmoid selection-bias groups 8 keep 4 by top2-sum top-k renormalize add 1e-20
        scale 2.5
    }
  }
}
`,
  ],
  [
    'mixtral',
    `// A small Mixtral: few large experts, grouped-query attention, weights that sum to 1
model my_mixtral {
  vocab 32000
  hidden 512
  context 4096
  depth 8
  attention gqa { heads 8 x 64  kv 2  rope 1000000 }
  moe {
    experts 8 of swiglu 1792
    active 2
    router softmax top-k renormalize
  }
}
`,
  ],
  [
    'switch',
    `// One Switch layer: the best expert, times its probability; an expert drops what exceeds 1.25 of its even share
layer my_switch {
  hidden 512
  moe {
    experts 8 of mlp relu 2048
    active 1
    router softmax top-k
    capacity factor 1.25
  }
}
`,
  ],
  [
    'gshard',
    `// One GShard layer: the best two experts, weights normalised before tokens are dropped
layer my_gshard {
  hidden 512
  moe {
    experts 16 of mlp relu 2048
    active 2
    router softmax top-k
    capacity factor 1 min 4 renormalize before
  }
}
`,
  ],
  [
    'hash',
    `// One hash layer: a table that comes with the weights says which expert a token id goes to
layer my_hash_layer {
  hidden 512
  vocab 32000
  moe {
    experts 16 of mlp relu 2048
    router hash table "hash_table"
  }
}
`,
  ],
  [
    'dense',
    `// A dense model, to compare mixtures with
model my_dense {
  vocab 32000
  hidden 512
  context 2048
  depth 8
  attention mha { heads 8 x 64  rope 10000 }
  ffn swiglu 1408
}
`,
  ],
  [
    'layer',
    `// One mixture-of-experts layer alone: y = shared(x) + Σ weight · expert(x)
layer my_layer {
  hidden 512
  moe {
    experts 64 of swiglu 176
    active 6
    shared 2
    router softmax top-k
  }
}
`,
  ],
]);
